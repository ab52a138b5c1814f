"""From one connection to another, byte for byte: a request goes out while its response comes in.

What to do with a request is a `Gateway`'s to say, which is given its head and returns a `Forward`: where to,
with what head. Everything else is here: framing, both directions at once, one buffer at a time, and an end of
either side that the other one understands.

    head ──▶ refused                                    the gateway's answer, and no provider has seen it
      └────▶ taken ──▶ head and body in one write ──▶ response ──▶ kept      the usual call
                └────▶ upload beside the download ──────┘   └────▶ broken    a failure after the head

A small call costs no task, no scope and no queue. If it has come whole and there is a connection to its
provider, it is begun on the spot (`start`), and its answer, if it comes whole, is passed back on the spot,
while the task of the client's connection sleeps. Whatever else happens is handed over to that task, which
goes on from there. Only a body that is not here yet, or does not fit the provider's socket, has its own task.

A connection that was kept and proves dead before a byte came back is replaced once, if the request may be
sent twice. There is no timeout but that of connecting: how long a call may take is its caller's to say.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import attrs
import trio

from cpg_trio.asgi import HeaderList
from cpg_trio.calls import Call, Stage
from cpg_trio.http.background import background_task
from cpg_trio.http.client.connection import Answer, Connection
from cpg_trio.http.client.errors import ConnectionBrokenError, ProtocolError, UndeliveredError, UpstreamError
from cpg_trio.http.client.origin import Origin
from cpg_trio.http.client.pool import Pool
from cpg_trio.http.client.request import IDEMPOTENT, LAST_CHUNK, chunk
from cpg_trio.http.fields import date
from cpg_trio.http.heads import MalformedError, ResponseHeads
from cpg_trio.http.messages import MAX_HEAD_BYTES, Framing, IncomingRequest, IncomingResponse
from cpg_trio.http.server.http1 import ServerConnection

_SWITCHING_PROTOCOLS = 101
_NO_CONTENT = 204
_METHODS_WITH_BODY = frozenset({b"PATCH", b"POST", b"PUT"})
_CHUNKED = b"transfer-encoding: chunked\r\n"


class RefusedError(Exception):
    """A request that goes nowhere: the answer to it, in plain text, and the header fields beside it."""

    def __init__(self, status: int, text: str, fields: HeaderList) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.fields = fields


@attrs.frozen
class Failure:
    """A call that did not come about: the answer to its caller, and what to write down."""

    status: int
    text: str
    why: str
    fields: HeaderList = attrs.field(factory=list)


class Forward(Protocol):
    """A request that is let through. One object a call."""

    @property
    def origin(self) -> Origin:
        """Where it goes."""

    @property
    def caller(self) -> str:
        """Whom the pool counts it for."""

    def head(self) -> bytes:
        """Return the head that goes on, without the empty line; of framing, a content-length at most."""

    def refusal(self, status: int, fields: HeaderList) -> UndeliveredError | None:
        """Return what it means that a response is not the provider's answer; None if it is."""

    def lines_back(self, fields: HeaderList) -> bytes:
        """Return the header lines that go back, of a response's fields or of its trailers."""

    def holds(self) -> bool:
        """Whether the call would still be let through, as far as those on both sides are concerned."""

    def begin(self, call: RelayCall) -> Call:
        """Note that the call begins; it may be cancelled from then on. Return its record, to be filled in."""

    def end(self) -> None:
        """Note that the call has ended as its record says."""

    def failure(self, error: UpstreamError | None) -> Failure:
        """Return what a provider's failure means; None is a call that was cancelled."""


class Gateway(Protocol):
    """Decides what becomes of a request."""

    def claims(self, target: bytes, /) -> bool:
        """Whether a request for this target is the gateway's at all."""

    def admit(self, request: IncomingRequest, client: ServerConnection) -> Forward:
        """Return what to do with a request. Raises: RefusedError."""


class Relay:
    """Passes the requests that a gateway lets through on to where it says, over the connections of a pool."""

    def __init__(self, gateway: Gateway, pool: Pool) -> None:
        self._gateway = gateway
        self._pool = pool
        self._heads = ResponseHeads()
        self.claims = gateway.claims

    def begin(self, client: ServerConnection, request: IncomingRequest, /) -> None:
        """Begin to relay a request that has come whole."""
        try:
            forward = self._gateway.admit(request, client)
        except RefusedError as refused:
            client.answer_at_once(client.plain(refused.status, refused.text, refused.fields))
            return
        call = RelayCall(client, request, forward, self._pool, self._heads)
        kept = self._pool.take(forward.origin, forward.caller)
        if kept is None:
            client.hand_over(call.run)
        else:
            call.start(kept)

    async def __call__(self, client: ServerConnection, request: IncomingRequest, /) -> None:
        """Relay a request whose head has been read."""
        try:
            forward = self._gateway.admit(request, client)
        except RefusedError as refused:
            client.last = client.last or not request.complete
            await client.write(client.plain(refused.status, refused.text, refused.fields))
            return
        await RelayCall(client, request, forward, self._pool, self._heads).run()


class RelayCall:
    """One call in flight. It ends when its answer has been passed on, or when either side is gone."""

    # What most calls never change is not set for each of them.
    _provider: Connection | None = None
    _connecting: trio.CancelScope | None = None
    _answer: Answer | None = None
    _cancelled = False
    _malformed: MalformedError | None = None  # what came of the request's body
    _uploaded = False
    _responding = False
    _chunked_back = False
    _ends_with_connection = False  # the response, as it goes back
    _record: Call

    def __init__(
        self,
        client: ServerConnection,
        request: IncomingRequest,
        forward: Forward,
        pool: Pool,
        heads: ResponseHeads,
    ) -> None:
        self._client = client
        self._request = request
        self._forward = forward
        self._pool = pool
        self._heads = heads

    def cancel(self) -> None:
        """End the call from outside, as its provider is gone, or may not be called any more."""
        self._cancelled = True
        if self._provider is not None:
            self._provider.channel.shut_down()
        if self._connecting is not None:
            self._connecting.cancel()

    # At once

    def start(self, kept: Connection) -> None:
        """Send the request without waiting, and have the answer passed back when it comes."""
        client = self._client
        self._begin()
        client.in_hand = self
        unsent = self._send(kept)
        if unsent:
            client.hand_over(partial(self._go_on, unsent))
        else:
            kept.channel.watch(client.service.clocks.reactor, self._hear)

    def _hear(self, _readable: bool, _gone: bool) -> None:  # noqa: FBT001 - a watcher's face
        try:
            self._read_at_once()
        except Exception as error:  # noqa: BLE001 - it is raised where it ends its client's connection alone
            self._client.fail(error)

    def _read_at_once(self) -> None:
        answer, provider = self._answer, self._provider
        assert answer is not None  # noqa: S101 - for the type checker
        assert provider is not None  # noqa: S101 - the same
        answer.read_nowait()
        if not answer.whole or self._refusal(answer.message) is not None:
            provider.channel.ignore()
            self._client.hand_over(self._go_on)
            return
        response = answer.message
        data = self._head_back(response) + self._framed_back(response)
        self._record.succeed(response.status)
        self._give_back(provider, reusable=answer.another_may_follow)
        self._client.in_hand = None
        self._forward.end()
        self._client.answer_at_once(data)

    def abandon(self) -> None:
        """End the call with its client's connection."""
        if self._provider is not None:
            self._give_back(self._provider, reusable=False)
        self._forward.end()

    # In the task of the client's connection

    async def run(self) -> None:
        """Relay the call from its beginning."""
        self._begin()
        if not self._forward.holds():  # it was let through before this task had its turn
            self.cancel()
        self._provider = self._pool.take(self._forward.origin, self._forward.caller)
        await self._finish(None)

    async def _go_on(self, unsent: bytes = b"") -> None:
        """Go on with what was begun at once."""
        self._client.in_hand = None
        await self._finish(unsent)

    def _begin(self) -> None:
        self._client.cancel_when_lost()
        self._record = self._forward.begin(self)

    async def _finish(self, unsent: bytes | None) -> None:
        """Relay the call from where it is; nothing is sent yet if `unsent` is None."""
        try:
            await self._relay(unsent)
        except UpstreamError as error:
            await self._fail(error)
        finally:
            self._forward.end()

    async def _relay(self, unsent: bytes | None) -> None:
        if self._provider is not None:
            try:
                await self._exchange(self._provider, unsent)
            except ConnectionBrokenError:
                if not self._may_be_sent_again:
                    raise
            else:
                return
            self._record.attempts += 1
            self._record.stage = Stage.CONNECT
        await self._exchange(await self._open(), None)

    async def _open(self) -> Connection:
        """Connect. Raises: UpstreamError, also when the provider is gone meanwhile."""
        with trio.CancelScope() as self._connecting:
            if self._cancelled:
                self._connecting.cancel()
            return await self._pool.open(self._forward.origin, self._forward.caller)
        raise ConnectionBrokenError("the provider is gone")

    @property
    def _may_be_sent_again(self) -> bool:
        request = self._request
        harmless = request.framing is Framing.NONE and request.method in IDEMPOTENT
        answered = self._answer is not None and self._answer.begun
        return harmless and not (answered or self._cancelled)

    async def _exchange(self, provider: Connection, unsent: bytes | None) -> None:
        """Send the request and pass the response back, over a connection that is kept or closed then."""
        keep = False
        try:
            if self._cancelled:
                raise ConnectionBrokenError("the provider is gone")
            if unsent is None:
                unsent = self._send(provider)
            assert self._answer is not None  # noqa: S101 - for the type checker
            await self._answer_beside_upload(provider, self._answer, unsent)
            keep = self._uploaded and self._answer.another_may_follow
        finally:
            self._give_back(provider, reusable=keep)

    def _give_back(self, provider: Connection, *, reusable: bool) -> None:
        self._provider = None
        provider.channel.ignore()
        provider.reusable = reusable
        self._pool.give_back(provider)

    async def _fail(self, error: UpstreamError) -> None:
        """Tell the caller of a failure; one that has a part of the response sees that it is not all."""
        failure = self._forward.failure(None if self._cancelled else error)
        if self._malformed is not None:
            why = str(self._malformed)
            failure = Failure(self._malformed.status, why, why, failure.fields)
        self._record.failure = failure.why
        client = self._client
        if self._responding:
            client.last = True
            client.broken = self._ends_with_connection
        else:
            self._record.status = failure.status
            client.last = client.last or not self._request.complete
            await client.write(client.plain(failure.status, failure.text, failure.fields))

    # The request

    def _send(self, provider: Connection) -> bytes:
        """Send what goes without waiting; return what is left of what is here."""
        request = self._request
        self._provider = provider
        self._record.stage = Stage.REQUEST
        to_head = request.method == b"HEAD"
        self._answer = Answer(provider.channel, MAX_HEAD_BYTES, to_head=to_head, heads=self._heads)
        data = self._head() + self._framed(request.take())
        try:
            sent = provider.channel.send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            sent = len(data)  # the provider may have answered all the same: reading tells
        self._uploaded = request.complete and sent == len(data)
        return data[sent:]

    async def _answer_beside_upload(self, provider: Connection, answer: Answer, unsent: bytes) -> None:
        if self._uploaded:
            await self._pass_back(answer)
            return
        async with background_task(partial(self._upload, provider, unsent), trio.CancelScope()):
            await self._pass_back(answer)

    def _head(self) -> bytes:
        request, head = self._request, self._forward.head()
        if request.framing is Framing.CHUNKED:
            return head + _CHUNKED + b"\r\n"
        if not request.declares_length and request.method in _METHODS_WITH_BODY:
            return head + b"content-length: 0\r\n\r\n"
        return head + b"\r\n"

    def _framed(self, body: bytes) -> bytes:
        """Return a part of the request's body as it goes on, with the end behind its last part."""
        self._record.request_bytes += len(body)
        if self._request.framing is not Framing.CHUNKED:
            return body
        return chunk(body) + LAST_CHUNK if self._request.complete else chunk(body)

    async def _upload(self, provider: Connection, data: bytes) -> None:
        """Send what is left of the request as it comes. What goes wrong ends the download, which tells."""
        request = self._request
        try:
            await provider.channel.send_all(data)
            await self._client.ask_for_body(request)
            while not request.complete and await self._client.read_more(request):
                await provider.channel.send_all(self._framed(request.take()))
            self._uploaded = request.complete
        except MalformedError as error:
            self._malformed = error
            provider.channel.shut_down()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # a provider that stops reading may have answered: reading tells

    # The response

    async def _pass_back(self, answer: Answer) -> None:
        """Pass the response back. Raises: UpstreamError."""
        while await answer.status() < 200:  # noqa: PLR2004 - an interim response
            if answer.message.status == _SWITCHING_PROTOCOLS:
                raise ProtocolError("the peer switches protocols (101), which it was not asked to do")
            answer.next_message()
        response, client = answer.message, self._client
        if (refusal := self._refusal(response)) is not None:
            raise refusal
        data = self._head_back(response)
        self._responding = True
        self._record.stage, self._record.status = Stage.RESPONSE, response.status
        while True:
            data += self._framed_back(response)
            if response.complete:  # the caller will have it all and may leave, which is no failure
                self._record.succeed(response.status)
            if data:
                await client.write(data)
            if response.complete:
                return
            await answer.read()
            data = b""

    def _refusal(self, response: IncomingResponse) -> UndeliveredError | None:
        return self._forward.refusal(response.status, response.headers)

    def _head_back(self, response: IncomingResponse) -> bytes:
        """Return the head that goes back, and settle how the body does."""
        client = self._client
        if response.framing is Framing.CHUNKED or response.framing is Framing.CLOSE:
            self._chunked_back = self._request.version == "1.1"
            self._ends_with_connection = not self._chunked_back
            client.last = client.last or self._ends_with_connection
        known, form = response.head, (self._chunked_back, client.requests_follow)
        written = known.passed_back.get(form)
        if written is None:
            written = self._write_head_back(response)
            if known.kept:
                known.passed_back = {**known.passed_back, form: written}
        head, dated = written
        return head + (b"\r\n" if dated else b"date: %b\r\n\r\n" % date())  # RFC 9110, section 6.6.1

    def _write_head_back(self, response: IncomingResponse) -> tuple[bytes, bool]:
        fields = response.headers
        if response.status == _NO_CONTENT:  # RFC 9110, section 8.6
            fields = [field for field in fields if field[0].lower() != b"content-length"]
        head = b"HTTP/1.1 %d %b\r\n" % (response.status, response.reason)
        head += self._forward.lines_back(fields)
        if self._chunked_back:
            head += _CHUNKED
        if not self._client.requests_follow:
            head += b"connection: close\r\n"
        return head, any(name.lower() == b"date" for name, _ in fields)

    def _framed_back(self, response: IncomingResponse) -> bytes:
        """Return what has come of the response's body as it goes back, with the end behind its last part."""
        body = response.take()
        self._record.response_bytes += len(body)
        if not self._chunked_back:
            return body
        if not response.complete:
            return chunk(body)
        trailers = self._forward.lines_back(response.trailers) if self._request.accepts_trailers else b""
        return b"%b0\r\n%b\r\n" % (chunk(body), trailers)
