"""A way to a port on which what a client says may arrive late, when the client has left already."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio


class Delayer:
    """Passes connections to a port on."""

    def __init__(self, port: int, to_port: int) -> None:
        self.port = port
        self.delaying = False
        """Whether what clients say is kept until it is delivered."""
        self.kept: list[tuple[trio.SocketStream, bytes]] = []
        self._to_port = to_port
        self._delivered = trio.Event()
        self._answered = trio.Event()

    async def deliver(self) -> None:
        """Pass on what is kept, and wait for an answer to it."""
        self.delaying = False
        self._answered = trio.Event()
        for server, data in self.kept:
            await server.send_all(data)
        with trio.fail_after(5):
            await self._answered.wait()
        self._delivered.set()

    async def pass_on(self, client: trio.SocketStream) -> None:
        """Serve one connection."""
        server = await trio.open_tcp_stream("127.0.0.1", self._to_port)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._to_client, server, client)
            await self._to_server(client, server)
            if any(each is server for each, _ in self.kept):
                await self._delivered.wait()
            nursery.cancel_scope.cancel()

    async def _to_server(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in client:
                if self.delaying:
                    self.kept.append((server, bytes(data)))
                else:
                    await server.send_all(data)

    async def _to_client(self, server: trio.SocketStream, client: trio.SocketStream) -> None:
        async for data in server:
            self._answered.set()
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await client.send_all(data)


@asynccontextmanager
async def delaying(to_port: int) -> AsyncIterator[Delayer]:
    """Run one for as long as the block lasts."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    delayer = Delayer(int(listener.socket.getsockname()[1]), to_port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, delayer.pass_on, [listener])
        yield delayer
        nursery.cancel_scope.cancel()
