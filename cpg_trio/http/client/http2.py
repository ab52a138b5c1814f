"""HTTP/2 for requests whose body goes on while the response comes: one connection for many streams.

h2 reads and writes frames. A connection has no task of its own. Each exchange has one that can drive it, and
one of these does at a time: it reads for all of them, and passes the connection on when its exchange ends. So
nothing outlives the block that it belongs to, and there is a reader as long as there is a stream.

What is to be sent waits in one buffer, from which whoever has something to send writes. A task that is
cancelled there leaves the rest for the others, so a frame is never cut off.

    exchange ──▶ h2 ──▶ unsent ──▶ socket        each sender waits until its own part has gone
    exchange ◀── h2 ◀── socket                   the driver reads; windows bound what nobody has read

A GOAWAY ends a connection for new streams only. A stream of which the peer knows nothing fails with
StreamResetError `REFUSED_STREAM`: it was not acted on.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self

import h2.connection
import h2.events
import h2.exceptions
import trio
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import HeaderList
from cpg_trio.http.background import background_task
from cpg_trio.http.client.errors import ConnectionBrokenError, ProtocolError, StreamResetError, UpstreamError
from cpg_trio.http.client.exchange import Connection
from cpg_trio.http.client.origin import Origin
from cpg_trio.http.client.request import Request
from cpg_trio.http.client.upload import BROKEN, chunks_of

_STREAM_WINDOW_BYTES = 2**18  # what a peer may send ahead on one stream
_CONNECTION_WINDOW_BYTES = 2**20  # and on all together
_LAST_STREAM = 2**31 - 1
_MOST_STREAMS = 100  # on one connection
_FRAME_BYTES = 2**14
_MOST_UNSENT_BYTES = 2 * _MOST_STREAMS * _FRAME_BYTES  # each stream has one frame at most that is not sent
_STATUS = re.compile(rb"[1-9][0-9]{2}")
_FRAME_HEAD_BYTES = 9
_NOT_FIELDS = frozenset({b"connection", b"host", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"})


class _Frames(FrameBuffer):
    """Frames as they come. One that is too long is refused by its head: h2 would first wait for all of it.

    So is the answer of a peer that speaks HTTP/1.1, which is read as a frame of four megabytes.
    """

    def __next__(self) -> Frame:
        if len(self._data) >= _FRAME_HEAD_BYTES:
            self._validate_frame_length(int.from_bytes(self._data[:3], "big"))
        return super().__next__()


class _Engine(h2.connection.H2Connection):
    """h2's connection, for which a GOAWAY is not the end: streams that the peer knows go on (RFC 9113, 6.8).

    Uses inner parts of h2, to whose minor version the package is held.
    """

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        self.incoming_buffer = _Frames(server=False)

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[h2.events.Event]]:
        event = h2.events.ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        return [], [event]


def _engine(max_head_bytes: int) -> _Engine:
    engine = _Engine(
        H2Configuration(client_side=True, header_encoding=None, normalize_outbound_headers=False)
    )
    limits = {
        SettingCodes.ENABLE_PUSH: 0,
        SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES,
        SettingCodes.MAX_HEADER_LIST_SIZE: max_head_bytes,
    }
    engine.local_settings = Settings(client=True, initial_values=limits)
    engine.decoder.max_header_list_size = max_head_bytes
    return engine


class Http2Connection:
    """A connection and its streams. `on_idle` is called when the last one has ended."""

    def __init__(
        self, connection: Connection, max_head_bytes: int, on_idle: Callable[[Http2Connection], object]
    ) -> None:
        self.connection = connection
        self.idle_since: float = trio.current_time()
        self._channel = connection.channel
        self._on_idle = on_idle
        self._streams: dict[int, Http2Exchange] = {}
        self._unsent = bytearray()
        self._sending = trio.Lock()
        self._driving = trio.Lock()
        self._to_flush = trio.Event()
        self._failure: UpstreamError | None = None
        self._takes_streams = True
        self._engine = _engine(max_head_bytes)
        self._engine.initiate_connection()
        window = self._engine.inbound_flow_control_window
        self._engine.increment_flow_control_window(_CONNECTION_WINDOW_BYTES - window)

    @property
    def has_room(self) -> bool:
        """Whether another stream may be opened."""
        most = self._engine.remote_settings.max_concurrent_streams
        is_last = self._engine.highest_outbound_stream_id + 2 >= _LAST_STREAM
        return not (self.is_over or is_last) and len(self._streams) < min(most, _MOST_STREAMS)

    @property
    def is_idle(self) -> bool:
        """Whether it has no stream."""
        return not self._streams

    @property
    def is_over(self) -> bool:
        """Whether it takes no more streams."""
        return not self._takes_streams or self._failure is not None

    @property
    def is_broken(self) -> bool:
        """Whether nothing more will come."""
        return self._failure is not None

    @property
    def is_behind(self) -> bool:
        """Whether the peer has not taken all that was to be sent."""
        return bool(self._unsent)

    def catch_up(self) -> None:
        """Take what has come while it was idle, without waiting."""
        try:
            while self._failure is None and (data := self._channel.receive_nowait()) is not None:
                self._received(data)
        except BROKEN as error:
            self._break(ConnectionBrokenError(f"the connection to the peer broke: {error}"))
        self.flush_nowait()

    # Streams

    def open(self, exchange: Http2Exchange, fields: HeaderList) -> int:
        """Open a stream with the head of a request; return its number. Raises: UpstreamError."""
        if self._failure is not None:
            raise self._failure
        try:
            stream_id = self._engine.get_next_available_stream_id()
            self._engine.send_headers(stream_id, fields)
        except h2.exceptions.ProtocolError as error:
            raise ProtocolError(f"the request cannot be sent as HTTP/2: {error}") from error
        self._streams[stream_id] = exchange
        return stream_id

    def leave(self, exchange: Http2Exchange) -> None:
        """Forget a stream. One that has not ended is reset, and what nobody has read of it is credited."""
        if self._streams.pop(exchange.stream_id, None) is None:
            return
        if not exchange.is_complete:
            with suppress(h2.exceptions.ProtocolError):  # it may have been reset, or the connection is broken
                self._engine.reset_stream(exchange.stream_id, ErrorCodes.CANCEL)
        self.acknowledge(exchange.stream_id, exchange.unread)
        self.flush_nowait()
        if not self._streams:
            self.idle_since = trio.current_time()
            self._on_idle(self)

    def acknowledge(self, stream_id: int, count: int) -> None:
        """Give back credit for what was read."""
        if count:
            with suppress(h2.exceptions.ProtocolError):  # the stream may have ended
                self._engine.acknowledge_received_data(count, stream_id)
                self._to_flush.set()

    def window(self, stream_id: int) -> int:
        """Return how many bytes can be sent on a stream now, in one frame."""
        window = self._engine.local_flow_control_window(stream_id)
        return min(window, self._engine.max_outbound_frame_size, _FRAME_BYTES)

    def send(self, stream_id: int, data: bytes, *, is_last: bool) -> None:
        """Have a part of a body sent by the next flush. Raises: h2's ProtocolError if it has ended."""
        self._engine.send_data(stream_id, data, end_stream=is_last)

    # Writing

    async def flush(self) -> None:
        """Send all that is to be sent. Raises: UpstreamError."""
        self.flush_nowait()
        if not self._unsent:
            return
        async with self._sending:
            while self._unsent and self._failure is None:
                try:
                    await self._channel.wait_writable()
                except BROKEN as error:
                    self._break(ConnectionBrokenError(f"the connection to the peer broke: {error}"))
                self._write()

    def flush_nowait(self) -> None:
        """Send what can be sent without waiting; the driver sends the rest."""
        self._unsent += self._engine.data_to_send()
        if not self._sending.locked():
            self._write()
        if self._unsent:
            self._to_flush.set()

    def _write(self) -> None:
        if not self._unsent or self._failure is not None:
            return
        try:
            sent = self._channel.send_nowait(bytes(self._unsent))
        except BROKEN:
            self._unsent.clear()  # what has come may still be read, and its end says why
        else:
            del self._unsent[:sent]

    # Reading

    async def drive(self) -> None:
        """Read for all streams, as soon as no other task does, until cancelled or until it is broken."""
        async with self._driving:
            if self._failure is not None:
                return
            async with open_plain_nursery() as nursery:
                nursery.start_soon(self._flush_when_asked)
                while not self.is_broken:
                    await self._receive()
                nursery.cancel_scope.cancel()

    async def _receive(self) -> None:
        try:
            data = await self._channel.receive()
        except BROKEN as error:
            self._break(ConnectionBrokenError(f"the connection to the peer broke: {error}"))
        else:
            self._received(data)
            self.flush_nowait()

    async def _flush_when_asked(self) -> None:
        while True:
            self._to_flush = trio.Event()
            await self.flush()
            await self._to_flush.wait()

    def _received(self, data: bytes) -> None:
        if not data:
            self._break(ConnectionBrokenError("the peer closed the connection before its answer ended"))
            return
        try:
            events = self._engine.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.flush_nowait()  # it says what was wrong
            self._break(ProtocolError(f"the peer does not speak HTTP/2 as it should: {type(error).__name__}"))
            return
        for event in events:
            self._happened(event)
        if len(self._unsent) > _MOST_UNSENT_BYTES:
            self._break(ProtocolError("the peer asks for answers, and does not read them"))

    def _happened(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self._takes_streams = False
            refused = StreamResetError(ErrorCodes.REFUSED_STREAM)
            for stream_id in [each for each in self._streams if each > (event.last_stream_id or 0)]:
                self._streams[stream_id].fail(refused)
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self._open_windows(self._streams)
        elif isinstance(event, h2.events.WindowUpdated):
            self._open_windows([event.stream_id] if event.stream_id else self._streams)
        else:
            self._happened_to(self._streams.get(getattr(event, "stream_id", None) or 0), event)

    def _happened_to(self, exchange: Http2Exchange | None, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            count = event.flow_controlled_length
            if exchange is None:
                self.acknowledge(event.stream_id, count)
            else:
                exchange.receive(event.data)
                self.acknowledge(event.stream_id, count - len(event.data))  # the padding
        elif exchange is None:
            return
        elif isinstance(event, h2.events.ResponseReceived):
            exchange.begin(event.headers or [])
        elif isinstance(event, h2.events.TrailersReceived):
            exchange.trailers = list(event.headers or [])
        elif isinstance(event, h2.events.StreamEnded):
            exchange.end()
        elif isinstance(event, h2.events.StreamReset):
            exchange.fail(StreamResetError(event.error_code or ErrorCodes.NO_ERROR))

    def _open_windows(self, stream_ids: Iterable[int]) -> None:
        for stream_id in stream_ids:
            if (exchange := self._streams.get(stream_id)) is not None:
                exchange.window_opened.unpark_all()

    def _break(self, failure: UpstreamError) -> None:
        """Fail all streams; there is nothing more to come."""
        self._failure = self._failure or failure
        self._unsent.clear()
        for exchange in self._streams.values():
            exchange.fail(self._failure)


class Http2Exchange:
    """One request and its response, at the same time. In its block the request's body is sent.

    Iterate over it for the response's body, when `response` has returned its head. Leaving the block before
    both bodies have come to their ends resets the stream.

    Entering raises what `connect` raises, and ProtocolError. `response` and iterating raise ProtocolError,
    StreamResetError and ConnectionBrokenError. An error of the request's body cancels the block, and is
    raised by leaving it.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Http2Connection]], request: Request, origin: Origin
    ) -> None:
        """Take a request that has been checked, and what gives a connection with room for a stream."""
        self._connect = connect
        self._fields = _fields(request, origin)
        self._request_body = request.body
        self._uploading = trio.CancelScope()
        self._sent = False  # the whole request
        self._block: AsyncExitStack | None = None
        self._connection: Http2Connection | None = None
        self._parts: deque[bytes] = deque()
        self._head: HeaderList | None = None
        self._ended = False  # the response
        self._error: UpstreamError | None = None
        self._arrived = trio.lowlevel.ParkingLot()
        self.window_opened: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self.stream_id: int = 0
        self.trailers: HeaderList = []
        """The trailers, with names in lower case; none until the body has been read to its end."""

    async def __aenter__(self) -> Self:
        connection = await self._connect()
        self.stream_id = connection.open(self, self._fields)
        self._connection = connection
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(background_task(connection.drive, trio.CancelScope()))
                await stack.enter_async_context(background_task(self._upload, self._uploading))
                self._block = stack.pop_all()
        except BaseException:
            connection.leave(self)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._connection is not None  # noqa: S101 - it has been entered
        assert self._block is not None  # noqa: S101
        try:
            await self._block.__aexit__(exc_type, exc, traceback)
        finally:
            self._connection.leave(self)
            self._connection = None

    # The response

    async def response(self) -> tuple[int, HeaderList]:
        """Return the status and the header fields of the final response, when they have come."""
        while self._head is None:
            await self._more()
        fields = [field for field in self._head if not field[0].startswith(b":")]
        return int(dict(self._head)[b":status"]), fields

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise trio.ClosedResourceError("the exchange has ended, and with it the response")
        while not self._parts:
            if self._ended:
                raise StopAsyncIteration
            await self._more()
        data = self._parts.popleft()
        self._connection.acknowledge(self.stream_id, len(data))
        return data

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        await self._arrived.park()

    # What happens on the stream

    @property
    def is_complete(self) -> bool:
        """Whether both bodies have come to their ends."""
        return self._sent and self._ended

    @property
    def unread(self) -> int:
        """Bytes of the response that nobody has read."""
        return sum(map(len, self._parts))

    def begin(self, head: HeaderList) -> None:
        """Take the head of the response."""
        if not _STATUS.fullmatch(dict(head).get(b":status", b"")):
            self.fail(ProtocolError("the peer's answer has no status"))
            return
        self._head = list(head)
        self._arrived.unpark_all()

    def receive(self, data: bytes) -> None:
        """Take a part of the response's body."""
        if data:
            self._parts.append(data)
            self._arrived.unpark_all()

    def end(self) -> None:
        """Note that the response has come to its end."""
        self._ended = True
        self._arrived.unpark_all()

    def fail(self, error: UpstreamError) -> None:
        """Have an error raised behind what has come of the response, and send no more of the request."""
        self._error = self._error or error
        self._arrived.unpark_all()
        self.window_opened.unpark_all()

    # The request

    async def _upload(self) -> None:
        """Send the body. A peer that takes no more of it is no error: it may have answered."""
        async with chunks_of(self._request_body) as chunks:
            async for data in chunks:
                if data and not await self._send(data):
                    return
        self._sent = await self._send(b"", is_last=True)

    async def _send(self, data: bytes, *, is_last: bool = False) -> bool:
        """Send a part of the body; return False if the peer does not take it."""
        connection = self._connection
        if connection is None:
            return False
        while self._error is None:
            try:
                window = connection.window(self.stream_id)
                if data and window <= 0:
                    await self.window_opened.park()
                    continue
                part, data = data[:window], data[window:]
                connection.send(self.stream_id, part, is_last=is_last)
            except h2.exceptions.ProtocolError:  # the stream has ended, or the connection
                return False
            await connection.flush()
            if not data:
                return True
        return False


def _fields(request: Request, origin: Origin) -> HeaderList:
    """Return the head of a request as HTTP/2 has it."""
    fields = [(name.lower(), value) for name, value in request.headers]
    host = dict(fields).get(b"host", origin.host_header)
    return [
        (b":method", request.method),
        (b":scheme", origin.scheme.encode()),
        (b":authority", host),
        (b":path", request.target),
        *(field for field in fields if field[0] not in _NOT_FIELDS),
    ]
