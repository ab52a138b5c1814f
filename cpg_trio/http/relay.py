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
goes on from there. Bodies are passed on without a task as well, as long as both sides keep up (`passing`).
Only a body that does not fit the provider's socket has its own task.

A connection that was kept and proves dead before a byte came back is replaced once, if the request may be
sent twice. There is no timeout but that of connecting: how long a call may take is its caller's to say.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

import attrs

from cpg_trio.asgi import ClientDisconnectedError, HeaderList, Receive, Scope, Send
from cpg_trio.call_context import CallContext
from cpg_trio.call_record import Call, Stage
from cpg_trio.http.client.errors import NotSentError, UndeliveredError, UpstreamError
from cpg_trio.http.client.exchange import ClientExchange
from cpg_trio.http.client.origin import Origin
from cpg_trio.http.client.pool import Pool
from cpg_trio.http.client.request import LAST_CHUNK, ONE_WRITE_BYTES, PreparedRequest, chunk
from cpg_trio.http.heads import Framing, MalformedError
from cpg_trio.http.messages import IncomingResponse
from cpg_trio.http.outgoing import OutgoingHead
from cpg_trio.http.passing import Piece, RequestBody, ResponseBody
from cpg_trio.http.server.asgi import AsgiCall
from cpg_trio.http.server.exchange import ServerExchange

_NO_CONTENT = 204
_METHODS_WITH_BODY = frozenset({b"PATCH", b"POST", b"PUT"})
_CHUNKED = Framing.CHUNKED
_CHUNKED_LINE = b"transfer-encoding: chunked\r\n"


class RequestRefusedError(Exception):
    """A request that a gateway refuses: the status and the plain text of the response, and its fields."""

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
    code: str
    """The code of the call, as the gateway names them."""
    fields: HeaderList = attrs.field(factory=list)


class Forward(Protocol):
    """A request that is let through. One object a call."""

    @property
    def origin(self) -> Origin:
        """Where it goes."""

    @property
    def is_here(self) -> bool:
        """Whether an application of this process answers it: then it goes nowhere else."""

    async def answer(self, scope: Scope, receive: Receive, send: Send, /) -> None:
        """Answer it here. An ASGI application."""

    @property
    def context(self) -> CallContext:
        """The context of the call."""

    @property
    def caller(self) -> str:
        """Whom the pool counts it for."""

    @property
    def may_move(self) -> bool:
        """Whether it may go elsewhere, if where it goes has not received it."""

    def move(self, call: RelayCall, error: UpstreamError, /) -> bool:
        """Go elsewhere after an error, if there is another place; return whether there is."""

    def head(self) -> bytes:
        """Return the head that goes on, without the empty line.

        Of framing, it has at most a content-length, which it has not if the exchange tells it (`declared`).
        """

    def refusal(self, status: int, fields: HeaderList) -> UndeliveredError | None:
        """Return what it means that a response is not the provider's answer; None if it is."""

    def head_back(self, fields: HeaderList) -> HeaderList:
        """Return the fields of the head that goes back for a response with these, which others may share."""

    def fields_back(self, fields: HeaderList) -> HeaderList:
        """Return which fields of a response go back that are not in its shared head, or of its trailers."""

    def code_of_head(self, status: int, fields: HeaderList) -> str:
        """Return the code of a response whose head alone tells it; empty if what follows may tell it."""

    def code_of_end(self, status: int, fields: HeaderList, trailers: HeaderList, body: bytes) -> str:
        """Return the code of a response that has ended; `body` is the last piece of its body."""

    def begin(self, call: RelayCall) -> Call:
        """Note that the call begins; it may be cancelled from then on. Return its record, to be filled in."""

    def end(self, call: RelayCall) -> None:
        """Note that the call has ended as its record says."""

    def failure(self, error: UpstreamError | MalformedError | None) -> Failure:
        """Return what a failure means, of the provider or of the request's body; None is a cancelled call."""


class Gateway(Protocol):
    """Decides what becomes of a request."""

    def claims(self, target: bytes, /) -> bool:
        """Whether a request for this target is the gateway's at all."""

    def admit(self, caller: ServerExchange, /) -> Forward:
        """Return what to do with a request. Raises: RequestRefusedError."""


class Relay:
    """Passes the requests that a gateway lets through on to where it says, over the connections of a pool."""

    def __init__(self, gateway: Gateway, pool: Pool) -> None:
        self._gateway = gateway
        self._pool = pool
        self.claims = gateway.claims

    def begin(self, caller: ServerExchange, /) -> None:
        """Begin to relay a request, without waiting."""
        try:
            forward = self._gateway.admit(caller)
        except RequestRefusedError as refused:
            caller.finish_nowait(caller.respond_text(refused.status, refused.text, refused.fields))
            return
        if not forward.is_here:
            RelayCall(caller, forward, self._pool).start()
        else:
            caller.hand_over(AsgiCall(caller, forward.answer, forward.context).run)

    async def __call__(self, caller: ServerExchange, /) -> None:
        """Relay a request whose head has been read."""
        try:
            forward = self._gateway.admit(caller)
        except RequestRefusedError as refused:
            await caller.finish(caller.respond_text(refused.status, refused.text, refused.fields))
            return
        if not forward.is_here:
            await RelayCall(caller, forward, self._pool).run()
        else:
            await AsgiCall(caller, forward.answer, forward.context).run()


class RelayCall:
    """One call in flight. It ends when its answer has been passed on, or when either side is gone."""

    _cancelled = False  # most calls never are
    _malformed: MalformedError | None = None  # what is wrong with the request's body
    _request_body: RequestBody | None = None  # that is passed on without a task
    _response_body: ResponseBody | None = None

    def __init__(self, caller: ServerExchange, forward: Forward, pool: Pool) -> None:
        """Begin the call, which is to be started or run at once."""
        self._caller = caller
        self._forward = forward
        body = caller.take()
        self._pool = pool
        self._body = body if forward.may_move else b""
        self._request = self._prepared(body)
        self._exchange = ClientExchange(pool, forward.origin, self._request, forward.caller)
        caller.cancel_when_lost()
        self._record = forward.begin(self)
        self._record.request_bytes = len(body)

    def cancel(self) -> None:
        """End the call from outside, as its provider is gone, or may not be called any more."""
        self._cancelled = True
        self._exchange.abort()

    # At once

    def start(self) -> None:
        """Send the request without waiting, and have the answer passed back when it comes."""
        self._caller.in_hand = self
        self._caller.connection.after_round(self._send)

    def _send(self) -> None:
        caller, exchange = self._caller, self._exchange
        if caller.in_hand is not self:  # it has been abandoned
            return
        if exchange.start():
            exchange.watch(caller.connection.service.reactor, self._hear)
        elif exchange.is_sent_so_far:
            exchange.watch(caller.connection.service.reactor, self._hear_early)
            body = RequestBody(caller, exchange, self._record, self._expect, self._hand_over)
            self._request_body = body
            body.begin()
        else:
            caller.hand_over(self._go_on)

    def take_body(self) -> None:
        """Pass on what has come of the request's body."""
        if self._request_body is not None:
            self._request_body.take()

    def _expect(self) -> None:
        """Expect the response: all of the request has been sent."""
        self._request_body = None
        self._exchange.watch(self._caller.connection.service.reactor, self._hear)

    def _hear_early(self, _readable: bool, _gone: bool) -> None:  # noqa: FBT001 - the reactor's signature
        try:
            self._hand_over()
        except Exception as error:  # noqa: BLE001 - it ends its client's connection alone
            self._caller.fail(error)

    def _hand_over(self) -> None:
        """Have the task go on with what is passed on without one."""
        exchange, caller, body = self._exchange, self._caller, self._request_body
        exchange.ignore()
        if body is not None:
            self._request_body = None
            if not body.still_comes():
                return
            self._malformed = body.malformed
            remaining = None if caller.framing is _CHUNKED else caller.remaining
            exchange.replace_rest(None if caller.complete else self._rest_of_body(), remaining)
        caller.hand_over(self._go_on)

    def _hear(self, _readable: bool, gone: bool) -> None:  # noqa: FBT001 - the reactor's signature
        try:
            exchange, caller = self._exchange, self._caller
            response_is_whole, response = exchange.read_nowait(), exchange.message
            goes_back = response_is_whole or self._may_pass_back(response)
            if not goes_back or self._forward.refusal(response.status, _telling(response)):
                exchange.ignore()
                caller.hand_over(self._go_on)
                return
            self._respond(response)
            if response_is_whole:
                piece = self._body_back(response)
                self._record.succeed(response.status, response.head.code or self._code(response, piece))
                self._finish(piece)
                return
            self._record.stage, self._record.status = Stage.RESPONSE, response.status
            body = ResponseBody(exchange, caller, self._record, self._end_body, self._hand_over)
            self._response_body = body
            body.begin(gone=gone)
        except Exception as error:  # noqa: BLE001 - it ends its client's connection alone
            self._caller.fail(error)

    def _may_pass_back(self, response: IncomingResponse) -> bool:
        """Whether a response that has not come to its end can be passed back without a task."""
        return (
            response.status >= 200  # noqa: PLR2004 - a final response
            and self._caller.passes_at_once
            and not self._exchange.failed
        )

    def _end_body(self, piece: Piece) -> None:
        """End the call with the last piece of a response that was passed back without a task."""
        caller, response = self._caller, self._exchange.message
        self._record.succeed(
            response.status, response.head.code or self._code(response, self._last_of(piece))
        )
        if len(piece) > ONE_WRITE_BYTES:  # not copied behind anything
            caller.write_on(piece)
            piece = b""
            if caller.lost:
                return
        self._finish(bytes(piece))

    def _finish(self, piece: bytes) -> None:
        """Send the last piece of a response, or all of it, as the call has succeeded."""
        exchange, caller = self._exchange, self._caller
        exchange.close()
        caller.in_hand = None
        self._forward.end(self)
        caller.finish_nowait(piece, self._trailers_back(exchange.message))

    def _last_of(self, piece: Piece) -> bytes:
        """Return the last piece of a response's body that is not empty: `piece`, or one before it."""
        return bytes(piece) or (self._response_body.last if self._response_body is not None else b"")

    def abandon(self) -> None:
        """End the call: its caller is lost."""
        if self._request_body is not None:
            self._request_body.stop()
            self._request_body = None
        self._exchange.close(keep=False)
        self._end()

    # In a task

    async def _go_on(self) -> None:
        """Go on in a task, unless the caller was lost before it had its turn."""
        if self._caller.in_hand is self:
            await self.run()

    async def run(self) -> None:
        """Relay the call, from where it is."""
        self._caller.in_hand = None
        try:
            while True:
                try:
                    async with self._exchange:
                        await self._pass_back()
                    break
                except (NotSentError, UndeliveredError) as error:
                    if not self._moves(error):
                        raise
        except ClientDisconnectedError:
            pass  # within its request
        except UpstreamError as error:
            await self._fail(self._forward.failure(None if self._cancelled else error))
        except MalformedError as error:  # of the request's body
            await self._fail(self._forward.failure(error))
        finally:
            self._end()

    def _moves(self, error: UpstreamError) -> bool:
        """Whether the call goes elsewhere: where it went has not received it, and all of it is here."""
        forward, is_whole = self._forward, self._request.rest is None
        if self._cancelled or not (forward.may_move and is_whole) or not forward.move(self, error):
            return False
        self._request = self._prepared(self._body)
        self._exchange = ClientExchange(self._pool, forward.origin, self._request, forward.caller)
        return True

    def note_progress(self) -> None:
        """Bring the record up to date, which the exchange itself does not do."""
        record, exchange = self._record, self._exchange
        record.attempts = exchange.attempts
        if record.stage is not Stage.RESPONSE:
            record.stage = Stage.REQUEST if exchange.has_sent else Stage.CONNECT

    def _end(self) -> None:
        self.note_progress()
        self._forward.end(self)

    async def _fail(self, failure: Failure) -> None:
        """Tell the caller of a failure; one that has a part of the response sees that it is not all."""
        self._record.failure, self._record.code = failure.why, failure.code
        caller = self._caller
        if caller.responded:
            caller.abort()
        else:
            self._record.status = failure.status
            await caller.finish(caller.respond_text(failure.status, failure.text, failure.fields))

    # The request

    def _prepared(self, body: bytes) -> PreparedRequest:
        """Return the request as it goes on, with what has come of its body."""
        caller, start, method = self._caller, self._forward.head(), self._caller.head.method
        rest = None if caller.complete else self._rest_of_body()
        if caller.framing is _CHUNKED:
            last = LAST_CHUNK if caller.complete else b""
            start += b"%b\r\n%b%b" % (_CHUNKED_LINE, chunk(body), last)
            return PreparedRequest(method, start, rest, None)
        length = b""
        if declared := caller.declared:
            length = b"content-length: %b\r\n" % declared
        elif not caller.declares_body and method in _METHODS_WITH_BODY:
            length = b"content-length: 0\r\n"
        return PreparedRequest(method, b"%b%b\r\n%b" % (start, length, body), rest, caller.remaining)

    async def _rest_of_body(self) -> AsyncGenerator[bytes, None]:
        """Yield the rest of the request's body. Raises: MalformedError; ClientDisconnectedError."""
        if self._malformed is not None:
            raise self._malformed
        while body := await self._caller.read():  # on HTTP/2 it may have come to its end by now
            self._record.request_bytes += len(body)
            yield body

    # The response

    async def _pass_back(self) -> None:
        """Pass the response back. Raises: UpstreamError."""
        exchange, caller = self._exchange, self._caller
        response = exchange.message
        if not caller.responded:
            if (refusal := self._forward.refusal(response.status, _telling(response))) is not None:
                raise refusal
            self._respond(response)
            self._record.stage, self._record.status = Stage.RESPONSE, response.status
        before = self._last_of(b"")
        while not response.complete:
            piece = self._body_back(response)
            await caller.write(piece)
            before = piece or before
            await exchange.read()
        if caller.lost:  # since the task was woken
            raise ClientDisconnectedError("the client left before the end of its answer")
        body = self._body_back(response)
        code = response.head.code or self._code(response, body or before)
        self._record.succeed(response.status, code)  # the caller will have it all and may leave: no failure
        await caller.finish(body, self._trailers_back(response))

    def _respond(self, response: IncomingResponse) -> None:
        """Begin to pass a response back: what its head is to all that share it, and what is its own."""
        head = response.head.passed_back or self._head_back(response)
        more = self._forward.fields_back(response.metadata) if response.metadata else None
        self._caller.respond(head, response.declared, more)

    def _head_back(self, response: IncomingResponse) -> OutgoingHead:
        """Return the head that goes back, which is the same for all responses that share a head."""
        head = response.head
        if head.passed_back is None:
            fields = self._forward.head_back(head.fields)
            if response.status == _NO_CONTENT:  # RFC 9110, section 8.6
                fields = [field for field in fields if field[0].lower() != b"content-length"]
            head.passed_back = OutgoingHead(response.status, fields, response.reason)
            head.code = self._forward.code_of_head(response.status, head.fields)
        return head.passed_back

    def _code(self, response: IncomingResponse, body: bytes) -> str:
        return self._forward.code_of_end(response.status, response.head.fields, response.trailers or [], body)

    def _body_back(self, response: IncomingResponse) -> bytes:
        """Return what has come of the body."""
        body = response.take()
        self._record.response_bytes += len(body)
        return body

    def _trailers_back(self, response: IncomingResponse) -> HeaderList:
        return self._forward.fields_back(response.trailers) if response.trailers else []


def _telling(response: IncomingResponse) -> HeaderList:
    """Return the fields of a response that tell something: all but those that are in no head."""
    return response.headers if response.metadata else response.head.fields
