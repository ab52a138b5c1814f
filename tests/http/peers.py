"""Raw peers for the HTTP/1.1 client: they read what it writes, and send what a test says."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from cpg_trio.http import Origin, Request
from cpg_trio.http.channel import RECEIVE_BYTES, Channel

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from cpg_trio.asgi import HeaderList
    from cpg_trio.http.reactor import Reactor, Watcher

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BEGUN = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
ORIGIN = Origin("http", "peer.test", 80)


@attrs.define
class Peer:
    """The other end of the client's connection."""

    stream: trio.abc.Stream
    received: bytearray = attrs.field(factory=bytearray)

    async def receive_until(self, end: bytes) -> bytes:
        """Return what the client wrote, up to and with `end`; b"" if it closed before."""
        while end not in self.received:
            data = await self.stream.receive_some()
            if not data:
                return b""
            self.received += data
        index = self.received.index(end) + len(end)
        message = bytes(self.received[:index])
        del self.received[:index]
        return message

    async def receive_head(self) -> bytes:
        return await self.receive_until(b"\r\n\r\n")

    async def receive_to_end(self) -> bytes:
        """Return the rest of what the client writes before it closes."""
        try:
            async for data in self.stream:
                self.received += data
        except trio.BrokenResourceError:
            pass  # closed with bytes unread
        return bytes(self.received)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)


class StreamChannel(Channel):
    """A channel over a stream in memory, where every send and every read is a step that a test sees."""

    may_have_more = drained = False

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    @property
    def socket(self) -> socket.socket:
        raise NotImplementedError

    async def receive(self) -> bytes:
        return bytes(await self._stream.receive_some(RECEIVE_BYTES))

    def receive_nowait(self) -> bytes | None:
        return None

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._stream.send_all(data)

    async def send_some(self, data: bytes | memoryview) -> int:
        await self._stream.send_all(data)
        return len(data)

    def send_nowait(self, _data: bytes | memoryview) -> int:
        return 0

    async def wait_readable(self) -> None:
        raise NotImplementedError

    async def wait_writable(self) -> None:
        raise NotImplementedError

    def is_readable(self) -> bool:
        return False

    def watch(self, reactor: Reactor, watcher: Watcher) -> None:
        raise NotImplementedError

    def ignore(self, *, for_good: bool = False) -> None:
        """Nobody is called anyway."""

    def shut_down(self, *, sending_only: bool = False) -> None:
        raise NotImplementedError

    def close(self, *, reset: bool = False) -> None:
        raise NotImplementedError


Handler: TypeAlias = "Callable[[Peer], Awaitable[None]]"


async def answer_ok(peer: Peer) -> None:
    """Answer every request on the connection, for as long as the client keeps it."""
    while await peer.receive_head():
        await peer.send(OK)


SERVED_WITH: list[ssl.SSLContext] = []
"""What peers serve with, if they are told nothing else: the last of them."""


@asynccontextmanager
async def serving(
    handler: Handler, *, ssl_context: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Origin]:
    """Serve `handler` on a port, 0 for one of the system's choice, for as long as the block lasts."""
    if ssl_context is None and SERVED_WITH:
        ssl_context = SERVED_WITH[-1]

    async def accept(stream: trio.SocketStream) -> None:
        connection: trio.abc.Stream = stream
        if ssl_context is not None:
            connection = trio.SSLStream(stream, ssl_context, server_side=True)
        with suppress(trio.BrokenResourceError):  # a client that breaks off is no failure of its peer
            await handler(Peer(connection))
            await connection.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, accept, port, host="127.0.0.1"))
        yield Origin("https" if ssl_context else "http", "127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def url_of(origin: Origin) -> str:
    return f"{origin.scheme}://{origin.host}:{origin.port}"


@asynccontextmanager
async def at_socket(path: str, handler: Handler) -> AsyncIterator[None]:
    """Serve `handler` at a Unix socket, for as long as the block lasts."""

    async def accept(stream: trio.SocketStream) -> None:
        await handler(Peer(stream))

    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(path)
    listening.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, accept, [trio.SocketListener(listening)])
        yield
        nursery.cancel_scope.cancel()


def get(target: bytes = b"/", *headers: tuple[bytes, bytes]) -> Request:
    return Request(b"GET", target, list(headers))


def chunked(body: AsyncIterator[bytes], *headers: tuple[bytes, bytes], method: bytes = b"POST") -> Request:
    framed: HeaderList = [(b"transfer-encoding", b"chunked"), *headers]
    return Request(method, b"/", framed, body)


def sized(body: AsyncIterator[bytes] | bytes, length: int, *, method: bytes = b"POST") -> Request:
    return Request(method, b"/", [(b"content-length", str(length).encode())], body)


class Script:
    """A peer that treats each of its connections as the next entry says, in the order they are opened.

    An entry lists the answers to a connection's requests; after the last, the connection is closed when
    one more request has been read. `None` closes at once, without reading a further request.
    """

    def __init__(self, *connections: list[bytes | None]) -> None:
        self.connections = list(connections)
        self.requests: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        for answer in self.connections.pop(0):
            if answer is None:
                return
            self.requests.append(await peer.receive_head())
            await peer.send(answer)
        await peer.receive_head()


async def once(*chunks: bytes) -> AsyncGenerator[bytes, None]:
    for chunk in chunks:
        yield chunk


async def echo(peer: Peer) -> None:
    """Answer at once, and send the request's chunks back as they come; each connection for one request."""
    await peer.receive_head()
    await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n" + peer.received)
    async for data in peer.stream:
        await peer.send(bytes(data))
