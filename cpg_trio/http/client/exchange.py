"""One request and its response, over HTTP/1.1.

* What can be sent without waiting is sent at once. The rest of a body is uploaded by a task while the
  response is read, so that neither direction waits for the other.
* A peer that stops reading is no error by itself: it may have answered, so the response is read.
* Interim responses are skipped, except that a 100 releases a body that waits for it. A 101 is an error.
* A request is sent a second time, on a new connection, if the first one had been idle and broke before a byte
  came back, the method is idempotent, and nothing of a streamed body was consumed.
* Another exchange may follow on the connection if the request was sent and the response received to their
  ends, and nothing came behind the response. In all other cases the connection is closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Protocol

import trio

from cpg_trio.asgi import HeaderList
from cpg_trio.http.background import background_task
from cpg_trio.http.channel import Channel
from cpg_trio.http.client.errors import (
    BodyTooLargeError,
    ConnectionBrokenError,
    ProtocolError,
)
from cpg_trio.http.client.origin import Origin
from cpg_trio.http.client.request import ONE_WRITE_BYTES, PreparedRequest
from cpg_trio.http.client.upload import BROKEN, Upload
from cpg_trio.http.heads import MalformedError, ResponseHeads
from cpg_trio.http.messages import IncomingResponse
from cpg_trio.http.reactor import Reactor, Watcher
from cpg_trio.http.schemes import TLS_IS_SPOKEN, is_tls

_SWITCHING_PROTOCOLS = 101


class Connection:
    """A connection to an origin, used for one exchange at a time. Its pool owns it while it is idle."""

    __slots__ = ("caller", "channel", "fresh", "idle_since", "origin")

    def __init__(self, origin: Origin, channel: Channel) -> None:
        self.origin: Origin = origin
        self.channel: Channel = channel
        self.fresh: bool = True
        """Whether it was opened for the exchange that has it: the peer cannot have closed it as idle then."""
        self.idle_since: float = 0.0
        self.caller: str = ""
        """The caller that its pool counts it for, while it is in use."""


class Connections(Protocol):
    """The connections that exchanges use. See `Pool`, which documents the methods."""

    @property
    def heads(self) -> ResponseHeads | None:
        """The heads of responses that are kept."""

    @property
    def max_head_bytes(self) -> int:
        """The largest head of a response."""

    def take(self, origin: Origin, caller: str = "") -> Connection | None:
        """Return an idle connection, or None."""

    async def open(self, origin: Origin, caller: str = "", *, timeout_s: float | None = None) -> Connection:
        """Return a new connection."""

    def give_back(self, connection: Connection, *, reusable: bool) -> None:
        """Keep or close a connection."""


class ClientExchange:
    """A request and its response. As an async context manager, its block has the response.

    `start` begins it without waiting; then either the block is entered, or `close` ends it.
    With a `nursery`, the upload runs there, so that different tasks may enter and exit the exchange, and an
    error of the request's body is raised where the response is read. Without one, it cancels the block.

    Entering raises: NotSentError; ProtocolError; ConnectionBrokenError; InvalidRequestError for a body that
    is not as long as declared; and what the body's iterator raises. Exiting raises the last two as well.
    """

    # Class attributes, because most exchanges never change them.
    connection: Connection | None = None
    """The connection that it uses, until it is closed."""
    message: IncomingResponse = IncomingResponse()  # of which nothing will come
    """The response, or an interim one, as far as it has come."""
    ended: bool = False
    """Whether the response has been read to its end."""
    attempts: int = 1
    """How many connections it was, or is to be, sent on."""
    has_sent: bool = False
    """Whether it has a connection on which the request was begun, or had one last."""
    _is_reused = False  # the connection, which was idle before
    _answered = False  # a byte has come
    _is_sent = False  # the whole request, without an upload
    _unsent: memoryview | None = None  # is left of what was to be sent; None if there is nothing to upload
    _rest_has_begun = False  # some of the request's `rest` was sent without a task
    _behind = b""  # what has come behind the message
    _error: Exception | None = None  # to be raised by the next `read`
    _upload: Upload | None = None
    _block: AsyncExitStack | None = None  # of the upload
    _connecting: trio.CancelScope | None = None
    _aborted = False

    def __init__(
        self,
        connections: Connections,
        origin: Origin,
        request: PreparedRequest,
        caller: str = "",
        *,
        connect_timeout_s: float | None = None,
        nursery: trio.Nursery | None = None,
    ) -> None:
        """See `Pool.open` for `caller` and for `connect_timeout_s`, which replaces the pool's own."""
        self._connections = connections
        self._origin = origin
        self._request = request
        self._caller = caller
        self._connect_timeout_s = connect_timeout_s
        self._nursery = nursery

    # Without waiting

    def start(self) -> bool:
        """Send what goes without waiting, if there is an idle connection. Return whether that is all.

        One that was aborted before sends nothing.
        """
        if self._error is None:
            connection = self._connections.take(self._origin, self._caller)
            if connection is not None:
                self._send(connection)
        return self._is_sent

    def read_nowait(self) -> bool:
        """Read on if something has come. Return whether the final response has come to its end."""
        message, connection = self.message, self.connection
        if connection is not None and not message.complete and self._error is None:
            try:
                data = connection.channel.receive_nowait()
            except BROKEN:
                data = None  # the next `read` raises it
            if data:
                self._answered = True
                self._feed(data)
        return message.complete and message.status >= 200  # noqa: PLR2004 - a final response

    def pass_nowait(self, *, much: bool) -> bytes | memoryview | None:
        """Read on of the body, all before which has been taken, and return what has come, to be used at once.

        With `much`, that may be more than a task reads at a time.

        None if nothing has come. It is also None at an error, which the next `read` raises (`failed`).
        """
        if self._error is not None or self.connection is None:
            return None
        try:
            data = self.connection.channel.receive_shared_nowait(much=much)
        except BROKEN as exc:
            self._error = ConnectionBrokenError(f"the connection to the peer broke: {exc}")
            return None
        if data is None:
            return None
        if not data:
            self._end_of_stream()
            return None if self.failed else b""
        try:
            piece, self._behind = self.message.pass_through(data)
        except MalformedError as error:
            self._error = ProtocolError(f"the peer does not speak HTTP/1.1: {error}")
            return None
        return piece

    @property
    def may_have_more(self) -> bool:
        """Whether the last read may have left something, which is not reported again (see `call_again`)."""
        return self.connection is not None and not self.connection.channel.drained

    def call_again(self) -> bool:
        """Have the watcher called for what the last read has left; return whether that can be done."""
        return self.connection is not None and self.connection.channel.call_again()

    @property
    def failed(self) -> bool:
        """Whether the next `read` raises an error."""
        return self._error is not None

    @property
    def is_sent_so_far(self) -> bool:
        """Whether all of the request that has been given to it has been sent."""
        return self._is_sent or (self._unsent is not None and not self._unsent)

    def send_on_nowait(self, data: bytes | memoryview, *, is_last: bool) -> bool:
        """Send a part of the request's `rest`, framed, without waiting. Return whether all of it has gone.

        What has not is sent by `send_unsent_nowait`, or when the block is entered.
        Raises: as a channel, when the peer takes no more. It may have answered.
        """
        self._rest_has_begun = True
        self._unsent = memoryview(b"")
        sent = 0 if self.connection is None else self.connection.channel.send_nowait(data)
        if sent < len(data):
            self._unsent = memoryview(bytes(data[sent:]))
            return False
        if is_last:
            self._is_sent, self._unsent = True, None
        return True

    def send_unsent_nowait(self, *, is_last: bool) -> bool:
        """Send what is left of the last part without waiting. Return whether all of it has gone."""
        return self.send_on_nowait(self._unsent or b"", is_last=is_last)

    def when_writable(self, call: Callable[[], None]) -> None:
        """Have `call` called when the peer takes more, until `ignore`, or until it is entered or closed."""
        if self.connection is not None:
            self.connection.channel.when_writable(call)

    def watch(self, reactor: Reactor, watcher: Watcher) -> None:
        """Have `watcher` called when something has come, until `ignore`, or until it is entered or closed."""
        if self.connection is not None:
            self.connection.channel.watch(reactor, watcher)

    def replace_rest(self, rest: AsyncIterable[bytes] | None, remaining: int | None) -> None:
        """Tell what is left of the request's `rest`, if some of it has been sent without a task."""
        request = self._request
        self._request = PreparedRequest(request.method, request.start, rest, remaining)

    def ignore(self) -> None:
        """Stop calling the watcher."""
        if self.connection is not None:
            self.connection.channel.ignore()

    def close(self, *, keep: bool = True) -> None:
        """End it. The pool keeps its connection if `keep`, and if another exchange may follow on it."""
        connection, message = self.connection, self.message
        if connection is None:
            return
        if keep and not message.complete:  # the end of a chunked body may follow all that its reader wanted
            self.read_nowait()
        self.connection = None
        upload, sent = self._upload, self._is_sent
        if upload is not None:
            upload.scope.cancel()
            sent = upload.complete
        keep = keep and sent and message.complete and message.keep_alive and not self._behind
        connection.channel.ignore()
        self._connections.give_back(connection, reusable=keep and not self._request.closes)

    def fail(self, error: Exception) -> None:
        """Have an error raised where the response is read on, unless there is one already."""
        self._error = self._error or error
        if self.connection is not None:
            self.connection.channel.shut_down()

    def abort(self) -> None:
        """End it from outside. A task in it gets ConnectionBrokenError, and nothing is sent again."""
        self._aborted = True
        self.fail(ConnectionBrokenError("the exchange was aborted"))
        if self._connecting is not None:
            self._connecting.cancel()

    def check_open(self) -> None:
        """Raise an error, usually trio.ClosedResourceError, if it was closed before the response was read."""
        if self.connection is None and not self.ended:
            raise self._error or trio.ClosedResourceError("the exchange has ended, and with it the response")

    def _send(self, connection: Connection) -> None:
        """Send what goes without waiting of a request of which nothing has been sent."""
        self.connection = connection
        self.has_sent = True
        self._is_reused = not connection.fresh
        request, message = self._request, IncomingResponse(self._connections.max_head_bytes)
        message.heads = self._connections.heads
        message.to_head = request.method == b"HEAD"
        self.message = message
        try:
            sent = connection.channel.send_nowait(request.start)
        except BROKEN:
            return
        self._is_sent = request.rest is None and sent == len(request.start)
        if not self._is_sent:
            self._unsent = memoryview(request.start)[sent:]

    def _feed(self, data: bytes) -> None:
        try:
            self._behind = self.message.feed(data)
        except MalformedError as error:
            why = TLS_IS_SPOKEN if not self.message.has_head and is_tls(data) else str(error)
            self._error = ProtocolError(f"the peer does not speak HTTP/1.1: {why}")

    # With waiting

    async def __aenter__(self) -> Response:
        if (error := self._error) is not None and self.connection is None:
            raise error
        if self.connection is None:
            self.start()
        else:
            self.ignore()
        if self.connection is None:
            self._send(await self._open())
        try:
            await self._begin()
        except ConnectionBrokenError:
            if not self._may_be_sent_again:
                raise
            self.attempts += 1
            self.has_sent = self._is_sent = False
            self._unsent = self._upload = self._error = None
            self._send(await self._open())
            await self._begin()
        return Response(self)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it. If both the block and the upload fail, the block's error has the other as its context."""
        keep = False
        try:
            if self._block is not None:
                await self._block.__aexit__(exc_type, exc, traceback)
            keep = exc is None or self.ended
        finally:
            self.close(keep=keep)

    async def read(self) -> None:
        """Read on. What came before an error is in `message`.

        Raises: ProtocolError; ConnectionBrokenError; the error of an upload in a nursery.
        """
        if (error := self._error) is not None:
            raise error
        if self.connection is None:
            raise trio.ClosedResourceError("the exchange has ended")
        try:
            data = await self.connection.channel.receive()
        except BROKEN as exc:
            if self._error is None:
                raise ConnectionBrokenError(f"the connection to the peer broke: {exc}") from exc
            return  # the next `read` raises why
        if data:
            self._answered = True
            self._feed(data)
        elif self._error is None:
            self._end_of_stream()

    def end_response(self) -> None:
        """Note that the response has been read to its end. What is left of the request is not sent."""
        self.ended = True
        if self._upload is not None:
            self._upload.scope.cancel()

    def _end_of_stream(self) -> None:
        try:
            self.message.end_of_stream()
        except MalformedError:
            self._error = ConnectionBrokenError("the peer closed the connection before its answer ended")

    async def _open(self) -> Connection:
        """Connect. Raises: NotSentError; ConnectionBrokenError when it is aborted."""
        with trio.CancelScope() as self._connecting:
            connection = await self._connections.open(
                self._origin, self._caller, timeout_s=self._connect_timeout_s
            )
            if not self._aborted:
                return connection
            self._connections.give_back(connection, reusable=False)
        raise self._error or ConnectionBrokenError("the exchange was aborted")

    @property
    def _may_be_sent_again(self) -> bool:
        touched = self._upload is not None and self._upload.rest_is_touched
        return (
            self._is_reused
            and not self._rest_has_begun
            and not self._answered
            and not self._aborted
            and self._request.idempotent
            and (isinstance(self._request.rest, bytes) or not touched)
        )

    async def _begin(self) -> None:
        """Wait for the head of the response, and send the rest of the request meanwhile."""
        try:
            if self._unsent is None:
                await self._receive_head()
            else:
                await self._begin_upload(self._unsent)
        except BaseException:
            self.close(keep=False)
            raise

    async def _begin_upload(self, unsent: memoryview) -> None:
        assert self.connection is not None  # noqa: S101 - for the type checker
        upload = self._upload = Upload(self._request, unsent, self.connection.channel)
        if self._request.rest is None and len(unsent) <= ONE_WRITE_BYTES:
            await upload.send()  # does not wait for a peer that waits for us to read
            await self._receive_head()
        elif self._nursery is not None:
            self._nursery.start_soon(self._upload_apart, upload)
            await self._receive_head()
        else:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(background_task(upload.send, upload.scope))
                await self._receive_head()
                self._block = stack.pop_all()

    async def _upload_apart(self, upload: Upload) -> None:
        try:
            with upload.scope:
                await upload.send()
        except Exception as error:  # noqa: BLE001 - it is raised where the response is read
            self.fail(error)

    async def _receive_head(self) -> None:
        """Wait for the head of the final response."""
        upload = self._upload
        while True:
            while not self.message.has_head:
                await self.read()
            status = self.message.status
            if status >= 200:  # noqa: PLR2004 - a final response
                break
            if status == _SWITCHING_PROTOCOLS:
                raise ProtocolError("the peer switches protocols (101), which it was not asked to do")
            if upload is not None:
                upload.on_interim(status)
            self._next_message()
        if upload is not None:
            upload.on_answer(status)

    def _next_message(self) -> None:
        """Go on to the message behind an interim response."""
        behind, self._behind = self._behind, b""
        self.message = self.message.following()
        self._feed(behind)


class Response:
    """A response whose head has arrived; iterate over it for the body, as it arrives.

    `headers` and `trailers` are in the order received, repetitions kept, names in lower case. `trailers`
    is empty until the body has been read to its end. Iterating raises ProtocolError, ConnectionBrokenError if
    the body is cut short, and trio.ClosedResourceError after the block's end.
    """

    __slots__ = ("_exchange",)

    def __init__(self, exchange: ClientExchange) -> None:
        self._exchange = exchange

    @property
    def status(self) -> int:
        """The status of the final response."""
        return self._exchange.message.status

    @property
    def headers(self) -> HeaderList:
        """The headers."""
        return _in_lower_case(self._exchange.message.headers)

    @property
    def reason(self) -> bytes:
        """The reason phrase, which is often empty."""
        return self._exchange.message.reason

    @property
    def ended(self) -> bool:
        """Whether the body has been read to its end."""
        return self._exchange.ended

    @property
    def trailers(self) -> HeaderList:
        """The trailers; none until the body has been read to its end."""
        return _in_lower_case(self._exchange.message.trailers) if self._exchange.ended else []

    def body(self) -> AsyncIterator[bytes]:
        """Return the body's iterator, which is the response itself: there is one body, read once."""
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        exchange = self._exchange
        exchange.check_open()
        while not (data := exchange.message.take()):
            if exchange.message.complete:
                exchange.end_response()
                raise StopAsyncIteration
            await exchange.read()
        return data

    async def read(self, max_bytes: int) -> bytes:
        """Return the body, or what of it was not iterated over.

        Raises: BodyTooLargeError, as soon as it is known; and what iterating raises.
        """
        exchange, size = self._exchange, 0
        parts: list[bytes] = []  # `list[bytes]()` takes ten times as long to make
        message = exchange.message
        while True:
            parts.append(message.take())
            size += len(parts[-1])
            if size + message.remaining > max_bytes:
                raise BodyTooLargeError(f"the answer is larger than {max_bytes} bytes")
            if message.complete:
                break
            await exchange.read()
        exchange.end_response()
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _in_lower_case(headers: HeaderList) -> HeaderList:
    return [(name.lower(), value) for name, value in headers]


class Whole:
    """A response that has been read to its end. Headers and trailers are as in `Response`."""

    __slots__ = ("_message", "body", "status")

    def __init__(self, message: IncomingResponse, body: bytes) -> None:
        self._message = message
        self.status: int = message.status
        self.body: bytes = body

    @property
    def headers(self) -> HeaderList:
        """The headers."""
        return _in_lower_case(self._message.headers)

    @property
    def trailers(self) -> HeaderList:
        """The trailers."""
        return _in_lower_case(self._message.trailers)

    def texts(self) -> list[tuple[str, str]]:
        """Return the headers as texts; a length and a request id may be the last ones."""
        return self._message.texts()
