"""The plugins that run as tasks in the host's own process, and what they call it by. No socket is needed.

    a plugin ──▶ LocalPlugin.http ──▶ the host: its services, its router, /watch
    the host ──▶ `LocalPlugins.find` ──▶ the plugin's application, each call a task of the plugin's

A plugin has a URL here (`task://storage-3f2a...`) which nothing else understands: no client can connect to
it, and the host takes it from nobody but the plugin whose it is. Who calls in memory is known by an object in
the call's scope, which no server that listens on an address puts there.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from cpg_trio.asgi import FROM_HOST, LOCAL, App, Receive, Scope, Send
from cpg_trio.host.access import Identity
from cpg_trio.http import ConnectFailedError
from cpg_trio.rpc import Fault
from cpg_trio.rpc.app_client import AppClient
from cpg_trio.rpc.app_server import AppServer, serving_app

_SCHEME = "task://"


def is_local(url: str) -> bool:
    """Whether a URL is that of a plugin in its host's process, of this host or of another one."""
    return url.startswith(_SCHEME)


class LocalPlugin:
    """One run of a plugin in the host's process. It is the `LocalHost` that the plugin is given."""

    def __init__(self, plugins: LocalPlugins, name: str) -> None:
        self.name = name
        self.http = AppClient(plugins.call_host, {LOCAL: self}, Fault.HOST)
        """Calls the host as this plugin."""
        self.shared = plugins.shared
        """See `rpc.LocalHost`."""
        self._plugins = plugins
        self._urls: set[str] = set()

    @asynccontextmanager
    async def serving(self, app: App) -> AsyncIterator[str]:
        """See `rpc.LocalHost`."""
        async with self._plugins.serving(self.name, app) as url:
            self._urls.add(url)
            yield url

    def owns(self, url: str) -> bool:
        """Whether a URL is that of an application of this run's, or was."""
        return url in self._urls

    def serves(self, url: str) -> bool:
        """Whether the application at a URL is served."""
        return self._plugins.find(url) is not None


class LocalPlugins:
    """All of them, by their URLs."""

    def __init__(self, *, shared: bool = False) -> None:
        """Begin without any. `shared` is whether other hosts have the same directory."""
        self.shared = shared
        self._served: dict[str, AppServer] = {}
        self._host: App | None = None

    def at(self, name: str) -> LocalPlugin:
        """Return the host for one run of a plugin of this name."""
        return LocalPlugin(self, name)

    def find(self, url: str) -> AppServer | None:
        """Return the application at a URL, None if there is none any more."""
        return self._served.get(url)

    def client(self, caller: Identity) -> AppClient:
        """Return what calls the host as somebody whom this process knows, and who may call."""
        return AppClient(self.call_host, {LOCAL: caller}, Fault.HOST)

    def control(self, url: str) -> AppClient:
        """Return what calls the application at a URL as the host."""

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            if (server := self.find(url)) is None:
                raise ConnectFailedError("its task has ended")
            await server(scope, receive, send)

        return AppClient(call, {LOCAL: FROM_HOST})

    @contextmanager
    def reaching(self, host: App) -> Iterator[None]:
        """Within the block, plugins reach the host at this application."""
        self._host = host
        try:
            yield
        finally:
            self._host = None

    async def call_host(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the host. An ASGI application. Raises: ConnectFailedError while it does not serve."""
        if (host := self._host) is None:
            raise ConnectFailedError("the host does not serve")
        await host(scope, receive, send)

    @asynccontextmanager
    async def serving(self, name: str, app: App) -> AsyncIterator[str]:
        """See `LocalHost.serving`."""
        url = f"{_SCHEME}{name}-{secrets.token_hex(4)}"
        async with serving_app(app, name) as server:
            self._served[url] = server
            try:
                yield url
            finally:
                del self._served[url]
