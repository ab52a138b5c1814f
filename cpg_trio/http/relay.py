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

from collections.abc import AsyncGenerator
from typing import Protocol

import attrs

from cpg_trio.asgi import ClientDisconnectedError, HeaderList
from cpg_trio.calls import Call, Stage
from cpg_trio.http.client.errors import UndeliveredError, UpstreamError
from cpg_trio.http.client.exchange import ClientExchange
from cpg_trio.http.client.origin import Origin
from cpg_trio.http.client.pool import Pool
from cpg_trio.http.client.request import LAST_CHUNK, PreparedRequest, chunk
from cpg_trio.http.fields import date
from cpg_trio.http.heads import Framing, MalformedError
from cpg_trio.http.messages import IncomingRequest, IncomingResponse
from cpg_trio.http.server.http1 import ServerConnection

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
        self.claims = gateway.claims

    def begin(self, client: ServerConnection, request: IncomingRequest, /) -> None:
        """Begin to relay a request that has come whole."""
        try:
            forward = self._gateway.admit(request, client)
        except RefusedError as refused:
            client.answer_at_once(client.plain(refused.status, refused.text, refused.fields))
            return
        RelayCall(client, request, forward, self._pool).start()

    async def __call__(self, client: ServerConnection, request: IncomingRequest, /) -> None:
        """Relay a request whose head has been read."""
        try:
            forward = self._gateway.admit(request, client)
        except RefusedError as refused:
            client.last = client.last or not request.complete
            await client.write(client.plain(refused.status, refused.text, refused.fields))
            return
        await RelayCall(client, request, forward, self._pool).run()


class RelayCall:
    """One call in flight. It ends when its answer has been passed on, or when either side is gone."""

    # What most calls never change is not set for each of them.
    _cancelled = False
    _responding = False
    _chunked_back = False
    _ends_with_connection = False  # the response, as it goes back

    def __init__(
        self, client: ServerConnection, request: IncomingRequest, forward: Forward, pool: Pool
    ) -> None:
        """Begin the call, which is to be started or run at once."""
        self._client = client
        self._request = request
        self._forward = forward
        body = request.take()
        self._exchange = ClientExchange(pool, forward.origin, self._prepared(body), forward.caller)
        client.cancel_when_lost()
        self._record = forward.begin(self)
        self._record.request_bytes = len(body)

    def cancel(self) -> None:
        """End the call from outside, as its provider is gone, or may not be called any more."""
        self._cancelled = True
        self._exchange.abort()

    # At once

    def start(self) -> None:
        """Send the request without waiting, and have the answer passed back when it comes."""
        client, exchange = self._client, self._exchange
        client.in_hand = self
        if exchange.start():
            exchange.watch(client.service.clocks.reactor, self._hear)
        else:
            client.hand_over(self.run)

    def _hear(self, _readable: bool, _gone: bool) -> None:  # noqa: FBT001 - a watcher's face
        try:
            self._read_at_once()
        except Exception as error:  # noqa: BLE001 - it is raised where it ends its client's connection alone
            self._client.fail(error)

    def _read_at_once(self) -> None:
        exchange, client = self._exchange, self._client
        if not exchange.read_nowait() or self._refusal(exchange.message) is not None:
            exchange.ignore()
            client.hand_over(self.run)
            return
        response = exchange.message
        data = self._head_back(response) + self._framed_back(response)
        self._record.succeed(response.status)
        exchange.close()
        client.in_hand = None
        self._forward.end()
        client.answer_at_once(data)

    def abandon(self) -> None:
        """End the call with its client's connection."""
        self._exchange.close(keep=False)
        self._end()

    # In the task of the client's connection

    async def run(self) -> None:
        """Relay the call, from where it is."""
        self._client.in_hand = None
        try:
            async with self._exchange:
                await self._pass_back()
        except ClientDisconnectedError:
            pass  # within its request
        except UpstreamError as error:
            await self._fail(self._forward.failure(None if self._cancelled else error))
        except MalformedError as error:  # of the request's body
            failure = self._forward.failure(None)
            await self._fail(Failure(error.status, str(error), str(error), failure.fields))
        finally:
            self._end()

    def _end(self) -> None:
        record, exchange = self._record, self._exchange
        record.attempts = exchange.attempts
        if record.stage is Stage.CONNECT and exchange.has_sent:
            record.stage = Stage.REQUEST
        self._forward.end()

    async def _fail(self, failure: Failure) -> None:
        """Tell the caller of a failure; one that has a part of the response sees that it is not all."""
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

    def _prepared(self, body: bytes) -> PreparedRequest:
        """Return the request as it goes on, with what has come of its body."""
        request, start = self._request, self._forward.head()
        rest = None if request.complete else self._rest_of_body()
        if request.framing is Framing.CHUNKED:
            last = LAST_CHUNK if request.complete else b""
            start += b"%b\r\n%b%b" % (_CHUNKED, chunk(body), last)
            return PreparedRequest(request.method, start, rest, None)
        if not request.head.declares_body and request.method in _METHODS_WITH_BODY:
            start += b"content-length: 0\r\n"
        return PreparedRequest(request.method, start + b"\r\n" + body, rest, request.remaining)

    async def _rest_of_body(self) -> AsyncGenerator[bytes, None]:
        """Yield the rest of the request's body. Raises: MalformedError; ClientDisconnectedError."""
        request, client = self._request, self._client
        await client.ask_for_body(request)
        while not request.complete:
            if not await client.read_more(request):
                raise ClientDisconnectedError("the client left within its request")
            body = request.take()
            self._record.request_bytes += len(body)
            yield body

    # The response

    async def _pass_back(self) -> None:
        """Pass the response back. Raises: UpstreamError."""
        exchange, client = self._exchange, self._client
        response = exchange.message
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
            await exchange.read()
            data = b""

    def _refusal(self, response: IncomingResponse) -> UndeliveredError | None:
        return self._forward.refusal(response.status, response.head.fields)

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
