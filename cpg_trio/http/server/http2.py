"""HTTP/2: h2 reads and writes frames, each stream is an exchange, and Hypercorn sends what has to wait.

Most requests come whole in one read, and their responses fit the windows of the client: such an exchange has
no task, no buffer and no queue. What the windows do not let through at once is `http2_sender`'s.

The reader never waits for an application: what a client may send ahead is bounded by the windows, whose
credit is given back as bodies are read. So a call that does not read holds up neither the other calls of its
connection nor the window updates that its own response waits for. Nothing is read while the client does not
read what it is sent, so it cannot make the server pile up answers.

A request's head is read as HTTP/1.1 would have it (RFC 9113, section 8.3), by the same strict reader: what is
refused there is refused here. Every other rule is in `exchange` and `connection`.

WebSocket over HTTP/2 is not offered, nor are push and priorities, which RFC 9113 has given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial

import h2.events
import h2.exceptions
import trio
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame

from cpg_trio._lines import one_line
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import ClientDisconnectedError, HeaderList
from cpg_trio.http.channel import Address, Channel
from cpg_trio.http.heads import Framing, MalformedError
from cpg_trio.http.messages import IncomingRequest
from cpg_trio.http.outgoing import OutgoingHead, block, date
from cpg_trio.http.server.connection import ServerConnection
from cpg_trio.http.server.connection_limit import Slot
from cpg_trio.http.server.errors import logger
from cpg_trio.http.server.exchange import ServerExchange
from cpg_trio.http.server.http2_engine import Http2Engine
from cpg_trio.http.server.http2_sender import Sender
from cpg_trio.http.server.service import Service, Work
from cpg_trio.http.server.states import SERVING, Input, State

# The window of a connection, beside the 64 KiB of each stream: what all its calls together may leave
# unread before the reading ones have to wait for the others.
_CONNECTION_WINDOW_BYTES = 2**20
_MAX_STREAMS = 100  # that a client may have open at once
# Requests whose calls have not ended, though their streams may have been reset. A client that begins and
# resets many more at once means no good.
_MOST_CALLS = 500
_EVENTS_AT_ONCE = 48
_BYTES_AT_ONCE = 2**16  # of a body: of a longer one, frames are made as they can be sent
_FORM = "HTTP/2"  # the key of `OutgoingHead.forms`
_ONLY_HTTP1 = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"upgrade"})  # RFC 9113, 8.2.2


class Http2Connection(ServerConnection):
    """One client's connection that speaks HTTP/2."""

    _nursery: trio.Nursery

    def __init__(
        self,
        channel: Channel,
        service: Service,
        client: Address,
        server: Address,
        slot: Slot,
        read: bytes,
    ) -> None:
        """Take `channel`, of which `read` has been read, and close it at the end of `run`."""
        super().__init__(channel, service, client, server, slot)
        self.engine = Http2Engine(_MAX_STREAMS, service.config.max_head_bytes)
        self._read_before = [read]
        self._exchanges: dict[int, Http2Exchange] = {}
        self._events: deque[h2.events.Event] = deque()  # that have not had their turn
        self._begun = 0  # requests of the read that is handled
        self._calls = 0  # that have a task
        self._unsent = bytearray()  # which the socket has not taken
        self._sent = trio.lowlevel.ParkingLot()
        self._sender: Sender | None = None
        self._sends_unread = True

    @property
    def exchanges(self) -> Collection[ServerExchange]:
        """Those that are in progress."""
        return self._exchanges.values()

    async def drain(self) -> None:
        """Tell the client that no new request is taken; end now if none is in progress."""
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        self.flush()
        # Not through h2, which would refuse from now on to send the rest of the responses.
        last = self.engine.highest_inbound_stream_id
        self._send(GoAwayFrame(0, last_stream_id=last).serialize())
        self.enter(Input.LAST)
        self._wake()

    def give_up(self) -> None:
        """Let a client go that is out of time: in order, if it has no request in progress."""
        if self.state is State.IDLE:
            self._say_goodbye()
        else:
            super().give_up()

    def lose(self) -> None:
        """Note that the client has left, or is not to be talked to any more."""
        super().lose()
        self._drop_all()
        self._sent.unpark_all()

    # Reading

    def _may_read(self) -> bool:
        return not (self._events or self._unsent) and self.state in SERVING

    def _take_up(self) -> None:
        if self._may_read() and (data := self._receive_nowait()) is not None:
            self._handle(data)
            if self._may_have_more:
                self._wake()  # the task reads on: the reactor tells of nothing that was here already

    def _handle(self, data: bytes) -> None:
        """Handle what was read; b"" is the client's end."""
        if not data:
            self._take_leave()
            return
        try:
            events = self.engine.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            logger.debug("the connection of a client of HTTP/2 is ended: %s", one_line(str(error)))
            self._terminate()
            return
        self._begun = 0
        self._handle_events(events)

    def _handle_events(self, events: Iterable[h2.events.Event]) -> None:
        """Handle some events, and keep the others: a client that sends much has not the loop for itself."""
        waiting = self._events
        begun: list[Http2Exchange] = []
        waiting.extend(events)
        for _ in range(_EVENTS_AT_ONCE):
            if waiting:
                self._handle_event(waiting.popleft(), begun)
        for exchange in begun:
            if not exchange.lost:
                exchange.begun = True
                self._begin(exchange)
        self.after_round(self.flush)
        if waiting:
            self._wake()

    def _handle_event(self, event: h2.events.Event, begun: list[Http2Exchange]) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._open(event, begun)
        elif isinstance(event, h2.events.DataReceived):
            self._receive_data(event)
        elif isinstance(event, h2.events.StreamEnded):
            if exchange := self._exchanges.get(event.stream_id):
                exchange.end()
        elif isinstance(event, h2.events.StreamReset):
            if exchange := self._exchanges.get(event.stream_id):
                exchange.lose()
                self._drop(exchange)
        elif isinstance(event, h2.events.WindowUpdated):
            self._open_window(event.stream_id or 0)
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self._open_window(0)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._terminate()

    def _open(self, event: h2.events.RequestReceived, begun: list[Http2Exchange]) -> None:
        """Open an exchange, or refuse its stream."""
        stream_id = event.stream_id
        if max(self._calls, self._begun) >= _MOST_CALLS:
            self.engine.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            self._terminate()
        elif not self.requests_follow or not self._slot.open_streams(len(self._exchanges) + 1):
            self._reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
        else:
            self._begun += 1
            exchange = Http2Exchange(self, stream_id)
            self._exchanges[stream_id] = exchange
            self._served += 1
            self.service.timeouts.idle.end(self)
            self.enter(Input.REQUEST)
            try:
                exchange.read_head(event.headers or (), is_whole=event.stream_ended is not None)
            except MalformedError as error:
                exchange.finish_nowait(exchange.respond_text(error.status, str(error)))
                return
            if exchange.complete and exchange.remaining:
                self.reset(exchange, ErrorCodes.PROTOCOL_ERROR)  # which h2 does not see
            else:
                begun.append(exchange)

    def _receive_data(self, event: h2.events.DataReceived) -> None:
        exchange, length = self._exchanges.get(event.stream_id), event.flow_controlled_length
        if exchange is None:  # more of a request that has been answered
            self.acknowledge(event.stream_id, length)
            return
        if padding := length - len(event.data):
            self.acknowledge(event.stream_id, padding)
        exchange.feed_data(event.data)

    def _open_window(self, stream_id: int) -> None:
        if self._sender is not None and self._sender.stream_buffers:
            self._nursery.start_soon(self._sender.open_window, stream_id)

    def acknowledge(self, stream_id: int, count: int) -> None:
        """Give back credit for what was read."""
        with suppress(h2.exceptions.ProtocolError):
            self.engine.acknowledge_received_data(count, stream_id)

    # The task

    async def _serve(self) -> None:
        async with open_plain_nursery() as self._nursery:
            self.engine.initiate_connection()
            window = self.engine.inbound_flow_control_window
            self.engine.increment_flow_control_window(_CONNECTION_WINDOW_BYTES - window)
            self.service.timeouts.idle.begin(self)
            self._handle(self._read_before.pop())  # kept nowhere: it may be large
            while self.state in SERVING:
                if self._events:
                    await trio.lowlevel.checkpoint()
                    self._handle_events(())
                elif self._may_have_more and self._may_read():
                    await trio.lowlevel.checkpoint()
                    self._take_up()
                else:
                    await self._sleep()
            if self._sender is not None:
                await self._sender.close()

    def hand_over(self, exchange: ServerExchange, work: Work) -> None:
        """Have a task go on with an exchange."""
        exchange.scope = trio.CancelScope()
        self._nursery.start_soon(self._do, exchange.scope, work)

    async def _do(self, scope: trio.CancelScope, work: Work) -> None:
        self._calls += 1
        try:
            with scope:
                await work()
        finally:
            self._calls -= 1

    # Writing

    def is_free(self, stream_id: int) -> bool:
        """Whether something can be sent on a stream that is behind nothing else."""
        return not self._unsent and (self._sender is None or stream_id not in self._sender)

    @property
    def sender(self) -> Sender:
        """Sends what the windows do not let through at once."""
        if self._sender is None:
            self._sender = Sender(self)
            self._nursery.start_soon(self._sender.send_task)
        return self._sender

    def flush(self) -> None:
        """Send what h2 has to send, as far as that goes without waiting. A task sends the rest."""
        if data := self.engine.data_to_send():
            self._send(data)

    def _send(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
        elif (sent := self.write_nowait(data)) < len(data):
            self._unsent += data[sent:]
            self._nursery.start_soon(self._send_unsent)

    async def _send_unsent(self) -> None:
        while self._unsent and not self.is_lost:
            data = bytes(self._unsent)
            await self.write_rest(data)
            del self._unsent[: len(data)]
        self._sent.unpark_all()
        self._wake()

    async def flush_all(self) -> None:
        """Send what h2 has to send, and wait until the socket has taken it."""
        self.flush()
        while self._unsent and not self.is_lost:
            await self._sent.park()

    # The ends of exchanges, and of the connection

    def end(self, exchange: Http2Exchange) -> None:
        """End an exchange whose response has been sent."""
        if not exchange.complete:  # an early response: the rest of the request is not wanted
            self._reset_stream(exchange.stream_id, ErrorCodes.NO_ERROR)
        self._drop(exchange)
        self.after_round(self.flush)

    def reset(self, exchange: Http2Exchange, code: ErrorCodes) -> None:
        """Break an exchange off."""
        self._reset_stream(exchange.stream_id, code)
        self._drop(exchange)
        self.flush()

    def _reset_stream(self, stream_id: int, code: ErrorCodes) -> None:
        with suppress(h2.exceptions.ProtocolError):  # it may have closed meanwhile, or the connection
            self.engine.reset_stream(stream_id, code)

    def _drop(self, exchange: Http2Exchange) -> None:
        """Forget an exchange that has ended, on whichever side."""
        if self._exchanges.pop(exchange.stream_id, None) is None:
            return
        exchange.leave()
        exchange.take()  # its credit is the connection's as well
        self._slot.open_streams(len(self._exchanges))
        if self._sender is not None and exchange.stream_id in self._sender:
            self._nursery.start_soon(self._sender.discard, exchange.stream_id)
        if self._exchanges:
            return
        self.enter(Input.DONE)
        if self.state is State.IDLE:
            self.service.timeouts.idle.begin(self)
        else:
            self._wake()

    def _drop_all(self) -> None:
        for exchange in list(self._exchanges.values()):
            self._drop(exchange)

    def _terminate(self) -> None:
        """End at once, but in order: what h2 has to send still goes out."""
        self.flush()
        self._events.clear()
        self.enter(Input.LAST)
        for exchange in list(self._exchanges.values()):
            exchange.lose()
        self._drop_all()
        self._wake()


class Http2Exchange(IncomingRequest, ServerExchange):
    """One stream: a request as it comes in, and its response."""

    begun = False
    """Whether somebody answers it."""
    _error: MalformedError | None = None

    def __init__(self, connection: Http2Connection, stream_id: int) -> None:
        """Take a stream that a client has opened."""
        super().__init__(connection.service.config.max_head_bytes)
        self.connection = self._connection = connection
        self.heads = connection.service.heads
        self.stream_id = stream_id
        self._arrival = trio.lowlevel.ParkingLot()

    # The request

    def read_head(self, fields: Collection[tuple[bytes, bytes]], *, is_whole: bool) -> None:
        """Read the head, of which h2 has checked what is particular to HTTP/2. Raises: MalformedError."""
        self.feed(_as_http1(fields))
        self.version = "2"
        self.complete = is_whole
        if not (is_whole or self.declares_body):
            self.framing = Framing.CHUNKED  # without a length, at any rate

    def feed_data(self, data: bytes) -> None:
        """Take a part of the body."""
        if self.begun:
            self.rate.came(len(data))
        self._parts.append(data)
        self._body_bytes += len(data)
        self.remaining = max(0, self.remaining - len(data))
        try:
            self._check_body(self._body_bytes, self._most_body_bytes)
        except MalformedError as error:
            self._error = error
            self.take()  # nobody reads it
        self._arrival.unpark_all()

    def end(self) -> None:
        """Note that the body has come to its end. One that is malformed never does."""
        self.complete = self._error is None
        self._arrival.unpark_all()

    def take(self) -> bytes:
        """Return what has come of the body and was not taken yet, and give back the credit for it."""
        if data := super().take():
            self._connection.acknowledge(self.stream_id, len(data))
        return data

    async def _ask_for_body(self) -> None:
        if self.expects_continue and not self.responded:
            self.expects_continue = False
            with suppress(h2.exceptions.ProtocolError):  # the stream may have closed meanwhile
                self._connection.engine.send_headers(self.stream_id, [(b":status", b"100")])

    async def _receive(self) -> None:
        self._connection.flush()  # the credit for what has been taken
        if self._error is None and not self.lost:
            await self._arrival.park()
        if self._error is not None:
            raise self._error
        if self.lost:
            raise ClientDisconnectedError("the client left before the end of its request")

    # The client

    def give_up(self) -> None:
        """Let the client go: it is out of time."""
        self.lose()
        self._connection.reset(self, ErrorCodes.CANCEL)

    def lose(self) -> None:
        """Note that the client has left, or is not to be talked to any more."""
        super().lose()
        self._arrival.unpark_all()

    # The response

    def close_after(self) -> None:
        """Do nothing: requests do not come one after the other."""

    async def write(self, data: bytes) -> None:
        """Send a part of the body, and the head before it. Raises: ValueError for more than was declared."""
        self._count(data, is_last=False)
        data = b"" if self.silent else data
        if not self.lost and not self._send_nowait(data, [], is_last=False):
            await self._connection.sender.send_in_turn(self, data, [], is_last=False)
        await self._connection.flush_all()

    def write_nowait(self) -> None:
        """Send the head alone."""
        with suppress(h2.exceptions.ProtocolError):  # the stream may have closed meanwhile
            self._send_head(is_last=False)
        self._connection.flush()

    async def finish(self, data: bytes = b"", trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send the rest of the response."""
        self._count(data, is_last=True)
        data, kept = b"" if self.silent else data, self._kept(trailers)
        if not self.lost and not self._send_nowait(data, kept, is_last=True):
            await self._connection.sender.send_in_turn(self, data, kept, is_last=True)
        self.finished = True
        self._connection.end(self)
        await self._connection.flush_all()

    def finish_nowait(self, data: bytes = b"", trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send the rest of the response."""
        self.in_hand = None
        if self._send_nowait(b"" if self.silent else data, self._kept(trailers), is_last=True):
            self.finished = True
            self._connection.end(self)
        else:
            self.hand_over(partial(self.finish, data, trailers))

    def abort(self) -> None:
        """Break the response off: the stream is reset."""
        self.finished = True
        self._connection.reset(self, ErrorCodes.INTERNAL_ERROR)

    def _kept(self, trailers: Sequence[tuple[bytes, bytes]]) -> HeaderList:
        if not trailers or not self.accepts_trailers:
            return []
        block(trailers)  # raises ValueError for what no trailer may be
        return [(name.lower(), value) for name, value in trailers]

    def _send_nowait(self, data: bytes, trailers: HeaderList, *, is_last: bool) -> bool:
        """Give h2 the head, and what follows if the windows permit. Return whether that was all."""
        connection, stream_id = self._connection, self.stream_id
        engine, ends = connection.engine, is_last and not trailers
        try:
            window = min(engine.local_flow_control_window(stream_id), _BYTES_AT_ONCE)
            fits = connection.is_free(stream_id) and len(data) <= window
            ended = self._send_head(is_last=fits and ends and not data)
            if not fits or ended:
                return fits
            most = engine.max_outbound_frame_size
            for at in range(0, len(data), most):
                engine.send_data(stream_id, data[at : at + most], end_stream=ends and at + most >= len(data))
            if ends and not data:
                engine.end_stream(stream_id)
            if trailers:
                engine.send_headers(stream_id, trailers, end_stream=True)
        except h2.exceptions.ProtocolError:
            pass  # the stream has closed meanwhile, or the connection
        return True

    def _send_head(self, *, is_last: bool) -> bool:
        """Give h2 the head, if it has not had it. Return whether it was the end of the response."""
        head, self._out = self._out, None
        if head is None:
            return False
        fields = head.forms.get(_FORM)
        if fields is None:
            fields = head.forms[_FORM] = _written(head)
        if not head.has_date:
            fields = [*fields, (b"date", date())]
        if own := self._own_fields():
            fields = [*fields, *[(name.lower(), value) for name, value in own]]
        self._connection.engine.send_headers(self.stream_id, fields, end_stream=is_last)
        return is_last


def _as_http1(fields: Collection[tuple[bytes, bytes]]) -> bytes:
    """Return a request's head as HTTP/1.1 writes it. Raises: MalformedError for what is not answered here."""
    pseudo = {name: value for name, value in fields if name.startswith(b":")}
    method, target, host = pseudo.get(b":method", b""), pseudo.get(b":path", b""), pseudo.get(b":authority")
    if method == b"CONNECT" or not target.isascii():
        raise MalformedError("not a request that is answered on HTTP/2")
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    if host is not None:
        lines.append(b"host: %b\r\n" % host)
    lines += [
        b"%b: %b\r\n" % (name, value)
        for name, value in fields
        if name not in pseudo and (host is None or name != b"host")
    ]
    return b"".join(lines) + b"\r\n"


def _written(head: OutgoingHead) -> HeaderList:
    """Return a head as h2 has it."""
    fields = [(name.lower(), value) for name, value in head.fields]
    return [(b":status", b"%d" % head.status), *(field for field in fields if field[0] not in _ONLY_HTTP1)]
