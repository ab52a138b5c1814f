"""Which application answers a request, by its path."""

from __future__ import annotations

from collections.abc import Mapping

from cpg_trio.asgi import App, Receive, Scope, Send, no_websocket


class Dispatch:
    """An ASGI application that hands each request on to the one that its path belongs to."""

    def __init__(
        self,
        *,
        websockets: Mapping[str, App],
        prefixes: Mapping[bytes, App],
        paths: Mapping[str, App],
        others: App,
    ) -> None:
        """Take an application for each path of websockets, prefix of other paths, and other path."""
        self._websockets = websockets
        self._prefixes = tuple(prefixes.items())
        self._paths = paths
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope)(scope, receive, send)

    def _app(self, scope: Scope) -> App:
        if scope["type"] == "websocket":
            return self._websockets.get(scope["path"], no_websocket)
        for prefix, app in self._prefixes:
            if scope["raw_path"].startswith(prefix):
                return app
        return self._paths.get(scope["path"], self._others)
