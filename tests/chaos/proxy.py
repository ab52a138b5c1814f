"""A way to a port that can go dead, as a network does that drops packets: nobody is told, nothing arrives."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import attrs
import trio

from cpg_trio._cell import Cell

_METHOD = re.compile(rb"^POST /\S*/(\w+) HTTP/1.1\r$", re.MULTILINE)


@attrs.define
class _Link:
    """One connection: the client's end, and the one to the port."""

    client: trio.SocketStream
    server: trio.SocketStream
    dead: bool = False
    left_by_server: bool = False


@attrs.define
class Proxy:
    """Passes connections to `url` on to `port`, both of this machine."""

    url: str
    port: int = 0
    mute: bool = False
    """Whether what the port answers is swallowed."""
    _links: list[_Link] = attrs.field(factory=list)
    _methods: Cell[frozenset[bytes]] = attrs.field(factory=lambda: Cell(frozenset()))

    def go_dead(self) -> int:
        """Swallow what the connections of now say from now on, both ways, and their ends.

        New ones are passed on as before. Return how many went dead.
        """
        self._methods.set(frozenset())
        for link in self._links:
            link.dead = True
        return len(self._links)

    async def left_over(self) -> int:
        """Return how many dead connections the server still has."""
        return sum(link.dead and not link.left_by_server for link in self._links)

    async def wait_passed_on(self, method: bytes) -> None:
        """Wait until a call of a method has been passed on since connections went dead."""
        async for methods in self._methods.reader():
            if method in methods:
                return

    async def pass_on(self, client: trio.SocketStream) -> None:
        """Serve one connection."""
        async with client, await trio.open_tcp_stream("127.0.0.1", self.port) as server:
            link = _Link(client, server)
            self._links.append(link)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._to_server, link)
                await self._to_client(link)
                if link.dead:
                    link.left_by_server = True
                    await trio.sleep_forever()  # the client is not told
                nursery.cancel_scope.cancel()
            self._links.remove(link)

    async def _to_server(self, link: _Link) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in link.client:
                if not link.dead:
                    self._methods.set(self._methods.value.union(_METHOD.findall(data)))
                    await link.server.send_all(data)
            if not link.dead:
                await link.server.send_eof()

    async def _to_client(self, link: _Link) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in link.server:
                if not (link.dead or self.mute):
                    await link.client.send_all(data)


@asynccontextmanager
async def proxying() -> AsyncIterator[Proxy]:
    """Run a proxy for as long as the block lasts."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = Proxy(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.pass_on, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
