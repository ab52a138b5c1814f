"""A way between two parts that can be cut: all is reset, or nothing arrives any more."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count

import trio

_LINGER = struct.pack("ii", 1, 0)  # a close is a RST


class Gate:
    """Passes connections on to one of several addresses in turn: so it is a balancer by connection.

    `targets` are asked for each connection. An address that refuses is passed over for the next one.
    """

    def __init__(self, port: int, targets: Callable[[], list[tuple[str, int]]]) -> None:
        self.port = port
        self._targets = targets
        self._turns = count()
        self._open: set[trio.CancelScope] = set()
        self._healed = trio.Event()
        self._healed.set()
        self.is_silent = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self, *, silent: bool = False) -> None:
        """Pass nothing on any more. Unless it is `silent`, what is open is reset, and what comes as well."""
        self.is_silent = silent
        self._healed = trio.Event()
        if not silent:
            for scope in list(self._open):
                scope.cancel()

    def heal(self) -> None:
        """Pass on again what comes; what was open and silent is reset."""
        for scope in list(self._open):
            scope.cancel()
        self._healed.set()

    async def pass_on(self, client: trio.SocketStream) -> None:
        """Serve one connection."""
        with trio.CancelScope() as scope:
            self._open.add(scope)
            try:
                await self._connect(client)
            finally:
                self._open.discard(scope)
                with suppress(OSError):
                    if scope.cancel_called:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                await trio.aclose_forcefully(client)

    async def _connect(self, client: trio.SocketStream) -> None:
        if not self._healed.is_set():
            if self.is_silent:
                await trio.sleep_forever()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            return
        targets = self._targets()
        first = next(self._turns)
        for number in range(len(targets)):
            host, port = targets[(first + number) % len(targets)]
            try:
                server = await trio.open_tcp_stream(host, port)
            except OSError:
                continue
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, client, server)
                await self._copy(server, client)
                nursery.cancel_scope.cancel()
            return

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await self._healed.wait()
                await sink.send_all(data)
            await self._healed.wait()
            await sink.send_eof()


@asynccontextmanager
async def gate(targets: Callable[[], list[tuple[str, int]]]) -> AsyncIterator[Gate]:
    """Run a gate for a block."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    it = Gate(listener.socket.getsockname()[1], targets)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, it.pass_on, [listener])
        yield it
        nursery.cancel_scope.cancel()
