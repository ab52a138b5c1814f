"""One HTTP/1.1 connection, seen from its client: a request goes out while its response comes in.

What an exchange is:

* The request's head is written as the caller gave it.
* A body that fits one write goes out with the head. Any other body is sent by a task beside the caller's
  block, so that neither direction ever waits for the other.
* A peer that stops reading is no error by itself: it may have answered. Reading tells.
* The connection can be used again only if every byte of the request was written, the response arrived to
  its end, and nothing came after it. In all other cases it is to be closed.

May touch: the one channel that it is given. Opening, keeping and closing connections is `pool`'s.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType

import attrs
import trio

from cpg_trio.asgi import HeaderList
from cpg_trio.http.background import background_task
from cpg_trio.http.channel import Channel
from cpg_trio.http.client.errors import (
    BodyTooLargeError,
    ConnectionBrokenError,
    InvalidRequestError,
    ProtocolError,
    UpstreamError,
)
from cpg_trio.http.client.origin import Origin
from cpg_trio.http.client.request import LAST_CHUNK, PreparedRequest, chunk
from cpg_trio.http.heads import MalformedError, ResponseHeads
from cpg_trio.http.messages import MAX_HEAD_BYTES, IncomingResponse
from cpg_trio.http.schemes import TLS_IS_SPOKEN, is_tls

#: Seconds that the body is held back for a peer that was told `expect: 100-continue` (RFC 9110, 10.1.1:
#: a client does not wait indefinitely, since many servers never send the 100).
CONTINUE_TIMEOUT_S = 1.0

_CONTINUE = 100
_SWITCHING_PROTOCOLS = 101
_FIRST_ERROR_STATUS = 400

# What a channel raises for what the network does, or for a connection that its pool has closed.
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Connection:
    """A connection, used for one exchange at a time. Who has it, and its end, are its pool's to say."""

    __slots__ = ("caller", "channel", "fresh", "idle_since", "origin", "reusable")

    def __init__(self, origin: Origin, channel: Channel) -> None:
        self.origin = origin
        self.channel = channel
        self.reusable = False
        """Whether another exchange may follow the last. Set by whoever had one, when it is over."""
        self.fresh = True
        """Whether it was opened for who has it, so that the peer cannot have given it up meanwhile."""
        self.idle_since = 0.0
        self.caller = ""
        """Whom its pool counts it for, while it is in use."""


class Response:
    """A response whose head has arrived; iterate over it for the body, as it arrives.

    `headers` and `trailers` are in the order received, repetitions kept, names in lower case. `trailers`
    is empty until the body has been read to its end. Iterating raises ProtocolError, and
    ConnectionBrokenError if the body is cut short, and trio.ClosedResourceError after the block's end.
    """

    __slots__ = ("_answer", "_left", "_upload", "ended", "headers", "status", "trailers")

    def __init__(self, answer: Answer, upload: _Upload | None) -> None:
        self.status = answer.message.status
        self.headers = _in_lower_case(answer.message.headers)
        self.trailers: HeaderList = []
        self._answer = answer
        self._upload = upload
        self.ended = False
        """Whether the body has been read to its end."""
        self._left = False

    @property
    def reason(self) -> bytes:
        """The reason phrase, which is empty as often as not."""
        return self._answer.message.reason

    def body(self) -> AsyncIterator[bytes]:
        """Return the body's iterator, which is the response itself: there is one body, read once."""
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._left and not self.ended:
            raise trio.ClosedResourceError("the response's block has ended, and with it the response")
        answer = self._answer
        while not (data := answer.message.take()):
            if answer.message.complete:
                self._end()
                raise StopAsyncIteration
            await answer.read()
        return data

    async def read(self, max_bytes: int) -> bytes:
        """Return the body, or what of it was not iterated over.

        Raises: BodyTooLargeError, as soon as it is known; and what iterating raises.
        """
        message, parts, size = self._answer.message, list[bytes](), 0
        while True:
            parts.append(message.take())
            size += len(parts[-1])
            if size + message.remaining > max_bytes:
                raise BodyTooLargeError(f"the answer is larger than {max_bytes} bytes")
            if message.complete:
                break
            await self._answer.read()
        self._end()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _end(self) -> None:
        self.ended = True
        self.trailers = _in_lower_case(self._answer.message.trailers)
        if self._upload is not None:
            self._upload.stop()

    def leave(self) -> None:
        """End the response for its caller: the connection may soon be another exchange's."""
        self._left = True


def _in_lower_case(headers: HeaderList) -> HeaderList:
    return [(name.lower(), value) for name, value in headers]


@attrs.frozen
class Whole:
    """A response that has been read to its end. Headers and trailers are as in `Response`."""

    status: int
    headers: HeaderList
    trailers: HeaderList
    body: bytes


class Exchange:
    """A request and its response, on a connection that is the exchange's own until it has ended."""

    __slots__ = ("_answer", "_request", "_sent", "_stack", "_upload", "connection", "response")

    response: Response

    def __init__(
        self,
        connection: Connection,
        request: PreparedRequest,
        max_head_bytes: int = MAX_HEAD_BYTES,
        heads: ResponseHeads | None = None,
    ) -> None:
        self.connection = connection
        connection.reusable = False
        self._request = request
        to_head = request.method == b"HEAD"
        self._answer = Answer(connection.channel, max_head_bytes, to_head=to_head, heads=heads)
        self._sent = False
        self._upload: _Upload | None = None
        self._stack: AsyncExitStack | None = None

    async def begin(self) -> Response:
        """Send the request, or begin to, and return its response when the head has arrived.

        What is begun is to be ended, unless this raises. Raises: UpstreamError; InvalidRequestError if the
        body belies its content-length; and what the body's iterator raises.
        """
        if (data := self._request.at_once) is not None:
            self._sent = await _write(self.connection.channel, data)
            await self._receive_head()
        else:
            await self._begin_upload()
        return self.response

    async def end(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the exchange, because its block has ended, perhaps by an error.

        Raises: what the body's iterator raises, as itself, after cancelling the block. If both fail, the
        block's exception is raised and the iterator's is its context.
        """
        self.response.leave()
        if self._stack is not None:
            await self._stack.__aexit__(exc_type, exc, traceback)
        if exc is None:
            self._answer.read_nowait()
        if exc is None or self.response.ended:
            self._settle()

    async def read_whole(self, max_body_bytes: int) -> Whole:
        """Read the response to its end, and end the exchange, however that goes.

        Raises: BodyTooLargeError; UpstreamError; and what the body's iterator raises.
        """
        response = self.response
        if self._stack is None:
            body = await response.read(max_body_bytes)
        else:
            async with self._stack:
                body = await response.read(max_body_bytes)
        self._settle()
        return Whole(response.status, response.headers, response.trailers, body)

    def _settle(self) -> None:
        """Note whether another exchange may follow this one."""
        sent = self._sent if self._upload is None else self._upload.complete
        self.connection.reusable = sent and self._answer.another_may_follow and not self._request.closes

    @property
    def may_retry(self) -> bool:
        """Whether the exchange that just failed may be repeated on another connection.

        The peer may have given this one up before it saw the request, no byte came back, and it does no harm.
        """
        touched = self._upload is not None and self._upload.touched
        return (
            not self.connection.fresh
            and not self._answer.begun
            and self._request.idempotent
            and (isinstance(self._request.body, bytes) or not touched)
        )

    async def _begin_upload(self) -> None:
        self._upload = _Upload(self._request, self.connection.channel)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(background_task(self._upload.send, self._upload.scope))
            await self._receive_head()
            self._stack = stack.pop_all()

    async def _receive_head(self) -> None:
        """Wait for the final response, and tell the upload what comes before it."""
        answer, upload = self._answer, self._upload
        while (status := await answer.status()) < 200:  # noqa: PLR2004 - an interim response
            if status == _SWITCHING_PROTOCOLS:
                raise ProtocolError("the peer switches protocols (101), which it was not asked to do")
            if upload is not None:
                upload.on_interim(status)
            answer.next_message()
        if upload is not None:
            upload.on_answer(status)
        self.response = Response(answer, upload)


class Answer:
    """What the peer says to a request, read no sooner than it is asked for.

    An error is raised when more is asked for than what came before it.
    """

    __slots__ = ("_channel", "_error", "_heads", "_max_head_bytes", "_rest", "_to_head", "begun", "message")

    def __init__(
        self, channel: Channel, max_head_bytes: int, *, to_head: bool, heads: ResponseHeads | None = None
    ) -> None:
        self.begun = False
        self.message = IncomingResponse(to_head=to_head, max_head_bytes=max_head_bytes, heads=heads)
        self._channel = channel
        self._heads = heads
        self._max_head_bytes = max_head_bytes
        self._to_head = to_head
        self._rest = b""
        self._error: UpstreamError | None = None

    @property
    def another_may_follow(self) -> bool:
        """Whether the message has come to its end, nothing follows it, and the peer waits for a request."""
        return self.message.complete and self.message.keep_alive and not self._rest

    @property
    def whole(self) -> bool:
        """Whether the final response is there to its end, and as it should be."""
        message = self.message
        return message.complete and message.status >= 200 and self._error is None  # noqa: PLR2004

    async def status(self) -> int:
        """Return the status of the message, when its head is there."""
        while not self.message.has_head:
            await self.read()
        return self.message.status

    def next_message(self) -> None:
        """Go on to the message behind this one."""
        self.message = IncomingResponse(
            to_head=self._to_head, max_head_bytes=self._max_head_bytes, heads=self._heads
        )
        rest, self._rest = self._rest, b""
        self._feed(rest)

    async def read(self) -> None:
        """Read on. Raises: UpstreamError."""
        if self._error is not None:
            raise self._error
        try:
            data = await self._channel.receive()
        except _BROKEN as exc:
            raise ConnectionBrokenError(f"the connection to the peer broke: {exc}") from exc
        if data:
            self.begun = True
            self._feed(data)
        else:
            self._end_of_stream()

    def read_nowait(self) -> None:
        """Read on if something has come already and the message has not ended.

        The end of a chunked body may come after its last chunk, which was all that its reader wanted.
        """
        if self.message.complete or self._error is not None:
            return
        try:
            data = self._channel.receive_nowait()
        except _BROKEN:
            return  # whoever reads on is told
        if data:
            self.begun = True
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        try:
            self._rest = self.message.feed(data)
        except MalformedError as error:
            why = TLS_IS_SPOKEN if not self.message.has_head and is_tls(data) else str(error)
            self._error = ProtocolError(f"the peer does not speak HTTP/1.1: {why}")

    def _end_of_stream(self) -> None:
        try:
            self.message.end_of_stream()
        except MalformedError:
            self._error = ConnectionBrokenError("the peer closed the connection before its answer ended")


class _Upload:
    """A body on its way out: what is written when, and how much of it has been."""

    def __init__(self, request: PreparedRequest, channel: Channel) -> None:
        self.complete = False
        self.touched = False
        self.scope = trio.CancelScope()
        self._request = request
        self._channel = channel
        self._unsent = request.length
        self._held_back = request.expects_continue
        self._go_ahead = trio.Event()

    def stop(self) -> None:
        """Stop sending, because the response has ended. A write that the channel has taken still counts."""
        self.scope.cancel()

    def on_interim(self, status: int) -> None:
        if status == _CONTINUE:
            self._go_ahead.set()

    def on_answer(self, status: int) -> None:
        """Hear of the final response: a refusal means that a body that is still held back is not wanted."""
        if self._held_back and status >= _FIRST_ERROR_STATUS:
            self.scope.cancel()
        self._go_ahead.set()

    async def send(self) -> None:
        """Send the head, and the body as it comes. Raises: InvalidRequestError, and what the body raises."""
        if not await _write(self._channel, self._request.head):
            return
        await self._wait_for_go_ahead()
        self.touched = True
        async with _chunks_of(self._request.body) as chunks:
            self.complete = await self._send_chunks(chunks)

    async def _send_chunks(self, chunks: AsyncIterator[bytes]) -> bool:
        async for data in chunks:
            # Neither a body that is there nor a socket that takes it lets anybody else run.
            await trio.lowlevel.checkpoint()
            framed = self._framed(data)
            if framed and not await _write(self._channel, framed):
                return False
            if self._unsent == 0:
                return True
        if self._unsent is not None:
            raise InvalidRequestError("the request's body is shorter than its content-length")
        return await _write(self._channel, LAST_CHUNK)

    async def _wait_for_go_ahead(self) -> None:
        if self._held_back:
            with trio.move_on_after(CONTINUE_TIMEOUT_S):
                await self._go_ahead.wait()
            self._held_back = False

    def _framed(self, data: bytes) -> bytes:
        """Return a part of the body as it goes on the wire."""
        if self._unsent is None:
            return chunk(data)
        if len(data) > self._unsent:
            raise InvalidRequestError("the request's body is longer than its content-length")
        self._unsent -= len(data)
        return data


async def _write(channel: Channel, data: bytes) -> bool:
    """Return whether the peer took it. One that does not may have answered all the same."""
    try:
        await channel.send_all(data)
    except _BROKEN:
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
