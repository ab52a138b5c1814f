"""HTTP/1.1: heads are read, requests answered one after the other, and the connection goes on.

One task a connection, and no other: an application is called in it, and what it receives is read from the
socket when it asks.

What is not HTTP/1.1 is left to others: `run` returns, and `read_of_another_protocol` is what was read of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import trio

from cpg_trio.asgi import ClientDisconnectedError
from cpg_trio.http.channel import Address, Channel
from cpg_trio.http.client.request import chunk
from cpg_trio.http.heads import MalformedError
from cpg_trio.http.messages import IncomingRequest
from cpg_trio.http.outgoing import OutgoingHead, block, date, field_lines, plain_response
from cpg_trio.http.schemes import PLAIN_IS_SPOKEN, is_tls
from cpg_trio.http.server.connection import ServerConnection
from cpg_trio.http.server.connection_limit import Slot
from cpg_trio.http.server.exchange import ServerExchange
from cpg_trio.http.server.service import Service, Work
from cpg_trio.http.server.states import TRANSITIONS, Input, State
from cpg_trio.http.server.websocket import WebSocketCall

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = (b"connection", b"close")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\n"  # of HTTP/2, as far as it looks like a request

# A member of an Enum takes ten times as long to look up as a global name.
_IDLE, _HEAD, _REQUEST, _DONE = State.IDLE, State.HEAD, Input.REQUEST, Input.DONE


class Http1Connection(ServerConnection):
    """One client's connection that speaks HTTP/1.1."""

    _exchange: Http1Exchange | None = None  # in progress
    _work: Work | None = None  # for the task
    websocket: WebSocketCall | None = None
    """The one that it has become."""
    rest = b""
    """What has been read, and belongs to no request yet."""

    def __init__(
        self,
        channel: Channel,
        service: Service,
        client: Address,
        server: Address,
        slot: Slot,
        exchange_type: type[Http1Exchange],
    ) -> None:
        """Take `channel`. `exchange_type` is the engine that reads requests and writes responses."""
        super().__init__(channel, service, client, server, slot)
        self._exchange_type = exchange_type

    async def drain(self) -> None:
        """Take no other request. The one in progress is finished."""
        state = self.state
        if state is _IDLE:
            self._wake()  # the task looks whether a request has come
            return
        self.enter(Input.LAST)
        if self.websocket is not None:
            await self.websocket.go_away()
        elif state is _HEAD:
            self.scope.cancel()

    @property
    def exchanges(self) -> Collection[ServerExchange]:
        """The one that is in progress."""
        return () if self._exchange is None else (self._exchange,)

    # Callbacks

    def _take_up(self) -> None:
        if self.state is not _IDLE:
            exchange = self._exchange
            if exchange is not None and exchange.in_hand is not None and not exchange.complete:
                exchange.in_hand.take_body()
            return
        if self.rest:  # comes before it, and the task has been woken for that
            return
        data = self._receive_nowait()
        if data is None:
            return
        self.service.timeouts.idle.end(self)
        if not data:
            self.enter(Input.LAST)
            self._wake()
            return
        exchange = self._exchange_type(self)
        try:
            self.rest = exchange.feed(data)
        except MalformedError:
            self._read_in_task(data)  # which says what is wrong with it, or whose it is
            return
        if exchange.has_head:
            self._take(exchange)
            if exchange.wants_websocket:
                self._do(WebSocketCall(exchange).run)
            else:
                self._begin(exchange)
        else:
            self.enter(Input.HEAD)
            self._do(partial(self._read_on, exchange, b""))

    def _read_in_task(self, data: bytes) -> None:
        """Have the task read a request of which `data` is all that has come, and what follows it."""
        self.rest = b""
        self.enter(Input.HEAD)
        self._do(partial(self._read_on, self._exchange_type(self), data))

    def hand_over(self, exchange: ServerExchange, work: Work) -> None:  # noqa: ARG002 - there is one
        """Have the connection's task go on with its exchange."""
        self._do(work)

    def _do(self, work: Work) -> None:
        self._work = work
        self._wake()

    def done(self) -> None:
        """Go on behind an exchange that is over, without the task if nothing has come yet."""
        self._end_exchange()
        if self.state is not _IDLE or self.rest or self._is_readable or self.channel.may_have_more:
            self._wake()

    # The task

    async def _serve(self) -> None:
        self.service.timeouts.head.begin(self)  # of a client that connects, a request is expected soon
        while self._work is not None or self._exchange is not None or self.state is _IDLE:
            if self._work is not None:
                await self._take_work()()  # in no variable: it holds what was read with the request
                self._end_exchange()
            elif self.state is not _IDLE:
                await self._sleep()
            elif self.rest:
                self._read_in_task(self.rest)
            elif self._may_have_more:
                await trio.lowlevel.checkpoint()  # a client that is fast is not to have the loop for itself
                self._take_up()
            elif self.service.draining:
                # In the moment before the close: whoever sends what is not read can not know if it has run.
                self._take_up()
                if self.state is _IDLE:
                    self.enter(Input.LAST)
            else:
                await self._sleep()

    def _take_work(self) -> Work:
        work, self._work = self._work, None
        assert work is not None  # noqa: S101 - for the type checker
        return work

    async def _read_on(self, exchange: Http1Exchange, data: bytes) -> None:
        """Read a head to its end, and answer the request. `data` has been read of it, and not been fed."""
        try:
            if not await self._read_head(exchange, data):
                self.enter(Input.LAST)
                return
        except MalformedError as error:
            self.enter(Input.LAST)
            self._sends_unread = True
            await self.write(plain_response(error.status, f"{error}\n", [_CLOSE]))
            return
        self._take(exchange)
        await trio.lowlevel.checkpoint()  # a client that pipelines is not to have the loop for itself
        await (WebSocketCall(exchange).run() if exchange.wants_websocket else self._answer(exchange))

    async def _read_head(self, exchange: Http1Exchange, data: bytes) -> bool:
        """Read to the end of a head; return False if the client leaves, or speaks another protocol.

        Also if it has left behind a head that came whole, or was let go meanwhile.
        """
        timed = not self._served
        if data:
            self._feed(exchange, data)
        while not (exchange.has_head or self.read_of_another_protocol):
            if not timed:
                self.service.timeouts.head.begin(self)  # once: a head in crumbs earns no more
                timed = True
            data = await self.receive()
            if not data:
                return False
            self._feed(exchange, data)
        return self.state is _HEAD and not self.read_of_another_protocol

    def _feed(self, exchange: Http1Exchange, data: bytes) -> None:
        before = exchange.head_bytes
        try:
            self.rest = exchange.feed(data)
        except MalformedError:
            if not self._served and (read := before + data).startswith(_PREFACE):
                self.read_of_another_protocol = read
                return
            if not self._served and is_tls(before + data):
                self.service.wrong_schemes.note(self.client, PLAIN_IS_SPOKEN)
                raise MalformedError(PLAIN_IS_SPOKEN) from None
            raise

    # Exchanges

    def _take(self, exchange: Http1Exchange) -> None:
        """Take up a request whose head is here."""
        if self.state is _HEAD or not self._served:
            self.service.timeouts.head.end(self)
        self._served += 1
        self._exchange = exchange
        self.state = TRANSITIONS[self.state][_REQUEST]
        if not exchange.keep_alive:
            self.enter(Input.LAST)

    def _end_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if not exchange.complete or self.websocket is not None:
            self._sends_unread = True
            self.enter(Input.LAST)
        elif self.service.draining:
            self.enter(Input.LAST)
        self.state = TRANSITIONS[self.state][_DONE]
        if self.state is _IDLE:
            self.service.timeouts.idle.begin(self)


class Http1Exchange(IncomingRequest, ServerExchange):
    """A request as it comes in, and its response."""

    _chunked = False
    _ends_with_connection = False  # the response has no other end
    _unsent = b""  # of a head that did not go without waiting

    def __init__(self, connection: Http1Connection) -> None:
        """Take what comes next on a connection."""
        super().__init__(connection.service.config.max_head_bytes)
        self.connection = self.http1 = connection
        self.heads = connection.service.heads
        self.scope = connection.scope

    # The request

    @property
    def passes_at_once(self) -> bool:
        """Whether bodies can be passed on without a task. One that is waited for has to be asked for."""
        return not self.expects_continue

    async def _ask_for_body(self) -> None:
        if self.expects_continue and not self.responded:
            self.expects_continue = False
            await self.http1.write(_CONTINUE)

    async def _receive(self) -> None:
        connection = self.http1
        data = await connection.receive()
        self.rate.came(len(data))
        if not data:
            connection.lose()
            raise ClientDisconnectedError("the client left before the end of its request")
        try:
            connection.rest = self.feed(data)
        except MalformedError:
            connection.enter(Input.LAST)
            raise

    def receive_nowait(self, *, much: bool) -> bytes | memoryview | None:
        """Return what has come of the body, to be used at once; None if nothing has come."""
        connection = self.http1
        data = connection.receive_shared_nowait(much=much)
        if data is None:
            return None
        if not data:
            connection.lose()
            return None
        self.rate.came(len(data))
        try:
            piece, connection.rest = self.pass_through(data)
        except MalformedError:
            connection.enter(Input.LAST)
            raise
        return piece

    def give_up(self) -> None:
        """Let the client go: it is out of time."""
        self.http1.give_up()

    # The response

    def close_after(self) -> None:
        """Let no other request follow this one."""
        self.http1.enter(Input.LAST)

    async def write(self, data: bytes) -> None:
        """Send a part of the body, and the head before it. Raises: ValueError for more than was declared."""
        self._count(data, is_last=False)
        out = self._taken_head() + self._framed(data)
        if out:
            await self.http1.write(out)

    def write_nowait(self) -> None:
        """Send the head alone, as far as that goes without waiting."""
        head = self._taken_head()
        self._unsent = head[self.http1.write_nowait(head) :]

    def write_on(self, data: bytes | memoryview) -> bool:
        """Send a part of the body, and the head before it, as far as that goes without waiting."""
        self._count(data, is_last=False)
        head, out = self._taken_head(), self._framed(data)
        if head:
            out = head + out
        sent = self.http1.write_nowait(out) if out else 0
        if sent == len(out):
            return True
        self._unsent = bytes(out[sent:])
        return False

    async def finish(self, data: bytes = b"", trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send the rest of the response."""
        self._count(data, is_last=True)
        if out := self._last(data, trailers):
            await self.http1.write(out)

    def finish_nowait(self, data: bytes = b"", trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send the rest of the response, and go on with the connection."""
        self.http1.after_round(partial(self._send_last, self._last(data, trailers)))

    def _send_last(self, out: bytes) -> None:
        connection = self.http1
        sent = connection.write_nowait(out) if out else 0
        if sent < len(out):
            self.hand_over(partial(connection.write_rest, out, sent))
        else:
            self.in_hand = None
            connection.done()

    def abort(self) -> None:
        """Break the response off: the connection ends, by a reset where its end is that of the response."""
        self.finished = True
        self.http1.enter(Input.BREAK if self._ends_with_connection else Input.LAST)

    def _last(self, data: bytes, trailers: Sequence[tuple[bytes, bytes]]) -> bytes:
        if self._out is not None and not self.complete:
            self.http1.enter(Input.LAST)  # the rest of the request is not wanted
        self.finished = True
        out = self._taken_head()
        if not self._chunked:
            return out if self.silent else out + data
        kept = block(trailers) if trailers and self.accepts_trailers else b""
        return out + self._framed(data) + b"0\r\n%b\r\n" % kept

    def _framed(self, data: bytes | memoryview) -> bytes | memoryview:
        if self.silent or not data:
            return b""
        return chunk(data) if self._chunked else data

    def _taken_head(self) -> bytes:
        """Return what goes out before the body: the head, if that has not gone."""
        head, self._out = self._out, None
        if head is None:
            unsent, self._unsent = self._unsent, b""
            return unsent
        if head.length is None and self._owed is None and not self.silent:
            self._chunked = self.version == "1.1"
            if not self._chunked:
                self._ends_with_connection = True
                self.http1.enter(Input.LAST)
        return self._written(head, close=not self.http1.requests_follow)

    def _written(self, head: OutgoingHead, *, close: bool) -> bytes:
        """Return a head as it goes out."""
        form = self._chunked, close
        written = head.forms.get(form)
        if written is None:
            written = head.forms[form] = _written(head, chunked=self._chunked, close=close)
        end = b"x-request-id: %b\r\n\r\n" % self.request_id if self.request_id else b"\r\n"
        if declared := self._declared:
            end = b"content-length: %b\r\n%b" % (declared, end)
        if self._more:
            end = field_lines(self._more) + end
        return written + end if head.has_date else b"%bdate: %b\r\n%b" % (written, date(), end)


def _written(head: OutgoingHead, *, chunked: bool, close: bool) -> bytes:
    """Return a head as bytes, without what differs from response to response: a date, a request id."""
    written = b"HTTP/1.1 %d %b\r\n%b" % (head.status, head.reason, head.lines)
    if chunked:
        written += b"transfer-encoding: chunked\r\n"
    if close:
        written += b"connection: close\r\n"
    return written
