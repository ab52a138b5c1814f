"""One client's connection: what is the same for every protocol that is spoken on it.

A connection has one task, which sleeps most of the time. The reactor calls `_hear` when something has come.
Most of what comes to a host is a small request that is here whole and is the relay's: that one is begun at
once, and its answer is sent as soon as the provider's has come. What cannot be done without waiting is handed
over to a task.

Such a callback runs outside of the connection's task, and the nursery's promise holds all the same:

- A callback never waits. What has to wait is handed to a task that the nursery of the connections knows.
- A callback is called only between the entry and the exit of the connection's task: that watches the socket,
  and ignores it before it ends. What a callback has begun (`ServerExchange.in_hand`) is abandoned then.
- An error in a callback is logged where it is caught (`fail`), and ends this connection alone. The task does
  not raise it: it may be at its end already, as the client has left, or be cancelled.
- What is to be sent goes out at the end of the reactor's round (`after_round`), or before the connection is
  lost, if that is earlier: what counts as answered has been answered.

The states are a table (`states`). What a client may leave unfinished has its time, kept by `Timeouts` for all
connections together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from functools import partial

import trio

from cpg_trio.http.channel import Address, Channel
from cpg_trio.http.server.asgi import AsgiCall
from cpg_trio.http.server.connection_limit import Activity, Slot
from cpg_trio.http.server.errors import log_ending
from cpg_trio.http.server.exchange import ServerExchange
from cpg_trio.http.server.service import Service, Work
from cpg_trio.http.server.states import LOST, REQUESTS_FOLLOW, TRANSITIONS, Input, State

BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)  # what a channel raises


class ServerConnection(ABC):
    """One client's connection, from its first byte to its end."""

    read_of_another_protocol = b""
    """What had been read when that was seen to be another protocol. The channel is open then."""

    def __init__(
        self, channel: Channel, service: Service, client: Address, server: Address, slot: Slot
    ) -> None:
        """Take `channel`, and close it at the end of `run`, unless another protocol is spoken on it."""
        self.channel = channel
        self.service = service
        self.client = client
        self.server = server
        self.peer_names = channel.peer_names
        """The URIs and DNS names that the client has proved by its certificate; none without one."""
        self.state = State.IDLE
        self.identity = ""
        """The one that the client has proved last."""
        self.remembered: object = None
        """What the router has derived from the other end."""
        self._slot = slot
        self.scope = trio.CancelScope()
        """Of its task."""
        self._asleep: trio.lowlevel.Task | None = None
        self._has_failed = False  # in a callback
        self._left_for_end: list[Callable[[], None]] = []  # of the reactor's round
        self._is_readable = False  # something has come that was not read yet
        self._served = 0
        self._sends_unread = False  # the client may be sending what nobody will read

    async def run(self) -> None:
        """Serve until the end, or until another protocol is seen."""
        timeouts = self.service.timeouts
        with self.scope:
            try:
                self.channel.watch(self.service.reactor, self._hear)
                await self._serve()
                await self._linger()
            except Exception:
                self.enter(Input.BREAK)
                raise
            finally:
                if self._has_failed:
                    self.enter(Input.BREAK)
                for exchange in self.exchanges:
                    exchange.abandon()
                for queue in (timeouts.idle, timeouts.head, timeouts.send):
                    queue.end(self)
                if self.read_of_another_protocol:
                    self.channel.ignore(for_good=True)
                else:
                    self.channel.close(reset=self.state is State.BROKEN)

    @abstractmethod
    async def drain(self) -> None:
        """Take no other request. What is in progress is finished."""

    def abort(self) -> None:
        """End at once, whatever is in progress."""
        self.break_off()
        self.scope.cancel()
        self.channel.close(reset=True)

    @property
    @abstractmethod
    def exchanges(self) -> Collection[ServerExchange]:
        """Those that are in progress."""

    @property
    def activity(self) -> Activity:
        """What it is busy with."""
        if not self.exchanges:
            return Activity.IDLE if self._served else Activity.WAITING
        uploads = all(not exchange.complete for exchange in self.exchanges)
        return Activity.WAITING if uploads or self in self.service.timeouts.send else Activity.BUSY

    def evict(self) -> None:
        """End, to make room for another."""
        self._end_round()
        if self.exchanges:
            self.abort()
        else:
            self.give_up()  # in order: the client may still have to read the last response

    def give_up(self) -> None:
        """Let a client go that is out of time."""
        was_idle = self.state is State.IDLE
        self.lose()
        if was_idle:
            self._wake()
        else:
            self.channel.shut_down()

    # For exchanges

    def enter(self, what: Input) -> None:
        """Go on to the state that follows."""
        self.state = TRANSITIONS[self.state][what]

    @property
    def requests_follow(self) -> bool:
        """Whether a response may leave it open that another request follows."""
        return self.state in REQUESTS_FOLLOW and not self.service.draining

    @property
    def is_lost(self) -> bool:
        """Whether nothing is sent any more."""
        return self.state in LOST

    def lose(self) -> None:
        """Note that the client has left, or is not to be talked to any more."""
        self.enter(Input.LEAVE)
        for exchange in list(self.exchanges):
            exchange.lose()

    def prove(self, identity: str) -> None:
        """Count for an identity from now on: the client has proved it."""
        self.identity = identity
        self._slot.prove(identity)

    @abstractmethod
    def hand_over(self, exchange: ServerExchange, work: Work) -> None:
        """Have a task go on with an exchange."""

    def fail(self, error: Exception) -> None:
        """Log an error of a callback, and end: what has been left for the end of the round still goes out."""
        log_ending(error)
        self._has_failed = True
        self.scope.cancel()

    def after_round(self, call: Callable[[], None]) -> None:
        """Call `call`, which sends something, as `Reactor.after_round`; earlier if the client leaves earlier.

        An error of it ends this connection alone.
        """
        self._left_for_end.append(call)
        if len(self._left_for_end) == 1:
            self.service.reactor.after_round(self._end_round)

    def _begin(self, exchange: ServerExchange) -> None:
        """Begin to answer a request, without waiting: at once, if it is here, and nobody has to wait."""
        service, target = self.service, exchange.head.target
        relay, is_here = service.relay, exchange.complete
        if relay is not None and (is_here or exchange.passes_at_once) and relay.claims(target):
            relay.begin(exchange)
        elif is_here and target in service.at_once:
            AsgiCall(exchange).run_at_once()
        else:
            exchange.hand_over(partial(self._answer, exchange))

    async def _answer(self, exchange: ServerExchange) -> None:
        """Answer a request, in a task: by the relay if it claims it, else by the application."""
        relay = self.service.relay
        if exchange.head.method == b"CONNECT":
            self.enter(Input.LAST)
            await exchange.finish(exchange.respond_text(501, "no tunnels are made here"))
        elif relay is not None and relay.claims(exchange.head.target):
            await relay(exchange)
        else:
            await AsgiCall(exchange).run()

    # What the driver of a protocol does

    @abstractmethod
    async def _serve(self) -> None:
        """Do what the task has to do, until the end."""

    @abstractmethod
    def _take_up(self) -> None:
        """Read what has come and begin with it, without waiting, unless somebody else reads."""

    # Callbacks

    def _hear(self, readable: bool, gone: bool) -> None:  # noqa: FBT001 - the reactor's signature
        try:
            if readable:
                self._is_readable = True
                self._take_up()
            if gone:
                self._take_leave()
        except Exception as error:  # noqa: BLE001 - it ends this connection alone
            self.fail(error)

    def _take_leave(self) -> None:
        """Note that the client has left; it may have ended its own side alone, and reads what it was sent."""
        self._end_round()
        self.lose()
        self._wake()

    def _end_round(self) -> None:
        """Send what has been left for the end of the round."""
        calls, self._left_for_end = self._left_for_end, []
        for call in calls:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - it ends this connection alone
                self.fail(error)

    @property
    def _may_have_more(self) -> bool:
        """Whether something may have come of which the reactor does not tell again."""
        return self._is_readable or self.channel.may_have_more

    def _receive_nowait(self) -> bytes | None:
        """Return what has come; None if that is nothing, b"" when the client has left."""
        self._is_readable = False
        try:
            return self.channel.receive_nowait()
        except BROKEN:
            return b""

    def receive_shared_nowait(self, *, much: bool) -> bytes | memoryview | None:
        """As `Channel.receive_shared_nowait`; b"" also when the connection is broken."""
        self._is_readable = False
        try:
            return self.channel.receive_shared_nowait(much=much)
        except BROKEN:
            return b""

    # The task

    def _wake(self) -> None:
        if self._asleep is not None:
            trio.lowlevel.reschedule(self._asleep)
            self._asleep = None

    async def _sleep(self) -> None:
        """Sleep until woken."""

        def wake_up(_: object) -> trio.lowlevel.Abort:
            self._asleep = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._asleep = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(wake_up)

    async def receive(self) -> bytes:
        """Return what comes in, waiting for something; b"" when the client has left."""
        try:
            return await self.channel.receive()
        except BROKEN:
            return b""

    # Writing, and the end

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Send what goes without waiting; return how many bytes that was. The rest is to go before all else.

        To a client that is lost, nothing is sent, and nothing is left to send.
        """
        if self.state in LOST:
            return len(data)
        try:
            return self.channel.send_nowait(data)
        except BROKEN:
            self.break_off()
            return len(data)

    async def write(self, data: bytes) -> None:
        """Send to the client. To one that is lost, nothing is sent.

        A cancellation does not break it off, unless the connection itself ends: half a message would leave
        the two sides with different ideas of what follows.
        """
        sent = self.write_nowait(data)
        if sent < len(data):
            await self.write_rest(data, sent)

    async def write_rest(self, data: bytes, sent: int = 0) -> None:
        """Send what could not be sent without waiting. A client that does not read is let go in time."""
        queue = self.service.timeouts.send
        try:
            with trio.CancelScope(shield=True), memoryview(data) as rest:  # large answers are not copied
                while sent < len(data):
                    queue.begin(self)  # again with each bit of progress
                    sent += await self.channel.send_some(rest[sent:])
        except BROKEN:
            self.break_off()
        finally:
            queue.end(self)

    def break_off(self) -> None:
        """Give up a client that cannot be sent anything any more."""
        self.enter(Input.BREAK)
        self.lose()

    async def _linger(self) -> None:
        """Read on for a while, if the client may be sending: closing on it would be a reset."""
        if self.state in LOST or not self._sends_unread:
            return
        self.channel.shut_down(sending_only=True)
        with trio.move_on_after(self.service.config.linger_s):
            while await self.receive():
                pass
