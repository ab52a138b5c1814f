"""One client's connection, seen from its server: heads are read, calls made, and the next one follows.

One task a connection, and no other: the application is called in it, and what it receives is read from the
socket when it asks. A request that a relay claims becomes no call of the application.

    resting ──▶ head ──▶ call ──▶ resting    as long as both sides want another request
       └─────────┴───────┴─────▶ closing     an orderly end: what we said is read before we close
                 └───────┴─────▶ lost        the client has left, or is out of time; nothing is said any more

While it rests, the connection's task sleeps, and `Reactor` calls when something comes. Most of what comes
to a host is a small request that is here whole and is the relay's: that one is begun on the spot, and the
task sleeps on. All else is handed over to the task, as is whatever cannot be done at once.

What a client may leave unfinished has its time (`Limits`), kept by `Timeouts` for all connections together.
That a client leaves in the middle of a call is seen by `Reactor` as well: the call is told, or cancelled if
it has asked for that.

What is not HTTP/1.1 is left to others: `run` returns, and `read_of_another_protocol` is what was read of it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import App, HeaderList
from cpg_trio.http.channel import Address, Channel
from cpg_trio.http.fields import plain_response
from cpg_trio.http.heads import Framing, MalformedError, RequestHeads
from cpg_trio.http.messages import MAX_HEAD_BYTES, IncomingRequest
from cpg_trio.http.reactor import Reactor, open_reactor
from cpg_trio.http.schemes import PLAIN_IS_SPOKEN, WrongSchemes, is_tls
from cpg_trio.http.server.activity import Activity
from cpg_trio.http.server.asgi import AsgiCall
from cpg_trio.http.server.body_rate import BodyRate
from cpg_trio.http.timeouts import TimeoutQueue

logger = logging.getLogger("cpg_trio.http")  # the same that the rest of the serving side writes to

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_GOODBYE = (b"connection", b"close")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\n"  # of HTTP/2, as far as it looks like a request


@attrs.frozen(kw_only=True)
class Limits:
    """What a client may take, in seconds and bytes; see `serving.ServeConfig`."""

    idle_s: float = 120.0
    head_s: float = 10.0
    body_s: float = 30.0
    min_body_bytes_per_s: float = 1024.0
    send_s: float = 30.0
    linger_s: float = 1.0
    max_head_bytes: int = MAX_HEAD_BYTES


class Work(Protocol):
    """What a connection's task is to do."""

    def __call__(self) -> Awaitable[None]:
        """Do it."""


class CallInHand(Protocol):
    """A call that goes on while the connection's task sleeps."""

    def abandon(self) -> None:
        """End it: the connection has ended."""


class RequestTaker(Protocol):
    """Answers some requests in the application's stead, with the bytes of both connections in its hands."""

    @property
    def claims(self) -> Callable[[bytes], bool]:
        """Whether a request for a target is the relay's."""

    def begin(self, client: ServerConnection, request: IncomingRequest, /) -> None:
        """Begin to answer a request that has come whole, without waiting: the rest may be handed over."""

    async def __call__(self, client: ServerConnection, request: IncomingRequest, /) -> None:
        """Answer a request whose head has been read."""


class Timeouts:
    """What all connections of a server share: the time that each may take, and what comes from where."""

    def __init__(self, limits: Limits) -> None:
        self.idle = TimeoutQueue(limits.idle_s)
        self.head = TimeoutQueue(limits.head_s)
        self.body = TimeoutQueue(limits.body_s)
        self.send = TimeoutQueue(limits.send_s)
        self.reactor: Reactor

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the time within the block."""
        with open_reactor() as self.reactor:
            async with open_plain_nursery() as nursery:
                for line in (self.idle, self.head, self.body, self.send, self.reactor):
                    nursery.start_soon(line.run)
                yield
                nursery.cancel_scope.cancel()


class Held(Protocol):
    """Something that waits to be sent with what follows it, if that follows at once."""

    def flush(self) -> None:
        """Send it now."""


class Flusher(trio.abc.Instrument):
    """Sends what is held before the loop goes to sleep: what was to follow it is not coming at once."""

    def __init__(self) -> None:
        self.held: set[Held] = set()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - Trio's to say
        while self.held:
            self.held.pop().flush()


@attrs.define
class Service:
    """What all connections of a server have in common. `running` has to be entered around them."""

    app: App
    limits: Limits = attrs.field(factory=Limits)
    relay: RequestTaker | None = None
    draining: bool = False
    wrong_schemes: WrongSchemes = attrs.field(factory=WrongSchemes)
    heads: RequestHeads = attrs.field(init=False, factory=RequestHeads, repr=False)
    clocks: Timeouts = attrs.field(init=False)
    flusher: Flusher = attrs.field(init=False, factory=Flusher)

    @clocks.default
    def _of_the_limits(self) -> Timeouts:
        return Timeouts(self.limits)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the time, and flush what is held, within the block."""
        trio.lowlevel.add_instrument(self.flusher)
        try:
            async with self.clocks.running():
                yield
        finally:
            trio.lowlevel.remove_instrument(self.flusher)


class _AnotherProtocolError(Exception):
    """What came is to be read by somebody else."""

    def __init__(self, read: bytes) -> None:
        super().__init__("not HTTP/1.1, or not for long")
        self.read = read


class ServerConnection:
    """One client's connection, from its first byte to its end."""

    def __init__(
        self,
        channel: Channel,
        service: Service,
        client: Address,
        server: Address,
        on_proved: Callable[[str], None],
    ) -> None:
        """Take `channel`, and close it at the end of `run`, unless something else is spoken on it.

        `on_proved` is told which identity the client proves, whenever that is another.
        """
        self.channel = channel
        self.service = service
        self.client = client
        self.server = server
        self.last = False
        """Whether no request follows the one in hand; its response is to say so."""
        self.lost = False
        """Whether the client has left, or was given up."""
        self.broken = False
        """Whether the end is to be a reset, so that nobody takes what was sent for the whole."""
        self.read_of_another_protocol = b""
        """What had been read when that was seen not to be HTTP/1.1, or not for long; the channel is open."""
        self.in_hand: CallInHand | None = None
        """A call that goes on while the task sleeps."""
        self._on_proved = on_proved
        self._identity = ""  # that the client has proved last
        self._life = trio.CancelScope()
        self._asleep: trio.lowlevel.Task | None = None
        self._work: Work | None = None  # for the task
        self._resting = False  # nothing is in hand, and nothing has come
        self._news = False  # something has come while it was not resting
        self._request: IncomingRequest | None = None  # the one in hand
        self._rest = b""  # what has been read and belongs to no message yet
        self._head_is_coming = False
        self._served = 0
        self._unread = False  # whether the client may be sending what nobody will read
        self._leaving: trio.Event | None = None
        self._cancel_when_lost = False
        self._pace: BodyRate | None = None  # of the body of the request in hand, while it comes

    async def run(self) -> None:
        """Serve until the end, or until another protocol is seen."""
        clocks = self.service.clocks
        with self._life:
            try:
                self.channel.watch(clocks.reactor, self._hear)
                await self._serve()
                await self._linger()
            except _AnotherProtocolError as other:
                self.read_of_another_protocol = other.read
            except Exception:
                self.broken = True
                raise
            finally:
                if self.in_hand is not None:
                    self.in_hand.abandon()
                for line in (clocks.idle, clocks.head, clocks.body, clocks.send):
                    line.end(self)
                if self.read_of_another_protocol:
                    self.channel.ignore(for_good=True)
                else:
                    self.channel.close(reset=self.broken)

    async def drain(self) -> None:
        """Take no other request. The one in hand is finished."""
        self.last = True
        if self._resting:
            self._wake()
        elif self._head_is_coming:
            self._life.cancel()

    def abort(self) -> None:
        """End at once, whatever is in hand."""
        self.last = self.lost = self.broken = True
        self._life.cancel()
        self.channel.close(reset=True)

    @property
    def activity(self) -> Activity:
        """What it is busy with."""
        if self._resting or self._request is None:
            return Activity.IDLE if self._served else Activity.WAITING
        waits = not self._request.complete or self in self.service.clocks.send
        return Activity.WAITING if waits else Activity.BUSY

    def evict(self) -> None:
        """End, to make room for another."""
        if self._request is None:
            self.give_up()  # in order: it may still have to read the last response
        else:
            self.abort()

    def give_up(self) -> None:
        """Let a client go that is out of time."""
        self.lose()
        if self._resting:
            self._wake()
        else:
            self.channel.shut_down()

    # What a call needs of its connection

    @property
    def peer_names(self) -> tuple[str, ...]:
        """The URIs and DNS names that the client has proved by its certificate; none without one."""
        return self.channel.peer_names

    @property
    def requests_follow(self) -> bool:
        """Whether a response may leave it open that another request follows."""
        return not (self.last or self.service.draining)

    def cancel_when_lost(self) -> None:
        """Have the call in hand cancelled if the client leaves. Otherwise `gone` and `lost` tell."""
        self._cancel_when_lost = True
        if self.lost:
            self._life.cancel()

    def prove(self, identity: str) -> None:
        """Hear that the client has proved an identity by the request in hand."""
        if identity != self._identity:
            self._identity = identity
            self._on_proved(identity)
        request = self._request
        if request is not None and not request.complete:
            self._body_pace(request).is_proved = True

    def want_message(self) -> None:
        """Hear that the request in hand is one message, and no stream."""
        request = self._request
        if request is not None and not request.complete:
            self._body_pace(request).is_message = True

    def lose(self) -> None:
        """Note that the client has left, or is not to be talked to any more."""
        self.lost = self.last = True
        if self._leaving is not None:
            self._leaving.set()
        if self._cancel_when_lost:
            self._life.cancel()

    async def gone(self) -> None:
        """Wait until the client has left. A checkpoint in any case."""
        if self._leaving is None:
            self._leaving = trio.Event()
        if self.lost:
            self._leaving.set()
        await self._leaving.wait()

    async def ask_for_body(self, request: IncomingRequest) -> None:
        """Send a client that waits for it the word to send its body; once, and before any response."""
        if request.expects_continue:
            request.expects_continue = False
            await self.write(_CONTINUE)

    async def read_more(self, request: IncomingRequest) -> bool:
        """Read more of a request's body; return whether the client is still there, and keeps the pace.

        Raises: MalformedError; then no request can follow.
        """
        data = await self._receive_in_time(self._body_pace(request))
        if not data:
            self.lose()
            return False
        try:
            self._rest = request.feed(data)
        except MalformedError:
            self.last = self._unread = True
            raise
        return True

    async def _receive_in_time(self, pace: BodyRate) -> bytes:
        """Return more of a body; nothing when the client has left, or was too slow."""
        timed, clock, began = pace.timed, self.service.clocks.body, trio.current_time()
        if timed:
            clock.begin(self)
        data = await self._receive()
        clock.end(self)
        pace.came(len(data))
        if timed:
            pace.waited(trio.current_time() - began)
            if pace.too_slow:
                self.give_up()
                return b""
        return data

    def _body_pace(self, request: IncomingRequest) -> BodyRate:
        if self._pace is None:
            limits, declared = self.service.limits, request.framing is Framing.LENGTH
            self._pace = BodyRate(limits.body_s, limits.min_body_bytes_per_s, declared)
        return self._pace

    async def write(self, data: bytes) -> None:
        """Send to the client. To one that has left, nothing is sent; `lost` tells.

        It is not broken off by a cancellation, unless the connection itself ends: half a response would leave
        the two sides with different ideas of what follows.
        """
        if self.lost:
            return
        try:
            sent = self.channel.send_nowait(data)
            if sent < len(data):
                await self._write_rest(data, sent)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.broken = True
            self.lose()

    def write_some(self, data: bytes) -> bytes:
        """Send what goes without waiting; return the rest, which is to go before all else."""
        if self.lost:
            return b""
        try:
            return data[self.channel.send_nowait(data) :]
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.broken = True
            self.lose()
            return b""

    def plain(self, status: int, text: str, fields: HeaderList) -> bytes:
        """Return a whole answer in plain text to the request in hand."""
        goodbye = [] if self.requests_follow else [_GOODBYE]
        to_head = self._request is not None and self._request.method == b"HEAD"
        return plain_response(status, f"{text}\n", [*fields, *goodbye], to_head=to_head)

    def answer_at_once(self, data: bytes) -> None:
        """Send a whole answer to the request in hand, whose call is over with that."""
        rest = self.write_some(data)
        if rest:
            self.in_hand = None
            self.hand_over(partial(self.write, rest))
        else:
            self.done()

    async def refuse(self, status: int, text: str) -> None:
        """Answer a request that is none, and let no other follow."""
        self.last = self._unread = True
        await self.write(self.plain(status, text, []))

    # What is done at once, when something has come

    def _hear(self, readable: bool, gone: bool) -> None:  # noqa: FBT001 - a watcher's face
        try:
            if readable:
                self._news = True
                if self._resting:
                    self._take_up()
            if gone:
                self.lose()
                if self._resting:  # its request was answered at once, and the end came with it
                    self._wake()
        except Exception as error:  # noqa: BLE001 - it is raised where it ends this connection alone
            self.fail(error)

    def _take_up(self) -> None:
        """Read what has come, and begin with it, or hand it over."""
        self._news = False
        try:
            data = self.channel.receive_nowait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if data is None:
            return
        self._resting = False
        clocks = self.service.clocks
        clocks.idle.end(self)
        if not data:
            self.last = True
            self._wake()
            return
        request = self._next_request()
        try:
            self._rest = request.feed(data)
        except MalformedError:
            self._read_again(data)
            return
        relay = self.service.relay
        if request.wants_websocket:
            self._read_again(data)
        elif relay is None or self._rest or not request.complete or not relay.claims(request.target):
            self.hand_over(partial(self._read_on, request, b""))
        else:
            self._take_in_hand(request)
            relay.begin(self, request)

    def _next_request(self) -> IncomingRequest:
        request = IncomingRequest(self.service.limits.max_head_bytes)
        request.heads = self.service.heads
        return request

    def _read_again(self, data: bytes) -> None:
        """Leave it to the task to say what is wrong with what has come, or whose it is."""
        self._rest = b""
        self.hand_over(partial(self._read_on, self._next_request(), data))

    def fail(self, error: Exception) -> None:
        """End with an error in what was done at once: raise it in the connection's task."""

        async def raise_it() -> None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise error

        self.last = True
        self.hand_over(raise_it)

    def hand_over(self, work: Work) -> None:
        """Have the connection's task go on."""
        self._work = work
        self._wake()

    def done(self) -> None:
        """Hear that the call in hand is over, which was not handed over."""
        self.in_hand = None
        self._end_call()
        if not self.last:
            self._start_rest()
        if self.last or self._may_have_news:
            self._wake()

    def _start_rest(self) -> None:
        self._resting = True
        (self.service.clocks.idle if self._served else self.service.clocks.head).begin(self)

    @property
    def _may_have_news(self) -> bool:
        """Whether something may have come that nobody has been told of."""
        return self._news or self.channel.may_have_more

    def _wake(self) -> None:
        if self._asleep is not None:
            trio.lowlevel.reschedule(self._asleep)
            self._asleep = None

    # The task

    async def _serve(self) -> None:
        self._start_rest()
        while self._work is not None or self.in_hand is not None or not self.last:
            if self._resting and self._may_have_news:
                await trio.lowlevel.checkpoint()  # a client that is fast is not to have the loop for itself
                if self._resting:
                    self._take_up()
            elif self._work is None:
                await self._sleep()
            else:
                await self._do_work(self._work)

    async def _do_work(self, work: Work) -> None:
        self._work = None
        await work()
        self._end_call()
        if not self.last:
            self._start_rest()

    async def _sleep(self) -> None:
        def wake_up(_: object) -> trio.lowlevel.Abort:
            self._asleep = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._asleep = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(wake_up)

    async def _read_on(self, request: IncomingRequest, data: bytes) -> None:
        """Serve a request that has begun to come, and those that came right behind it.

        `data` has been read, but the request has not been fed with it.
        """
        while True:
            try:
                if not await self._read_head(request, data):
                    self.last = True
                    return
            except MalformedError as error:
                await self.refuse(error.status, str(error))
                return
            await self._call(request)
            if self.last or not self._rest:
                return
            await trio.lowlevel.checkpoint()  # a client that pipelines is not to have the loop for itself
            data, self._rest = self._rest, b""
            request = self._next_request()

    async def _read_head(self, request: IncomingRequest, data: bytes) -> bool:
        """Read to the end of a head; return False if the client leaves instead."""
        clocks = self.service.clocks
        timed = not self._served  # of whoever connects, a request is expected soon
        if data:
            self._feed(request, data)
        while not request.has_head:
            if not timed:
                clocks.head.begin(self)  # once: a head in crumbs earns no more
                timed = True
            self._head_is_coming = True
            data = await self._receive()
            self._head_is_coming = False
            if not data:
                return False
            self._feed(request, data)
        return True

    def _feed(self, request: IncomingRequest, data: bytes) -> None:
        before = request.head_bytes
        try:
            self._rest = request.feed(data)
        except MalformedError:
            if not self._served and (read := before + data).startswith(_PREFACE):
                raise _AnotherProtocolError(read) from None
            if not self._served and is_tls(before + data):
                self.service.wrong_schemes.note(self.client, PLAIN_IS_SPOKEN)
                raise MalformedError(PLAIN_IS_SPOKEN) from None
            raise
        if request.wants_websocket:
            raise _AnotherProtocolError(before + data)

    async def _receive(self) -> bytes:
        """Return what comes in; nothing when the client has left."""
        try:
            return await self.channel.receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    # Calls

    async def _call(self, request: IncomingRequest) -> None:
        relay = self.service.relay
        self._take_in_hand(request)
        if request.method == b"CONNECT":
            await self.refuse(501, "no tunnels are made here")
        elif relay is not None and relay.claims(request.target):
            await relay(self, request)
        else:
            await AsgiCall(self, request).run()
        self._end_call()

    def _take_in_hand(self, request: IncomingRequest) -> None:
        self.service.clocks.head.end(self)
        self._served += 1
        self._request = request
        self.last = self.last or not request.keep_alive

    def _end_call(self) -> None:
        request, self._request = self._request, None
        if request is None:
            return
        self._cancel_when_lost = False
        self._leaving = self._pace = None
        if not request.complete:
            self.last = self._unread = True
        if self.service.draining:
            self.last = True

    # Writing, and the end

    async def _write_rest(self, data: bytes, sent: int) -> None:
        line = self.service.clocks.send
        try:
            with trio.CancelScope(shield=True), memoryview(data) as rest:
                while sent < len(data):
                    line.begin(self)  # with each bit of progress
                    sent += await self.channel.send_some(rest[sent:])
        finally:
            line.end(self)

    async def _linger(self) -> None:
        """Read on for a while, if the client may be sending: closing on it would be a reset."""
        if self.lost or self.broken or not self._unread:
            return
        self.channel.shut_down(sending_only=True)
        with trio.move_on_after(self.service.limits.linger_s):
            while await self._receive():
                pass
