"""One HTTP/1.1 connection, seen from its client: a request goes out while its response comes in.

What an exchange is:

* The request's head is written as the caller gave it; h11 checks it and keeps the framing, but its own
  rendering is not used, because it puts `host` first.
* A body that fits one write goes out with the head. Any other body is sent by a task beside the caller's
  block, so that neither direction ever waits for the other.
* A peer that stops reading is no error by itself: it may have answered. Reading tells.
* The connection can be used again only if every byte of the request was written, the response was read to
  its end, and nothing came after it. In all other cases it is closed.

May touch: the one stream that it is given. Opening, keeping and closing connections is `pool`'s.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, Self, TypeAlias

import attrs
import h11
import trio

if TYPE_CHECKING:
    from cpg_trio.asgi import HeaderList

#: Bytes. A head (or the trailers) that is still incomplete at this size is refused; since it is looked at
#: once a read, up to RECEIVE_BYTES more may be accepted.
MAX_HEAD_BYTES = 64 * 1024

#: Bytes. The most that is asked of the stream at a time, and so the most held of a body.
RECEIVE_BYTES = 64 * 1024

#: Bytes. A body up to this goes out with the head and without a task of its own: it fits the buffers of
#: every transport, so that writing it cannot wait for a peer that waits for us to read.
ONE_WRITE_BYTES = 16 * 1024

#: Seconds that the body is held back for a peer that was told `expect: 100-continue` (RFC 9110, 10.1.1:
#: a client does not wait indefinitely, since many servers never send the 100).
CONTINUE_TIMEOUT_S = 1.0

#: RFC 9110, 9.2.2. TRACE is there for completeness.
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})

_CONTINUE = 100
_SWITCHING_PROTOCOLS = 101
_FIRST_ERROR_STATUS = 400

# h11 quotes the offending bytes in its messages, and they may be a header's value.
_QUOTED_BYTES = re.compile(r":? (?:bytearray\()?b['\"].*", re.DOTALL)

_ResponseEvent: TypeAlias = h11.InformationalResponse | h11.Response | h11.Data | h11.EndOfMessage


class UpstreamError(Exception):
    """The peer, or the way to it, failed. The caller's own mistakes are never this."""


class ConnectFailedError(UpstreamError):
    """No connection came about: refused, unknown name, TLS failure, timeout. Nothing was sent."""


class ProtocolError(UpstreamError):
    """The peer's answer is not HTTP/1.1 as it should be."""


class ConnectionBrokenError(UpstreamError):
    """The connection was closed or reset before the response, or within it.

    The peer may have acted on the request. You do not get this for a peer that stops reading the request
    but answers it.
    """


class InvalidRequestError(ValueError):
    """The caller's request cannot be sent as HTTP/1.1; nobody upstream is at fault."""


@contextmanager
def _upstream_errors(*, peer_has_closed: bool = False) -> Iterator[None]:
    """Raise what the stream and the parser raise as an `UpstreamError`."""
    try:
        yield
    except h11.RemoteProtocolError as exc:
        if peer_has_closed:
            raise ConnectionBrokenError("the peer closed the connection before its answer ended") from None
        raise ProtocolError(f"the peer does not speak HTTP/1.1: {_without_bytes(exc)}") from None
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as exc:
        raise ConnectionBrokenError("the connection to the peer broke") from exc


@contextmanager
def _request_errors() -> Iterator[None]:
    """Raise what the parser says of our own side as an `InvalidRequestError`."""
    try:
        yield
    except h11.LocalProtocolError as exc:
        raise InvalidRequestError(f"not a request that can be sent: {_without_bytes(exc)}") from None


def _without_bytes(exc: h11.ProtocolError) -> str:
    return _QUOTED_BYTES.sub("", str(exc))


def _values(headers: HeaderList, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


@attrs.frozen
class Request:
    """A request, sent as it is.

    `target` is origin-form, or `*`. `headers` go out in this order and spelling, after a `host` if they
    have none. Framing is the caller's: `content-length`, or `transfer-encoding: chunked`, or neither for
    no body. `body` is read no further than its content-length; without a framing header, or with a length
    of 0, an iterable is not touched. A body that is an async generator is closed when sending stops.
    """

    method: bytes
    target: bytes
    headers: HeaderList
    body: AsyncIterable[bytes] | bytes = b""


@attrs.frozen
class PreparedRequest:
    """A checked request: `head` is what goes on the wire, `length` the body's, None if chunked."""

    event: h11.Request
    head: bytes
    body: AsyncIterable[bytes] | bytes
    length: int | None
    expects_continue: bool

    @classmethod
    def of(cls, request: Request, host: bytes) -> Self:
        """Check a request and write its head. Raises: InvalidRequestError."""
        _check_target(request)
        headers = request.headers
        if not _values(headers, b"host"):
            headers = [(b"host", host), *headers]
        with _request_errors():
            event = h11.Request(method=request.method, target=request.target, headers=headers)
        length = _body_length(request)
        lines = [request.method + b" " + request.target + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in headers]
        expects = b"100-continue" in [value.lower() for value in _values(headers, b"expect")]
        return cls(event, b"\r\n".join([*lines, b"", b""]), request.body, length, expects and length != 0)

    @property
    def fits_one_write(self) -> bool:
        """Whether the body is here, small, and free to go with the head."""
        if self.length == 0:
            return True
        return (
            isinstance(self.body, bytes) and len(self.body) <= ONE_WRITE_BYTES and not self.expects_continue
        )


def _check_target(request: Request) -> None:
    if request.method == b"CONNECT":
        raise InvalidRequestError("CONNECT makes a tunnel, which this client does not do")
    if request.target != b"*" and not request.target.startswith(b"/"):
        raise InvalidRequestError("the request's target must be origin-form: a path that begins with /")


def _body_length(request: Request) -> int | None:
    """Return the declared length, None for chunked.

    Stricter than h11, which takes repetitions for one: what is sent is the caller's own spelling, and two
    parsers must not be able to read it in two ways.
    """
    lengths = _values(request.headers, b"content-length")
    codings = _values(request.headers, b"transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise InvalidRequestError("a request has one content-length, or one transfer-encoding, or neither")
    if codings:
        return None
    if lengths and not lengths[0].isdigit():
        raise InvalidRequestError("the request's content-length is not a number")
    length = int(lengths[0]) if lengths else 0
    if isinstance(request.body, bytes) and len(request.body) != length:
        raise InvalidRequestError(
            f"the request declares a body of {length} bytes, but has {len(request.body)}"
        )
    return length


class Response:
    """A response whose head has arrived; iterate over it for the body, as it arrives.

    `headers` and `trailers` are in the order received, repetitions kept, names in lower case. `trailers`
    is empty until the body has been read to its end. Iterating raises ProtocolError, and
    ConnectionBrokenError if the body is cut short, and trio.ClosedResourceError after the block's end.
    """

    def __init__(self, head: h11.Response, connection: Connection, upload: _Upload) -> None:
        self.status: int = head.status_code
        self.reason: bytes = bytes(head.reason)
        self.headers: HeaderList = list(head.headers)
        self.trailers: HeaderList = []
        self._connection = connection
        self._upload = upload
        self._ended = False
        self._left = False

    def body(self) -> AsyncIterator[bytes]:
        """Return the body's iterator, which is the response itself: there is one body, read once."""
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if self._left:
            raise trio.ClosedResourceError("the response's block has ended, and with it the response")
        event = await self._connection.next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        self._end(event)
        raise StopAsyncIteration

    def _end(self, event: _ResponseEvent) -> None:
        self._ended = True
        self.trailers = list(event.headers) if isinstance(event, h11.EndOfMessage) else []
        self._upload.stop()

    def settle(self) -> None:
        """Note an end that has been received already, as that of a response without a body."""
        if self._ended:
            return
        with suppress(UpstreamError):  # the caller has what it wanted, and the connection is not kept
            event = self._connection.received_event()
            if isinstance(event, h11.EndOfMessage):
                self._end(event)

    def leave(self) -> None:
        """End the response for its caller: the connection may soon be another exchange's."""
        self._left = True


class Connection:
    """One connection, used for one exchange at a time.

    `reusable` tells whether another exchange may follow the last; `stream` is the caller's to close.
    """

    def __init__(self, stream: trio.abc.Stream, *, max_head_bytes: int = MAX_HEAD_BYTES) -> None:
        self.stream = stream
        self.reusable = True
        self._answered = False
        self._peer_has_closed = False
        self._upload: _Upload | None = None
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=max_head_bytes)

    @asynccontextmanager
    async def exchange(self, request: PreparedRequest) -> AsyncIterator[Response]:
        """Send a request, and yield its response when the head has arrived.

        Raises: UpstreamError; InvalidRequestError if the body belies its content-length; and what the
        body's iterator raises, as itself, after cancelling the block. If both fail, the block's exception
        is raised and the iterator's is its context.
        """
        self.reusable = self._answered = False
        self._upload = upload = _Upload(request, self._h11, self.stream)
        async with upload.under_way():
            response = Response(await self._final_head(upload), self, upload)
            try:
                yield response
                response.settle()
            finally:
                response.leave()
        self.reusable = upload.complete and self._start_next_cycle()

    @property
    def may_retry(self) -> bool:
        """Whether the exchange that just failed may be repeated: no byte came back, and it does no harm."""
        return not self._answered and self._upload is not None and self._upload.repeatable

    def is_stale(self) -> bool:
        """Look, without waiting, whether the peer closed this idle connection or spoke out of turn."""
        stream = self.stream.transport_stream if isinstance(self.stream, trio.SSLStream) else self.stream
        return isinstance(stream, trio.SocketStream) and stream.socket.is_readable()

    async def next_event(self) -> _ResponseEvent:
        """Return the next part of the response, reading as needed."""
        while (event := self.received_event()) is None:
            with _upstream_errors():
                data = await self.stream.receive_some(RECEIVE_BYTES)
            self._answered = self._answered or bool(data)
            self._peer_has_closed = not data
            self._h11.receive_data(bytes(data))
        return event

    def received_event(self) -> _ResponseEvent | None:
        """Return the next part of the response out of what has been received, or None."""
        with _upstream_errors(peer_has_closed=self._peer_has_closed):
            event = self._h11.next_event()
        return event if isinstance(event, _ResponseEvent) else None

    async def _final_head(self, upload: _Upload) -> h11.Response:
        while not isinstance(event := await self.next_event(), h11.Response):
            _check_interim(event)
            upload.on_interim(event)
        _check_head(event)
        upload.on_answer(event.status_code)
        return event

    def _start_next_cycle(self) -> bool:
        done = set(self._h11.states.values()) == {h11.DONE} and self._h11.trailing_data == (b"", False)
        if done:
            self._h11.start_next_cycle()
        return done


def _check_interim(event: _ResponseEvent) -> None:
    if isinstance(event, h11.InformationalResponse) and event.status_code == _SWITCHING_PROTOCOLS:
        raise ProtocolError("the peer switches protocols (101), which it was not asked to do")


def _check_head(head: h11.Response) -> None:
    if head.http_version not in {b"1.1", b"1.0"}:
        raise ProtocolError("the peer answers in another version of HTTP than 1.x")
    names = {name for name, _ in head.headers}
    if {b"content-length", b"transfer-encoding"} <= names:
        # Whoever gets the two passed on may choose the other one (RFC 9112, 6.1).
        raise ProtocolError("the peer's answer has a content-length and a transfer-encoding")


class _Upload:
    """A request on its way out: what is written when, and how much of it has been."""

    def __init__(self, request: PreparedRequest, parser: h11.Connection, stream: trio.abc.Stream) -> None:
        self.complete = False
        self._request = request
        self._h11 = parser
        self._stream = stream
        self._unsent = request.length
        self._touched = False
        self._held_back = request.expects_continue
        self._go_ahead = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def repeatable(self) -> bool:
        body_is_whole = isinstance(self._request.body, bytes) or not self._touched
        return self._request.event.method in _IDEMPOTENT and body_is_whole

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        """Send the request: all at once on entering, or beside the block if it may take time."""
        self._h11.send(self._request.event)  # for the parser's books only
        if self._request.fits_one_write:
            await self._send_at_once()
            yield
        else:
            async with beside(self._send, self._scope):
                yield

    def stop(self) -> None:
        """Stop sending, because the response has ended. A write that the stream has taken still counts."""
        self._scope.cancel()

    def on_interim(self, event: _ResponseEvent) -> None:
        if isinstance(event, h11.InformationalResponse) and event.status_code == _CONTINUE:
            self._go_ahead.set()

    def on_answer(self, status: int) -> None:
        """Hear of the final response: a refusal means that a body that is still held back is not wanted."""
        if self._held_back and status >= _FIRST_ERROR_STATUS:
            self._scope.cancel()
        self._go_ahead.set()

    async def _send_at_once(self) -> None:
        body = self._request.body if isinstance(self._request.body, bytes) else b""
        data = self._request.head + self._framed(body)
        if self._unsent is None:
            data += self._end_of_body()
        self.complete = await self._write(data)

    async def _send(self) -> None:
        if not await self._write(self._request.head):
            return
        await self._wait_for_go_ahead()
        self._touched = True
        async with _chunks_of(self._request.body) as chunks:
            self.complete = await self._send_chunks(chunks)

    async def _send_chunks(self, chunks: AsyncIterator[bytes]) -> bool:
        async for chunk in chunks:
            data = self._framed(chunk)
            if data and not await self._write(data):
                return False
            if self._unsent == 0:
                return True
        return await self._write(self._end_of_body())

    async def _wait_for_go_ahead(self) -> None:
        if self._held_back:
            with trio.move_on_after(CONTINUE_TIMEOUT_S):
                await self._go_ahead.wait()
            self._held_back = False

    def _framed(self, chunk: bytes) -> bytes:
        """Return a part of the body for the wire; where it reaches the content-length, the body ends."""
        with _request_errors():
            data = self._h11.send(h11.Data(data=chunk))
        if self._unsent is not None:
            self._unsent -= len(chunk)
            if self._unsent == 0:
                data += self._end_of_body()
        return data

    def _end_of_body(self) -> bytes:
        with _request_errors():
            return self._h11.send(h11.EndOfMessage())

    async def _write(self, data: bytes) -> bool:
        """Return whether the peer took it. One that does not may have answered all the same."""
        try:
            with _upstream_errors():
                await self._stream.send_all(data)
        except ConnectionBrokenError:
            return False
        return True


@asynccontextmanager
async def _chunks_of(body: AsyncIterable[bytes] | bytes) -> AsyncIterator[AsyncIterator[bytes]]:
    """Iterate over a body, and close it if it is a generator: nobody else knows when it is left half-way."""
    chunks = aiter(_once(body) if isinstance(body, bytes) else body)
    try:
        yield chunks
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


@asynccontextmanager
async def beside(work: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> AsyncIterator[None]:
    """Run `work`, in `scope`, beside the block; the block's end ends it.

    What `work` raises cancels the block and is raised as itself. What the block raises is raised as
    itself, in no group, and goes first: an error of `work` is then its context.
    """
    work_error: BaseException | None = None
    raised_in_block: BaseException | None = None
    block_error: BaseException | None = None

    async def run() -> None:
        nonlocal work_error
        try:
            with scope:
                await work()
        except trio.Cancelled:
            raise
        except BaseException as exc:  # noqa: BLE001 - it is raised below, when the block has ended
            work_error = exc
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            try:
                yield
            except BaseException as exc:
                raised_in_block = exc
                raise
            scope.cancel()
    except BaseExceptionGroup as group:
        block_error = _block_error(group, raised_in_block)
    # Not within the `except`: the group would become the context of the error that it contains.
    _raise_first(block_error, work_error)


def _block_error(
    group: BaseExceptionGroup[BaseException], raised_in_block: BaseException | None
) -> BaseException:
    """Return the one error of a nursery's group that is more than a task's being cancelled: the block's.

    A group that the block raised has been copied on the way, so that the nursery could take its own
    cancellations out; if there were none in it, the original is returned. (There is a second error if
    Ctrl-C came while the nursery was closing; then they stay a group.)
    """
    errors = [exc for exc in group.exceptions if not isinstance(exc, trio.Cancelled)]
    candidates = errors or group.exceptions[:1]
    if len(candidates) > 1:
        return group
    if isinstance(raised_in_block, BaseExceptionGroup) and raised_in_block.subgroup(trio.Cancelled) is None:
        return raised_in_block
    return candidates[0]


def _raise_first(block_error: BaseException | None, work_error: BaseException | None) -> None:
    if block_error is not None:
        if work_error is not None:
            _append_context(block_error, work_error)
        _reraise(block_error)
    if work_error is not None:
        _reraise(work_error)


def _append_context(exc: BaseException, context: BaseException) -> None:
    while exc is not context:
        if exc.__context__ is None:
            exc.__context__ = context
            return
        exc = exc.__context__


def _reraise(exc: BaseException) -> NoReturn:
    """Raise an error again with the context that it had, which `raise` alone would replace."""
    context = exc.__context__
    try:
        raise exc
    finally:
        exc.__context__ = context
