"""A connection pool: connections are opened when they are needed, and kept while they are useful.

The pool owns an idle connection. One in use is owned by the exchange that took or opened it, which gives it
back. There is no third state, so a cancellation at any point finds each connection with exactly one owner.

May touch: sockets, TLS, and the connections that it opened. `exchange` does what happens on them.
"""

from __future__ import annotations

import math
import ssl
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import cache, partial
from types import TracebackType
from typing import Self

import attrs
import trio

from cpg_trio.http.client.connect import connect, where
from cpg_trio.http.client.errors import ConnectFailedError, PoolFullError
from cpg_trio.http.client.exchange import ClientExchange, Connection, Response, Whole
from cpg_trio.http.client.http2 import Http2Exchange
from cpg_trio.http.client.http2_pool import Http2Pool
from cpg_trio.http.client.origin import Origin
from cpg_trio.http.client.request import PreparedRequest, Request
from cpg_trio.http.client.resolver import Resolver
from cpg_trio.http.heads import ResponseHeads
from cpg_trio.http.messages import MAX_HEAD_BYTES
from cpg_trio.http.tls import client_context

#: Bytes. The largest body that `Pool.fetch` returns by default.
MAX_BODY_BYTES = 4 * 1024 * 1024


@attrs.frozen
class PoolStatistics:
    """Numbers of connections: `idle` and `active` now, `opened` and `reused` since the pool was made."""

    idle: int
    active: int
    opened: int
    reused: int


@attrs.define(eq=False)
class _Waiter:
    """A task that waits for a connection. It gets one, or (None) the right to open one."""

    task: trio.lowlevel.Task
    given: Connection | None = None


@attrs.define(eq=False)
class _OriginState:
    """The connections to one origin.

    `size` counts those that are idle, in use, and being opened. `idle` is a stack: the one used last is the
    likeliest to be alive, and those that are not needed any more expire together.
    """

    size: int = 0
    open: set[Connection] = attrs.field(factory=set)
    """Those that are idle or in use."""
    idle: list[Connection] = attrs.field(factory=list)
    in_use: defaultdict[str, int] = attrs.field(factory=lambda: defaultdict(int))
    """The connections that each named caller uses or opens."""
    waiting: dict[str, deque[_Waiter]] = attrs.field(factory=dict)
    """The waiting tasks, by caller. The caller whose turn is next comes first."""


class Pool:
    """A client's connections to any number of origins, kept for the next request while the block lasts.

    `connect_timeout_s`: seconds for name, TCP and TLS together, and for a connection to come free. There is
    no other timeout: the caller sets them, as it knows what a request is for. The kernel notices a machine
    that vanishes while it owes an answer (`enable_keepalive`).
    `ssl_context` is called for each connection with TLS; the default trusts what the system trusts.
    `max_per_origin`: the most connections to one origin; a request that needs one more waits. `max_total`:
    the most to all origins; for one more an idle one is closed, and if there is none, PoolFullError is raised
    at once. `max_idle_per_origin`: the most idle ones; others are closed after use. `idle_expiry_s`: seconds
    after which an idle connection is not used again. `max_head_bytes`: the largest head of a response.

    `request` and `fetch` make whole exchanges. An exchange uses `take` and `open`, and gives what it got back
    once, however it ends (`give_back`).

    A client that sends for several callers names the `caller` of each request. A caller gets another
    connection to an origin only while it uses fewer than are free there. So a single caller gets half of
    them, two get a third each, and a caller that uses none finds some. Waiting callers take turns. The same
    rule holds for `max_total`, but there a caller is refused at once.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 5.0,
        max_per_origin: int = 1000,
        max_idle_per_origin: int = 256,
        max_total: int = 2**31,
        idle_expiry_s: float = 15.0,
        ssl_context: Callable[[], ssl.SSLContext] | None = None,
        max_head_bytes: int = MAX_HEAD_BYTES,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._max_per_origin = max_per_origin
        self._max_idle_per_origin = max_idle_per_origin
        self._max_total = max_total
        self._idle_expiry_s = idle_expiry_s
        # Cached, as it reads every CA of the system.
        self.ssl_context: Callable[[], ssl.SSLContext] = ssl_context or cache(client_context)
        self.resolver: Resolver = Resolver()
        self.max_head_bytes = max_head_bytes
        self.heads: ResponseHeads = ResponseHeads()
        # Changed between checkpoints only. An origin is here while its size is not 0.
        self._origins: dict[str, _OriginState] = {}  # by key
        self._entered = False
        self._total = 0  # the sizes of all origins
        self._in_use: defaultdict[str, int] = defaultdict(int)  # by caller, to all origins
        self._active = 0
        self._opened = 0
        self._reused = 0
        self._http2 = Http2Pool(
            partial(self.open, http2=True), partial(self.give_back, reusable=False), max_head_bytes
        )

    async def __aenter__(self) -> Self:
        self._entered = self._http2.keeps = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the idle connections. One in use is closed when it is given back."""
        self._entered = self._http2.keeps = False
        self._close_idle(not_used_since=math.inf)

    def statistics(self) -> PoolStatistics:
        """Return the numbers of this moment."""
        idle = sum(len(state.idle) for state in self._origins.values())
        return PoolStatistics(idle=idle, active=self._active, opened=self._opened, reused=self._reused)

    def connections_to(self, origin: Origin) -> int:
        """Return how many connections there are to an origin, those that are being opened included."""
        state = self._origins.get(origin.key)
        return state.size if state is not None else 0

    async def sweep(self) -> None:
        """Close what expires, until cancelled: origins go away, and are never asked for again.

        The owner of the pool runs this as a task. Without it, a connection that expired is closed by the next
        request to its origin.
        """
        while True:
            await trio.sleep(self._idle_expiry_s)
            self._close_idle(not_used_since=trio.current_time() - self._idle_expiry_s)

    def close_idle(self, origin: Origin) -> None:
        """Close the idle connections to an origin, so that the next request opens one."""
        if (state := self._origins.get(origin.key)) is not None:
            for connection in [state.idle.pop() for _ in range(len(state.idle))]:
                self._discard(connection)

    def break_off(self, origin: Origin) -> None:
        """End the connections to an origin that is dead: exchanges on them get ConnectionBrokenError."""
        if (state := self._origins.get(origin.key)) is not None:
            for connection in state.open:
                connection.channel.shut_down()
            self._close_dead(state)

    # Whole exchanges

    def request(
        self,
        origin: Origin,
        request: Request,
        *,
        caller: str = "",
        connect_timeout_s: float | None = None,
    ) -> AbstractAsyncContextManager[Response]:
        """Send a request; the block has the response, from when its head has arrived.

        Leaving the block before the body has arrived closes the connection, as does an error before the body
        has been read. `connect_timeout_s` is for this request, in place of the pool's own. An idempotent
        request whose body is still whole is sent once more if a kept connection turns out to be dead before
        it answered anything.

        Raises: InvalidRequestError before anything is done, or if the body belies its content-length;
        ConnectFailedError; PoolFullError; ProtocolError; ConnectionBrokenError; and whatever the body's
        iterator raises, as itself, in place of the cancellation that it causes in the block.
        """
        prepared = PreparedRequest.of(request, origin.host_header)
        return ClientExchange(self, origin, prepared, caller, connect_timeout_s=connect_timeout_s)

    async def fetch(
        self,
        origin: Origin,
        request: Request | PreparedRequest,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        caller: str = "",
        connect_timeout_s: float | None = None,
    ) -> Whole:
        """Send a request and return its response when it has been read to its end.

        Raises: BodyTooLargeError, and what `request` raises.
        """
        if not isinstance(request, PreparedRequest):
            request = PreparedRequest.of(request, origin.host_header)
        exchange = ClientExchange(self, origin, request, caller, connect_timeout_s=connect_timeout_s)
        async with exchange as response:
            body = await response.read(max_body_bytes)
        return Whole(exchange.message, body)

    def duplex(self, origin: Origin, request: Request) -> Http2Exchange:
        """Send a request over HTTP/2; the block, which sends its body, begins before there is a response.

        Requests to an origin share a connection, which counts as active as long as it is open. The origin is
        known to speak HTTP/2 without TLS, or agrees to it in TLS. Raises: InvalidRequestError; entering the
        block raises NotSentError.
        """
        PreparedRequest.of(request, origin.host_header)
        return Http2Exchange(partial(self._http2.get, origin), request, origin)

    # Connections

    def take(self, origin: Origin, caller: str = "") -> Connection | None:
        """Return an idle connection on which nothing has happened since it was used, or None.

        The kernel is asked about each one (under 1 µs), however short it was idle: a request that is lost on
        a dead one may have had an effect, so most requests could not be repeated.
        """
        state = self._origins.get(origin.key)
        if state is None or (
            caller in self._in_use and (self._has_its_share(caller) or not self._may_have(state, caller))
        ):
            return None
        while state.idle:
            connection = state.idle.pop()
            expired = trio.current_time() - connection.idle_since >= self._idle_expiry_s
            if not expired and not connection.channel.is_readable():
                self._occupy(state, caller)
                return self._lent(connection, caller)
            self._discard(connection)
            if not expired:
                self._close_dead(state)
        return None

    async def open(
        self, origin: Origin, caller: str = "", *, timeout_s: float | None = None, http2: bool = False
    ) -> Connection:
        """Return a new connection, or one that became free while there was no room for a new one.

        `timeout_s`: in place of the pool's own. With `http2` it is a new one in any case.
        Raises: NotSentError; trio.ClosedResourceError outside of the pool's block.
        """
        if not self._entered:
            raise _not_entered()
        if timeout_s is None:
            timeout_s = self._connect_timeout_s
        if self._has_its_share(caller):
            share = f"{self._in_use[caller]} connections are this caller's share (of {self._max_total})"
            raise PoolFullError(f"no connection to {where(origin)}: {share}", own_share=True)
        state = self._origins.setdefault(origin.key, _OriginState())
        if self._may_have(state, caller):
            if state.size < self._max_per_origin:
                self._make_room(origin, state)
                self._resize(state, 1)
            else:
                self._close(state.idle.pop(0), state)  # and its place is ours
            self._occupy(state, caller)
        elif (kept := await self._wait_for_room(origin, state, caller, timeout_s, http2=http2)) is not None:
            return kept
        return await self._open(origin, state, caller, timeout_s, http2=http2)

    def give_back(self, connection: Connection, *, reusable: bool) -> None:
        """Keep a connection for the next exchange if it is `reusable` and there is room; else close it."""
        self._active -= 1
        state = self._origins[connection.origin.key]
        self._leave(state, connection.caller)
        room = len(state.idle) < self._max_idle_per_origin or state.waiting
        if reusable and self._entered and room:
            connection.idle_since = trio.current_time()
            state.idle.append(connection)
            if state.waiting:
                self._serve(state)
        else:
            self._discard(connection)

    def _resize(self, state: _OriginState, by: int) -> None:
        state.size += by
        self._total += by

    def _make_room(self, origin: Origin, state: _OriginState) -> None:
        """Close an idle connection if there are as many as there may be. Raises: PoolFullError."""
        if self._total < self._max_total:
            return
        idle = [each for each in self._origins.values() if each.idle]
        if idle:
            self._discard(min(idle, key=lambda each: each.idle[0].idle_since).idle.pop(0))
            self._origins[origin.key] = state  # if that was its last one
            return
        if not state.size:
            del self._origins[origin.key]
        every = f"all {self._max_total} connections that this process may have are in use"
        raise PoolFullError(f"no connection to {where(origin)}: {every}", own_share=False)

    def _may_have(self, state: _OriginState, caller: str) -> bool:
        """Whether a caller may have another connection. An unnamed one has no share to observe."""
        free = self._max_per_origin - state.size + len(state.idle)
        return free > (state.in_use.get(caller, 0) if caller else 0)

    def _has_its_share(self, caller: str) -> bool:
        """Whether a caller uses connections, of all origins, and as many as are free."""
        has = self._in_use.get(caller, 0) if caller else 0
        return has > 0 and has >= self._max_total - self._active

    def _occupy(self, state: _OriginState, caller: str) -> None:
        """Count one more connection for a caller."""
        if caller:
            state.in_use[caller] += 1
            self._in_use[caller] += 1

    def _leave(self, state: _OriginState, caller: str) -> None:
        """Count one less."""
        if not caller:
            return
        if left := state.in_use[caller] - 1:
            state.in_use[caller] = left
        else:
            del state.in_use[caller]
        if left := self._in_use[caller] - 1:
            self._in_use[caller] = left
        else:
            del self._in_use[caller]

    def _lent(self, connection: Connection, caller: str) -> Connection:
        connection.fresh = False
        connection.caller = caller
        self._active += 1
        self._reused += 1
        return connection

    async def _open(
        self, origin: Origin, state: _OriginState, caller: str, timeout_s: float, *, http2: bool
    ) -> Connection:
        """Open a connection that is counted already."""
        try:
            channel = await connect(
                origin, self.ssl_context, timeout_s=timeout_s, resolver=self.resolver, http2=http2
            )
        except BaseException as error:
            self._leave(state, caller)
            self._release(origin, state)
            if isinstance(error, ConnectFailedError):
                self._close_dead(state)
            raise
        self._opened += 1
        self._active += 1
        connection = Connection(origin, channel)
        connection.caller = caller
        state.open.add(connection)
        return connection

    async def _wait_for_room(
        self, origin: Origin, state: _OriginState, caller: str, timeout_s: float, *, http2: bool
    ) -> Connection | None:
        """Return a connection that became free, or None for the right to open one. Raises: PoolFullError."""
        waiter = _Waiter(trio.lowlevel.current_task())
        state.waiting.setdefault(caller, deque()).append(waiter)

        def leave(_: object) -> trio.lowlevel.Abort:
            state.waiting[caller].remove(waiter)
            if not state.waiting[caller]:
                del state.waiting[caller]
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.move_on_after(timeout_s) as scope:
            await trio.lowlevel.wait_task_rescheduled(leave)
        if scope.cancelled_caught:
            raise self._full(origin, state, caller)
        kept = waiter.given
        if kept is not None and (http2 or kept.channel.is_readable()):
            self._close(kept, state)  # and its place is ours
            return None
        return None if kept is None else self._lent(kept, caller)

    def _full(self, origin: Origin, state: _OriginState, caller: str) -> PoolFullError:
        has = state.in_use.get(caller, 0)
        own_share = bool(caller) and self._max_per_origin - state.size + len(state.idle) > 0
        which = f"{has} connections are this caller's share" if own_share else "all connections are in use"
        text = f"no connection to {where(origin)}: {which} (of {self._max_per_origin})"
        return PoolFullError(text, own_share=own_share)

    def _serve(self, state: _OriginState) -> None:
        """Give what is free to the waiting tasks: idle connections, and then the right to open one."""
        while (turn := next((c for c in state.waiting if self._may_have(state, c)), None)) is not None:
            waiters = state.waiting.pop(turn)
            waiter = waiters.popleft()
            if waiters:
                state.waiting[turn] = waiters  # the other callers have their turns before
            self._occupy(state, turn)
            if state.idle:
                waiter.given = state.idle.pop()
            else:
                self._resize(state, 1)
            trio.lowlevel.reschedule(waiter.task)

    def _discard(self, connection: Connection) -> None:
        state = self._origins[connection.origin.key]
        self._close(connection, state)
        self._release(connection.origin, state)

    @staticmethod
    def _close(connection: Connection, state: _OriginState) -> None:
        connection.channel.close()
        state.open.discard(connection)

    def _release(self, origin: Origin, state: _OriginState) -> None:
        """Count one connection less; a waiting task may open one in its place."""
        self._resize(state, -1)
        if state.waiting:
            self._serve(state)
        elif not state.size:
            del self._origins[origin.key]

    def _close_dead(self, state: _OriginState) -> None:
        """Close the idle connections on which something has happened: where one is dead, others may be."""
        idle, state.idle = state.idle, []
        for connection in idle:
            if connection.channel.is_readable():
                self._discard(connection)
            else:
                state.idle.append(connection)

    def _close_idle(self, *, not_used_since: float) -> None:
        self._http2.close_idle(not_used_since)
        for state in list(self._origins.values()):
            while state.idle and state.idle[0].idle_since <= not_used_since:
                self._discard(state.idle.pop(0))


def _not_entered() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("a pool is used inside its own `async with` block")
