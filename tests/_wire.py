"""Clients that say exactly what a test wants said: HTTP/1.1, HTTP/2 and WebSocket on a plain socket."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import attrs
import h2.config
import h2.connection
import h2.events
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Message

E = TypeVar("E")


@attrs.frozen
class Response:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = attrs.Factory(list)

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)


class Wire:
    """An HTTP/1.1 client that sends bytes and parses responses."""

    def __init__(self, stream: WireStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def get(self, path: str = "/", headers: Mapping[str, str] | None = None) -> Response:
        await self.send(request("GET", path, headers))
        return await self.response()

    async def response(self, *, head_only: bool = False) -> Response:
        response = await self.head()
        if head_only or response.status in {100, 101, 204, 304}:
            return response
        body, trailers = await self._body(response)
        return attrs.evolve(response, body=body, trailers=trailers)

    async def head(self) -> Response:
        status, headers = _parse((await self.until(b"\r\n\r\n"))[:-4])
        return Response(int(status.split(b" ")[1]), headers)

    async def until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._buffer += await self._some()
        found, _, self._buffer = self._buffer.partition(end)
        return found + end

    async def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += await self._some()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    async def rest(self) -> bytes:
        """Everything up to the end of the connection, however it ends."""
        try:
            while data := await self.stream.receive_some():
                self._buffer += data
        except trio.BrokenResourceError:
            self._buffer += b"<reset>"
        data, self._buffer = self._buffer, b""
        return data

    async def some(self) -> bytes:
        """What has come already, or comes next."""
        data, self._buffer = self._buffer, b""
        return data or await self._some()

    async def _some(self) -> bytes:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError(self._buffer)
        return bytes(data)

    async def _body(self, response: Response) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        length = response.header(b"content-length")
        if length is not None:
            return await self.exactly(int(length)), []
        if response.header(b"transfer-encoding") is None:
            return await self.rest(), []
        body = b""
        while size := int((await self.until(b"\r\n")), 16):
            body += (await self.exactly(size + 2))[:-2]
        trailers = b""
        while (line := await self.until(b"\r\n")) != b"\r\n":
            trailers += line
        return body, _parse(b"\r\n" + trailers)[1]


def request(
    method: str = "GET", path: str = "/", headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _parse(head: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    first, *lines = head.split(b"\r\n")
    pairs = (line.partition(b":") for line in lines if line)
    return first, [(name.lower(), value.strip()) for name, _, value in pairs]


TRUST: list[ssl.SSLContext] = []
"""What connections to https URLs are made with: the last of them."""


def trusted() -> ssl.SSLContext | bool:
    """Return what a client of httpx is to verify servers with."""
    return TRUST[-1] if TRUST else True


WireStream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]


async def connect(url: str, *, receive_buffer: int | None = None, address: str = "") -> WireStream:
    """Connect to what `serve` reports, from an address if there is one.

    `receive_buffer` bytes make a client that is soon full.
    """
    if url.startswith("unix:"):
        return await trio.open_unix_socket(url.removeprefix("unix:"))
    scheme, _, authority = url.partition("://")
    host, _, port = authority.rpartition(":")
    stream = await _connect_tcp(host, port, receive_buffer, address)
    if scheme == "http":
        return stream
    tls = trio.SSLStream(stream, TRUST[-1], server_hostname=host.strip("[]"))
    try:
        await tls.do_handshake()
    except BaseException:
        stream.socket.close()
        raise
    return tls


async def _connect_tcp(host: str, port: str, receive_buffer: int | None, address: str) -> trio.SocketStream:
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        if address:
            await sock.bind((address, 0))
        await sock.connect((host.strip("[]"), int(port)))
    except OSError:
        sock.close()
        raise
    return trio.SocketStream(sock)


@asynccontextmanager
async def _connected(
    url: str, receive_buffer: int | None = None, address: str = ""
) -> AsyncIterator[WireStream]:
    stream = await connect(url, receive_buffer=receive_buffer, address=address)
    try:
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


def socket_of(stream: WireStream) -> trio.socket.SocketType:
    return stream.transport_stream.socket if isinstance(stream, trio.SSLStream) else stream.socket


def reset_at_close(stream: WireStream) -> None:
    """Have the close of a stream be a reset, which may overtake what was sent."""
    socket_of(stream).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def dial(url: str, *, receive_buffer: int | None = None, address: str = "") -> AsyncIterator[Wire]:
    async with _connected(url, receive_buffer, address) as stream:
        yield Wire(stream)


class Http2Wire:
    """An HTTP/2 client with prior knowledge. `h2` is the state; `flush` sends what it wants sent."""

    def __init__(self, stream: WireStream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self.events: list[h2.events.Event] = []
        self._sending = trio.Lock()  # one task may send while another one reads

    async def request(
        self,
        path: str = "/",
        *headers: tuple[str, str],
        body: bytes | None = None,
        method: str = "GET",
        authority: str = "localhost",
    ) -> int:
        """Begin a request, and end it unless `body` is empty bytes; return its stream."""
        stream_id = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)]
        self.h2.send_headers(stream_id, [*pseudo, *headers], end_stream=body is None)
        await self.flush()
        if body:
            await self.upload(stream_id, body)
            self.h2.end_stream(stream_id)
            await self.flush()
        return stream_id

    async def upload(self, stream_id: int, data: bytes, *, pieces_of: int = 16384) -> None:
        """Send data as the windows allow."""
        while data:
            size = min(len(data), pieces_of, self.h2.local_flow_control_window(stream_id))
            if size == 0:
                await self.read()
                continue
            self.h2.send_data(stream_id, data[:size])
            data = data[size:]
            await self.flush()

    async def flush(self) -> None:
        async with self._sending:
            await self.stream.send_all(self.h2.data_to_send())

    async def until(self, kind: type[E], stream_id: int | None = None) -> E:
        """Return the next event of a kind (of a stream), after all that came before it."""
        while True:
            for index, event in enumerate(self.events):
                if isinstance(event, kind) and stream_id in {None, getattr(event, "stream_id", None)}:
                    del self.events[index]
                    return event
            await self.read()

    async def read(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError(self.events)
        self.events += self.h2.receive_data(data)
        await self.flush()

    async def status(self, stream_id: int) -> int:
        headers = (await self.until(h2.events.ResponseReceived, stream_id)).headers
        return int(dict(headers)[b":status"])

    async def response(self, stream_id: int) -> Response:
        """Return a whole response, giving back credit as it comes in."""
        head = (await self.until(h2.events.ResponseReceived, stream_id)).headers
        headers, body, trailers = [(bytes(name), bytes(value)) for name, value in head], b"", []
        while True:
            event: Any = await self.until(h2.events.Event, stream_id)
            if isinstance(event, h2.events.DataReceived):
                body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
                await self.flush()
            elif isinstance(event, h2.events.TrailersReceived):
                trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
            elif isinstance(event, h2.events.StreamEnded):
                return Response(int(dict(headers)[b":status"]), headers, body, trailers)
            elif isinstance(event, h2.events.StreamReset):
                raise EOFError(event)  # noqa: TRY004


@asynccontextmanager
async def dial_http2(url: str, *, greets: bool = True) -> AsyncIterator[Http2Wire]:
    """With `greets` the preface goes at once, and otherwise with what follows it."""
    async with _connected(url) as stream:
        wire = Http2Wire(stream)
        wire.h2.initiate_connection()
        if greets:
            await wire.flush()
        yield wire


HANDSHAKE = {
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


class WebSocketWire:
    """A WebSocket client after its handshake."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.ws = Connection(ConnectionType.CLIENT)
        self._events: list[Event] = []

    async def send(self, event: Event) -> None:
        await self.wire.send(self.ws.send(event))

    async def event(self) -> Event:
        while not self._events:
            self.ws.receive_data(await self.wire.some())
            self._events += self.ws.events()
        return self._events.pop(0)

    async def message(self) -> Any:
        event = await self.event()
        assert isinstance(event, Message), event
        return event.data

    async def closed(self) -> int:
        """Return the code that the server closes with, after messages that are still to come."""
        while not isinstance(event := await self.event(), CloseConnection):
            pass
        return int(event.code)


@asynccontextmanager
async def dial_websocket(url: str, path: str = "/") -> AsyncIterator[WebSocketWire]:
    async with dial(url) as wire:
        response = await wire.get(path, HANDSHAKE)
        assert response.status == 101, response
        yield WebSocketWire(wire)


@asynccontextmanager
async def trio_websocket_client(url: str, *subprotocols: str) -> AsyncIterator[WebSocketConnection]:
    """Another's client, on a stream of ours: its own it leaves open when the server closes or refuses."""
    async with _connected(url) as stream, trio.open_nursery() as nursery:
        ws = await wrap_client_stream(nursery, stream, "localhost", "/", subprotocols=subprotocols)
        yield ws
        await ws.aclose()
