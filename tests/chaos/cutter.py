"""A way to a server that cuts connections, each after so many bytes, or all now. Both ends get a RST.

A plugin is behind one if it has another loopback address for a name than the one that it listens at.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import attrs
import trio

BEHIND = "127.0.0.2"  # the address of the cutters; what is behind them listens at 127.0.0.1
_LINGER = struct.pack("ii", 1, 0)  # a close is a RST


@attrs.define
class Cutter:
    """Passes connections to a port on, and cuts them. The bounds count from when they are set."""

    port: int
    after_requests: int | None = None
    """The bytes of requests that a connection passes on before it is cut; None: it is not."""
    after_responses: int | None = None
    """The same of responses. 0: the server has all of the request, and nothing of its answer arrives."""
    cuts: int = 0
    connections: int = 0
    """All that there have been."""
    _open: set[_Link] = attrs.field(factory=set)

    def cut_all(self) -> int:
        """Cut what is open now; return how many connections that is."""
        links = list(self._open)
        for link in links:
            link.cut()
        return len(links)

    def bound(self, *, requests: int | None = None, responses: int | None = None) -> None:
        """Cut each connection after so many more bytes."""
        self.after_requests, self.after_responses = requests, responses
        for link in self._open:
            link.requests, link.responses = requests, responses

    async def pass_on(self, client: trio.SocketStream) -> None:
        """Serve one connection."""
        self.connections += 1
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            await client.aclose()
            return
        link = _Link(self, client, server, self.after_requests, self.after_responses)
        self._open.add(link)
        try:
            async with client, server, trio.open_nursery() as nursery:
                link.scope = nursery.cancel_scope
                nursery.start_soon(link.to_server)
                await link.to_client()
                nursery.cancel_scope.cancel()
        finally:
            self._open.remove(link)


@attrs.define(eq=False)
class _Link:
    cutter: Cutter
    client: trio.SocketStream
    server: trio.SocketStream
    requests: int | None
    responses: int | None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def cut(self) -> None:
        self.cutter.cuts += 1
        for stream in (self.client, self.server):
            with suppress(OSError):  # it has closed already
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        self.scope.cancel()

    async def to_server(self) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in self.client:
                left = self.requests
                passed = data[:left]
                if left is not None:
                    self.requests = left - len(passed)
                if passed:
                    await self.server.send_all(passed)
                if left is not None and left == len(passed):
                    self.cut()
            await self.server.send_eof()

    async def to_client(self) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in self.server:
                left = self.responses
                passed = data[:left]
                if left is not None:
                    self.responses = left - len(passed)
                if passed:
                    await self.client.send_all(passed)
                if left is not None and left == len(passed):
                    self.cut()


@asynccontextmanager
async def cutting() -> AsyncIterator[Cutter]:
    """Run a cutter for a block, at a free port of `BEHIND`, in front of the same port of 127.0.0.1."""
    (listener,) = await trio.open_tcp_listeners(0, host=BEHIND)
    cutter = Cutter(listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, cutter.pass_on, [listener])
        yield cutter
        nursery.cancel_scope.cancel()
