"""The server's drivers, and one client for all of them, so that a test states a behaviour once.

The HTTP/1.1 client is h11, which is strict, and the HTTP/2 client is h2. A `Call` is one request and its
response, whatever the protocol; `CutError` says that the response broke off, and that the client can see it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import attrs
import h2.config
import h2.connection
import h2.errors
import h2.events
import h11
import trio

from cpg_trio.asgi import App
from cpg_trio.http import ServeConfig, serve
from cpg_trio.http.server.config import Http1Engine
from tests._wire import WireStream, connect

Fields: TypeAlias = list[tuple[bytes, bytes]]
_PIECE = 16_384


class CutError(Exception):
    """The response broke off before its end, in a way that its client sees. `body` is what came of it."""

    def __init__(self, body: bytes = b"") -> None:
        super().__init__(body)
        self.body = body


@attrs.frozen
class Response:
    """A response; without its body if it has not been read."""

    status: int
    fields: Fields
    body: bytes = b""
    trailers: Fields = attrs.field(factory=list)

    def field(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.fields if key == name), None)


class Call(ABC):
    """One request and its response."""

    trailers: Fields

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Send a part of the request's body."""

    @abstractmethod
    async def end(self) -> None:
        """End the request's body."""

    @abstractmethod
    async def head(self) -> Response:
        """Return the response's head. Raises: CutError."""

    @abstractmethod
    async def part(self) -> bytes:
        """Return the next part of the response's body, b"" at its end. Raises: CutError."""

    @abstractmethod
    async def leave(self) -> None:
        """Give the call up: by the end of the connection, or of the stream."""

    async def response(self) -> Response:
        """Return the whole response. Raises: CutError."""
        head, body = await self.head(), b""
        while part := await self._part_behind(body):
            body += part
        return attrs.evolve(head, body=body, trailers=self.trailers)

    async def _part_behind(self, body: bytes) -> bytes:
        try:
            return await self.part()
        except CutError as cut:
            raise CutError(body + cut.body) from None


class Peer(ABC):
    """One connection of a client."""

    def __init__(self, stream: WireStream) -> None:
        self.stream = stream

    @abstractmethod
    async def start(self) -> None:
        """Begin to speak the protocol."""

    @abstractmethod
    async def begin(
        self, method: str, path: str, *fields: tuple[str, str], length: int | None = None
    ) -> Call:
        """Begin a request whose body is to come: of a declared length, or as long as it takes."""

    @abstractmethod
    async def ask(self, method: str, path: str, *fields: tuple[str, str]) -> Call:
        """Send a request without a body."""

    @abstractmethod
    async def closed(self) -> bytes:
        """Wait until the server has ended the connection; return what came after all responses."""

    async def call(
        self, path: str = "/", *fields: tuple[str, str], method: str = "GET", body: bytes = b""
    ) -> Response:
        """Send a whole request, and return the response."""
        if not body:
            return await (await self.ask(method, path, *fields)).response()
        call = await self.begin(method, path, *fields, length=len(body))
        async with trio.open_nursery() as nursery:  # the server may answer before it has all
            nursery.start_soon(_send_all, call, body)
            return await call.response()

    async def leave(self) -> None:
        """End the connection."""
        await trio.aclose_forcefully(self.stream)


async def _send_all(call: Call, body: bytes) -> None:
    await call.send(body)
    await call.end()


class Http1Peer(Peer):
    """A connection of HTTP/1.1."""

    def __init__(self, stream: WireStream) -> None:
        super().__init__(stream)
        self.state = h11.Connection(h11.CLIENT, 2**20)

    async def start(self) -> None:
        pass

    async def begin(
        self, method: str, path: str, *fields: tuple[str, str], length: int | None = None
    ) -> Call:
        framing = ("transfer-encoding", "chunked") if length is None else ("content-length", str(length))
        return await self._begin(method, path, [*fields, framing])

    async def ask(self, method: str, path: str, *fields: tuple[str, str]) -> Call:
        call = await self._begin(method, path, list(fields))
        await call.end()
        return call

    async def _begin(self, method: str, path: str, fields: list[tuple[str, str]]) -> Http1Call:
        if self.state.our_state is h11.DONE:
            self.state.start_next_cycle()
        head = h11.Request(method=method, target=path, headers=[("host", "localhost"), *fields])
        await self.send(head)
        return Http1Call(self)

    async def send(self, event: h11.Event) -> None:
        if data := self.state.send(event):
            await self.stream.send_all(data)

    async def event(self) -> Any:
        """Return the next event. Raises: CutError."""
        try:
            while (event := self.state.next_event()) is h11.NEED_DATA:
                self.state.receive_data(bytes(await self.stream.receive_some()))
        except (h11.RemoteProtocolError, trio.BrokenResourceError):
            raise CutError from None
        if isinstance(event, h11.ConnectionClosed):
            raise CutError
        return event

    async def closed(self) -> bytes:
        left = self.state.trailing_data[0]
        try:
            async for data in self.stream:
                left += data
        except trio.BrokenResourceError:
            pass
        return left


class Http1Call(Call):
    def __init__(self, peer: Http1Peer) -> None:
        self.peer = peer
        self.trailers: Fields = []

    async def send(self, data: bytes) -> None:
        await self.peer.send(h11.Data(data=data))

    async def end(self) -> None:
        await self.peer.send(h11.EndOfMessage())

    async def head(self) -> Response:
        event = await self.peer.event()
        while isinstance(event, h11.InformationalResponse):
            event = await self.peer.event()
        assert isinstance(event, h11.Response), event
        return Response(event.status_code, list(event.headers))

    async def part(self) -> bytes:
        event = await self.peer.event()
        while isinstance(event, h11.Data):
            if event.data:
                return bytes(event.data)
            event = await self.peer.event()
        assert isinstance(event, h11.EndOfMessage), event
        self.trailers = list(event.headers)
        return b""

    async def leave(self) -> None:
        await self.peer.leave()


class _H2Client(h2.connection.H2Connection):
    """A client that goes on with the streams in flight after a GOAWAY, which h2's own does not."""

    def __init__(self) -> None:
        super().__init__(h2.config.H2Configuration(header_encoding=None))

    def _receive_goaway_frame(self, _frame: Any) -> tuple[list[Any], list[Any]]:
        return [], []


class Http2Peer(Peer):
    """A connection of HTTP/2, with prior knowledge."""

    def __init__(self, stream: WireStream) -> None:
        super().__init__(stream)
        self.state = _H2Client()
        self.events: list[Any] = []
        self._sending = trio.Lock()
        self._reading = trio.Lock()

    async def start(self) -> None:
        self.state.initiate_connection()
        await self.flush()

    async def begin(
        self, method: str, path: str, *fields: tuple[str, str], length: int | None = None
    ) -> Call:
        declared = [] if length is None else [("content-length", str(length))]
        return await self._begin(method, path, [*fields, *declared], ends=False)

    async def ask(self, method: str, path: str, *fields: tuple[str, str]) -> Call:
        return await self._begin(method, path, list(fields), ends=True)

    async def _begin(self, method: str, path: str, fields: list[tuple[str, str]], *, ends: bool) -> Call:
        number = self.state.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path)]
        self.state.send_headers(number, [*pseudo, *fields], end_stream=ends)
        await self.flush()
        return Http2Call(self, number)

    async def flush(self) -> None:
        async with self._sending:
            await self.stream.send_all(self.state.data_to_send())

    async def event(self, number: int, *kinds: type) -> Any:
        """Return the next event of a stream that is of one of these kinds. Raises: CutError."""
        while True:
            for index, event in enumerate(self.events):
                if event.stream_id == number and isinstance(event, (*kinds, h2.events.StreamReset)):
                    del self.events[index]
                    if isinstance(event, h2.events.StreamReset):
                        raise CutError
                    return event
            await self.read()

    async def read(self) -> None:
        """Read once, for whoever waits. Raises: CutError at the end of the connection."""
        known = len(self.events)
        async with self._reading:
            if len(self.events) != known:
                return  # another call has read
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                data = b""
            if not data:
                raise CutError
            for event in self.state.receive_data(data):
                if getattr(event, "stream_id", None):
                    self.events.append(event)
            with suppress(trio.BrokenResourceError):  # reading tells
                await self.flush()

    async def closed(self) -> bytes:
        try:
            while True:
                await self.read()
        except CutError:
            return b""


class Http2Call(Call):
    def __init__(self, peer: Http2Peer, number: int) -> None:
        self.peer = peer
        self.number = number
        self.trailers: Fields = []

    async def send(self, data: bytes) -> None:
        while data:
            size = min(len(data), _PIECE, self.peer.state.local_flow_control_window(self.number))
            if not size:
                await self.peer.read()
                continue
            self.peer.state.send_data(self.number, data[:size])
            data = data[size:]
            await self.peer.flush()

    async def end(self) -> None:
        self.peer.state.end_stream(self.number)
        await self.peer.flush()

    async def head(self) -> Response:
        event = await self.peer.event(self.number, h2.events.ResponseReceived)
        (_, status), *fields = event.headers
        return Response(int(status), fields)

    async def part(self) -> bytes:
        kinds = (h2.events.DataReceived, h2.events.TrailersReceived, h2.events.StreamEnded)
        while True:
            event = await self.peer.event(self.number, *kinds)
            if isinstance(event, h2.events.TrailersReceived):
                self.trailers = list(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                return b""
            else:
                self.peer.state.acknowledge_received_data(event.flow_controlled_length, self.number)
                with suppress(trio.BrokenResourceError):  # the next read tells
                    await self.peer.flush()
                if event.data:
                    return bytes(event.data)

    async def leave(self) -> None:
        self.peer.state.reset_stream(self.number, h2.errors.ErrorCodes.CANCEL)
        await self.peer.flush()


@attrs.frozen
class Up:
    """A server that runs."""

    driver: Driver
    url: str
    stop: trio.Event
    stopped: trio.Event
    scope: trio.CancelScope
    """Cancels it."""

    @asynccontextmanager
    async def connect(self, *, receive_buffer: int | None = None) -> AsyncIterator[Peer]:
        """Connect; with so many bytes of buffer, the client is soon full."""
        peer = self.driver.peer(await connect(self.url, receive_buffer=receive_buffer))
        try:
            await peer.start()
            yield peer
        finally:
            await peer.leave()

    async def assert_answers(self) -> None:
        async with self.connect() as peer:
            assert (await peer.call("/hello")).body == b"hello"


@attrs.frozen
class Driver:
    """What speaks to a client: an engine, and what it runs on."""

    name: str
    peer: type[Peer]
    engine: Http1Engine = Http1Engine.OWN
    has_epoll: bool = True
    tls: bool = False
    settings: dict[str, Any] = attrs.field(factory=dict)

    @property
    def version(self) -> str:
        return "2" if self.peer is Http2Peer else "1.1"

    @asynccontextmanager
    async def serving(
        self, app: App, bind: str = "127.0.0.1:0", *, bound_s: float = 20.0, **settings: Any
    ) -> AsyncIterator[Up]:
        """Serve `app` within the block, which fails if it takes longer than `bound_s`."""
        stop, stopped, scope = trio.Event(), trio.Event(), trio.CancelScope()
        config = ServeConfig(http1_engine=self.engine, **{"linger_s": 0.2, **self.settings, **settings})

        async def served(task_status: trio.TaskStatus[tuple[str, ...]]) -> None:
            with scope:
                await serve(app, bind=bind, config=config, stop=stop, task_status=task_status)
            stopped.set()

        with trio.fail_after(bound_s):
            async with trio.open_nursery() as nursery:
                (url,) = await nursery.start(served)
                yield Up(self, url, stop, stopped, scope)
                scope.cancel()


HTTP1 = Driver("http1", Http1Peer)
PORTABLE = Driver("http1 without epoll", Http1Peer, has_epoll=False)
HYPERCORN = Driver("http1 of Hypercorn", Http1Peer, Http1Engine.HYPERCORN)
HTTP2 = Driver("http2", Http2Peer)
TLS = [Driver("http1 over TLS", Http1Peer, tls=True), Driver("http2 over TLS", Http2Peer, tls=True)]
PLAIN = [HTTP1, PORTABLE, HYPERCORN, HTTP2]
