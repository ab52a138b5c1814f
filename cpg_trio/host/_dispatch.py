"""Which application answers a request, by its path. The relay takes routed calls before."""

from __future__ import annotations

import attrs

from cpg_trio import wire
from cpg_trio.asgi import App, Receive, Scope, Send, no_websocket
from cpg_trio.host.capabilities.calls import PREFIX as CAPABILITIES
from cpg_trio.host.routing import RouterApp
from cpg_trio.probes import PATHS as PROBES
from cpg_trio.rpc.app_server import AppServer


@attrs.frozen
class Dispatch:
    """An ASGI application that hands each request on to one of several."""

    watch: App
    capabilities: App
    probes: App
    services: App

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        app = self.services
        if scope["type"] == "websocket":
            app = self.watch if scope["path"] == wire.WATCH_PATH else no_websocket
        elif scope["raw_path"].startswith(CAPABILITIES):
            app = self.capabilities
        elif scope["path"] in PROBES:
            app = self.probes
        await app(scope, receive, send)


@attrs.frozen
class LocalDispatch:
    """The same for callers in this process: also of routed calls, and each other one a task of the host's."""

    router: RouterApp
    services: AppServer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        is_routed = scope["type"] == "http" and self.router.claims(scope["raw_path"])
        await (self.router if is_routed else self.services)(scope, receive, send)
