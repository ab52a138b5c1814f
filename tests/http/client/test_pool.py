"""Pools: which connections they keep, share and use again."""

from __future__ import annotations

import random
import socket
import ssl
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from cpg_trio.asgi import HeaderList
from cpg_trio.http import (
    BodyTooLargeError,
    ConnectFailedError,
    ConnectionBrokenError,
    InvalidRequestError,
    LocalFailureError,
    Origin,
    Pool,
    PoolFullError,
    PoolStatistics,
    ProtocolError,
    Request,
    Whole,
)
from cpg_trio.http.channel import SocketChannel
from cpg_trio.http.client.exchange import Connection
from tests._wire import reset_at_close
from tests.certificates import Files
from tests.http.peers import (
    BEGUN,
    EMPTY,
    OK,
    Peer,
    Script,
    answer_ok,
    chunked,
    echo,
    get,
    once,
    serving,
    sized,
)
from tests.names import Names

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator


async def fetch(pool: Pool, origin: Origin, request: Request) -> tuple[int, bytes]:
    async with pool.request(origin, request) as response:
        return response.status, b"".join([chunk async for chunk in response])


@asynccontextmanager
async def sweeping(pool: Pool) -> AsyncIterator[Pool]:
    async with pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.sweep)
        await trio.testing.wait_all_tasks_blocked()
        yield pool
        nursery.cancel_scope.cancel()


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Return a list to which the socket of every connection is added that the pool opens."""
    opened: list[socket.socket] = []
    of = SocketChannel.of

    def recording(stream: trio.SocketStream) -> SocketChannel:
        channel = of(stream)
        opened.append(channel.socket)
        return channel

    monkeypatch.setattr(SocketChannel, "of", recording)
    return opened


@pytest.fixture
def server_tls(certificates: Files) -> ssl.SSLContext:
    return certificates.server_context()


# Reuse


async def test_a_connection_is_used_again() -> None:
    async with serving(answer_ok) as origin, Pool() as pool:
        for _ in range(3):
            assert await fetch(pool, origin, get()) == (200, b"ok")
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=1, reused=2)


async def test_concurrent_requests_have_a_connection_each_and_the_last_used_is_used_first(
    sockets: list[socket.socket],
) -> None:
    async with serving(answer_ok) as origin, Pool() as pool:
        async with pool.request(origin, get()) as first:
            async with pool.request(origin, get()) as second:
                assert pool.statistics() == PoolStatistics(idle=0, active=2, opened=2, reused=0)
                assert [chunk async for chunk in second] == [b"ok"]
            assert [chunk async for chunk in first] == [b"ok"]
        sockets[1].close()
        assert await fetch(pool, origin, get()) == (200, b"ok")
        assert pool.statistics() == PoolStatistics(idle=2, active=0, opened=2, reused=1)


async def test_connections_are_kept_by_origin() -> None:
    async with serving(answer_ok) as one, serving(answer_ok) as other, Pool() as pool:
        await fetch(pool, one, get())
        await fetch(pool, other, get())
        assert pool.statistics() == PoolStatistics(idle=2, active=0, opened=2, reused=0)


async def test_no_more_are_kept_than_allowed() -> None:
    async with serving(answer_ok) as origin, Pool(max_idle_per_origin=1) as pool:
        async with pool.request(origin, get()):
            await fetch(pool, origin, get())
        assert pool.statistics().idle == 1


async def test_a_response_that_is_left_early_closes_its_connection() -> None:
    closed = trio.Event()

    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(BEGUN)
        await peer.receive_to_end()
        closed.set()

    async with serving(peer) as origin, Pool() as pool:
        async with pool.request(origin, get()) as response:
            assert await anext(aiter(response)) == b"hello"
        assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=1, reused=0)
        await closed.wait()


async def test_an_end_that_comes_after_all_that_the_caller_wanted_keeps_the_connection(
    sockets: list[socket.socket],
) -> None:
    left = trio.Event()

    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(BEGUN)
        await left.wait()
        await peer.send(b"0\r\n\r\n")
        await trio.sleep_forever()

    async with serving(peer) as origin, Pool() as pool:
        async with pool.request(origin, get()) as response:
            assert await anext(aiter(response)) == b"hello"
            left.set()
            await trio.lowlevel.wait_readable(sockets[0])
        assert pool.statistics().idle == 1


async def test_nagles_delay_is_off(sockets: list[socket.socket]) -> None:
    async with serving(answer_ok) as origin, Pool() as pool:
        await fetch(pool, origin, get())
        assert sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_host_header_is_the_origins() -> None:
    script = Script([OK])
    async with serving(script) as origin, Pool() as pool:
        await fetch(pool, origin, get())
        assert script.requests == [b"GET / HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % origin.port]


# The pool's end


async def test_leaving_the_pool_closes_what_is_idle() -> None:
    closed = trio.Event()

    async def peer(peer: Peer) -> None:
        await answer_ok(peer)
        closed.set()

    async with serving(peer) as origin:
        async with Pool() as pool:
            await fetch(pool, origin, get())
        assert pool.statistics().idle == 0
        await closed.wait()


async def test_a_request_that_outlives_the_pool_closes_its_own_connection() -> None:
    async with serving(answer_ok) as origin:
        async with Pool() as pool:
            request = pool.request(origin, get())
            await request.__aenter__()
        await request.__aexit__(None, None, None)
        assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=1, reused=0)


async def test_a_pool_is_used_inside_its_block_only() -> None:
    pool = Pool()
    with pytest.raises(trio.ClosedResourceError):
        await fetch(pool, Origin("http", "localhost", 80), get())
    async with pool:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await fetch(pool, Origin("http", "localhost", 80), get())


# Stale connections


@pytest.mark.parametrize("last_words", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_an_idle_connection_on_which_something_happened_is_not_used(
    sockets: list[socket.socket], last_words: bytes
) -> None:
    speak = trio.Event()

    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(OK)
        if not speak.is_set():
            await speak.wait()
            await peer.send(last_words)

    async with serving(peer) as origin, Pool() as pool:
        await fetch(pool, origin, get())
        speak.set()
        await trio.lowlevel.wait_readable(sockets[0])
        assert await fetch(pool, origin, sized(b"x", 1)) == (200, b"ok")
        assert pool.statistics().opened == 2
        assert pool.statistics().reused == 0


async def test_an_expired_connection_is_not_used() -> None:
    async with serving(answer_ok) as origin, Pool(idle_expiry_s=0) as pool:
        await fetch(pool, origin, get())
        assert pool.statistics().idle == 1
        await fetch(pool, origin, get())
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=2, reused=0)


async def test_a_connection_that_expires_between_sweeps_is_not_used(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with serving(answer_ok) as origin, sweeping(Pool(idle_expiry_s=10)) as pool:
        mock_clock.jump(5)
        await fetch(pool, origin, get())
        mock_clock.jump(7)
        await trio.testing.wait_all_tasks_blocked()  # sweeps, and finds nothing
        assert pool.statistics().idle == 1
        mock_clock.jump(4)
        await fetch(pool, origin, get())
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=2, reused=0)


async def test_a_sweep_closes_what_expired_though_nothing_is_asked_for_any_more(
    mock_clock: trio.testing.MockClock,
) -> None:
    closed = trio.Event()

    async def peer(peer: Peer) -> None:
        await answer_ok(peer)
        closed.set()

    async with serving(peer) as origin, sweeping(Pool(idle_expiry_s=10)) as pool:
        await fetch(pool, origin, get())
        mock_clock.jump(10)
        await closed.wait()
        assert pool.statistics().idle == 0


async def test_where_one_connection_is_dead_the_other_dead_ones_are_closed_as_well(
    sockets: list[socket.socket],
) -> None:
    stop = trio.Event()

    async def peer(peer: Peer) -> None:
        if await peer.receive_head() == b"GET /living HTTP/1.1\r\nhost: h\r\n\r\n":
            await peer.send(OK)
            await answer_ok(peer)
        await peer.send(OK)
        await stop.wait()

    async with serving(peer) as origin, Pool() as pool:
        async with pool.request(origin, get()), pool.request(origin, get(b"/living", (b"host", b"h"))):
            await fetch(pool, origin, get())
        assert pool.statistics().idle == 3
        stop.set()
        for dead in [sockets[0], sockets[2]]:
            await trio.lowlevel.wait_readable(dead)
        taken = pool.take(origin)
        assert taken is not None
        assert pool.statistics() == PoolStatistics(idle=0, active=1, opened=3, reused=1)
        pool.give_back(taken, reusable=False)


async def test_what_is_in_flight_at_an_origin_that_is_dead_ends_and_no_connection_to_it_is_left() -> None:
    async def answer_first(peer: Peer) -> None:
        if b"/silent" not in await peer.receive_head():
            await peer.send(OK)
        await trio.sleep_forever()

    async with serving(answer_first) as origin, serving(answer_ok) as other, Pool() as pool:
        assert (await pool.fetch(other, get())).status == 200
        broken: list[str] = []

        async def wait_in_vain() -> None:
            with pytest.raises(ConnectionBrokenError):
                await pool.fetch(origin, Request(b"POST", b"/silent", []))
            broken.append("broken")

        async with trio.open_nursery() as nursery:
            assert (await pool.fetch(origin, get())).status == 200
            for _ in range(2):
                nursery.start_soon(wait_in_vain)
            await trio.testing.wait_all_tasks_blocked(0.01)
            pool.break_off(origin)
        assert broken == ["broken"] * 2
        assert pool.connections_to(origin) == 0
        assert pool.connections_to(other) == 1
        pool.break_off(origin)  # of which there is nothing any more


async def test_the_idle_connections_to_an_origin_can_be_closed() -> None:
    async with serving(answer_ok) as origin, Pool() as pool:
        await pool.fetch(origin, get())
        pool.close_idle(origin)
        pool.close_idle(origin)
        assert pool.connections_to(origin) == 0
        await pool.fetch(origin, get())
        assert (pool.statistics().opened, pool.statistics().reused) == (2, 0)


async def test_where_connecting_fails_the_dead_connections_are_closed() -> None:
    async with Pool() as pool, trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, trio.aclose_forcefully, 0, host="127.0.0.1"))
        origin = Origin("http", "127.0.0.1", listeners[0].socket.getsockname()[1])
        connection = await pool.open(origin)
        await trio.lowlevel.wait_readable(socket_of(connection))
        pool.give_back(connection, reusable=True)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ConnectFailedError):
                await pool.open(origin)
        assert pool.statistics().idle == 0


# Connections that others have exchanges on


def socket_of(connection: Connection) -> socket.socket:
    assert isinstance(connection.channel, SocketChannel)
    return connection.channel.socket


async def test_a_connection_is_taken_opened_and_given_back() -> None:
    async with serving(answer_ok) as origin, Pool() as pool:
        assert pool.take(origin) is None
        connection = await pool.open(origin)
        assert (connection.origin, connection.fresh) == (origin, True)
        assert pool.statistics() == PoolStatistics(idle=0, active=1, opened=1, reused=0)
        pool.give_back(connection, reusable=True)
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=1, reused=0)
        assert pool.take(origin) is connection
        assert not connection.fresh
        assert pool.take(origin) is None
        pool.give_back(connection, reusable=False)
        assert socket_of(connection).fileno() == -1
        assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=1, reused=1)


async def test_a_pool_that_was_left_opens_nothing_and_keeps_nothing() -> None:
    async with serving(answer_ok) as origin:
        async with Pool() as pool:
            connection = await pool.open(origin)
        pool.give_back(connection, reusable=True)
        assert socket_of(connection).fileno() == -1
        assert pool.take(origin) is None
        with pytest.raises(trio.ClosedResourceError):
            await pool.open(origin)


# No more than so many


async def test_who_finds_no_connection_free_has_the_next_that_is_given_back_in_turn() -> None:
    order: list[int] = []

    async def wait(turn: int) -> None:
        connection = await pool.open(origin)
        order.append(turn)
        assert not connection.fresh
        pool.give_back(connection, reusable=True)

    async with serving(answer_ok) as origin, Pool(max_per_origin=1) as pool, trio.open_nursery() as nursery:
        connection = await pool.open(origin)
        for turn in range(3):
            nursery.start_soon(wait, turn)
            await trio.testing.wait_all_tasks_blocked()
        pool.give_back(connection, reusable=True)
        assert pool.take(origin) is None  # those who wait go first
        while len(order) < 3:
            await trio.testing.wait_all_tasks_blocked()
        assert order == [0, 1, 2]
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=1, reused=3)


@pytest.mark.parametrize("reusable", [True, False])
async def test_who_waits_opens_a_connection_in_the_place_of_one_that_is_closed_or_dead(
    *, reusable: bool
) -> None:
    leave = trio.Event()

    async def peer(peer: Peer) -> None:
        if leave.is_set():
            await answer_ok(peer)
        await leave.wait()

    async with serving(peer) as origin, Pool(max_per_origin=1) as pool, trio.open_nursery() as nursery:
        connection = await pool.open(origin)
        nursery.start_soon(fetch, pool, origin, sized(b"x", 1))
        await trio.testing.wait_all_tasks_blocked()
        leave.set()
        await trio.lowlevel.wait_readable(socket_of(connection))
        pool.give_back(connection, reusable=reusable)
    assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=2, reused=0)


async def test_who_waits_does_so_no_longer_than_connecting_may_take(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert autojump_clock.rate == 0
    async with serving(answer_ok) as origin, Pool(max_per_origin=2, connect_timeout_s=3) as pool:
        async with pool.request(origin, get()), pool.request(origin, get()):
            started = trio.current_time()
            with pytest.raises(PoolFullError, match=r"all connections are in use \(of 2\)") as caught:
                await fetch(pool, origin, get())
            assert not caught.value.own_share
            assert trio.current_time() - started == pytest.approx(3)
        assert pool.statistics().active == 0
        assert await fetch(pool, origin, get()) == (200, b"ok")


async def test_who_stops_waiting_leaves_the_turn_to_the_next() -> None:
    async with serving(answer_ok) as origin, Pool(max_per_origin=1) as pool, trio.open_nursery() as nursery:
        async with pool.request(origin, get()):
            with trio.CancelScope() as scope:
                nursery.start_soon(fetch, pool, origin, get())
                scope.cancel()
                await pool.open(origin)
        assert scope.cancelled_caught
    assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=1, reused=1)


async def test_who_fails_to_connect_leaves_the_place_to_who_waits(names: Names) -> None:
    names.fails = socket.gaierror(-2, "Name or service not known")
    async with Pool(max_per_origin=1) as pool:

        async def fail() -> None:
            with pytest.raises(LocalFailureError, match="not known"):
                await pool.open(Origin("http", "peer.invalid", 80))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fail)
        assert not pool._origins


# Shares


async def test_a_caller_never_uses_more_connections_than_it_leaves_free(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert autojump_clock.rate == 0
    async with serving(answer_ok) as origin, Pool(max_per_origin=6, connect_timeout_s=3) as pool:
        greedy = [await pool.open(origin, "greedy") for _ in range(3)]
        assert pool.take(origin, "greedy") is None
        with pytest.raises(PoolFullError, match="3 connections are this caller's share") as caught:
            await pool.open(origin, "greedy")
        assert caught.value.own_share
        other = await pool.open(origin, "other")
        for connection in [*greedy, other]:
            pool.give_back(connection, reusable=False)


async def test_a_caller_uses_no_more_connections_to_all_origins_than_it_leaves_free() -> None:
    async with serving(answer_ok) as one, serving(answer_ok) as two, Pool(max_total=6) as pool:
        greedy = [await pool.open(origin, "greedy") for origin in (one, two, one)]
        pool.give_back(greedy[0], reusable=True)
        greedy[0] = await pool.open(two, "greedy")
        for origin in (one, two):
            assert pool.take(origin, "greedy") is None
            with pytest.raises(PoolFullError, match=r"share \(of 6\)") as caught:
                await pool.open(origin, "greedy")
            assert caught.value.own_share
        others = [pool.take(one, "other") or await pool.open(one, "other"), await pool.open(two, "other")]
        for connection in [*greedy, *others]:
            pool.give_back(connection, reusable=False)
        assert not pool._in_use


async def test_a_connection_that_is_idle_is_for_callers_that_have_not_their_share() -> None:
    async with serving(answer_ok) as origin, Pool(max_per_origin=2) as pool:
        greedy, other = await pool.open(origin, "greedy"), await pool.open(origin, "other")
        pool.give_back(other, reusable=True)
        assert pool.take(origin, "greedy") is None
        assert pool.take(origin, "other") is other
        pool.give_back(greedy, reusable=False)
        pool.give_back(other, reusable=False)


async def test_who_names_no_caller_may_use_all_connections() -> None:
    async with serving(answer_ok) as origin, Pool(max_per_origin=3) as pool:
        for connection in [await pool.open(origin) for _ in range(3)]:
            pool.give_back(connection, reusable=False)


@pytest.mark.parametrize("reusable", [True, False])
async def test_of_those_that_wait_each_caller_has_its_turn(*, reusable: bool) -> None:
    order: list[str] = []

    async def wait(caller: str) -> None:
        connection = await pool.open(origin, caller)
        order.append(caller)
        pool.give_back(connection, reusable=reusable)

    async with serving(answer_ok) as origin, Pool(max_per_origin=1) as pool, trio.open_nursery() as nursery:
        connection = await pool.open(origin, "first")
        for caller in ("a", "a", "a", "b", "c", "b"):
            nursery.start_soon(wait, caller)
            await trio.testing.wait_all_tasks_blocked()
        pool.give_back(connection, reusable=reusable)
    assert order == ["a", "b", "c", "a", "b", "a"]
    assert pool.statistics().active == 0


async def test_a_caller_that_waits_for_its_share_is_served_when_one_of_its_calls_ends() -> None:
    async with serving(answer_ok) as origin, Pool(max_per_origin=4) as pool, trio.open_nursery() as nursery:
        first, second = await pool.open(origin, "a"), await pool.open(origin, "a")
        got: list[Connection] = []

        async def wait() -> None:
            got.append(await pool.open(origin, "a"))

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not got
        pool.give_back(first, reusable=True)
        await trio.testing.wait_all_tasks_blocked()
        assert got == [first]
        pool.give_back(first, reusable=False)
        pool.give_back(second, reusable=False)
    assert not pool._origins


@pytest.mark.parametrize("seed", range(5))
async def test_however_callers_come_and_go_nobody_is_forgotten_and_the_limit_holds(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    assert autojump_clock.rate == 0
    rng, used, most, done = random.Random(seed), 0, 0, 0

    async def use(caller: str) -> None:
        nonlocal used, most, done
        await trio.sleep(rng.random())
        with trio.move_on_after(rng.choice([0.5, 100])):
            connection = pool.take(origin, caller) or await pool.open(origin, caller, timeout_s=1000)
            used += 1
            most = max(most, used)
            with trio.CancelScope(shield=True):
                await trio.sleep(rng.random())
            used -= 1
            pool.give_back(connection, reusable=rng.random() < 0.7)
        done += 1

    async with serving(answer_ok) as origin, Pool(max_per_origin=5, max_idle_per_origin=2) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(use, rng.choice(["a", "a", "a", "b", "c", ""]))
        assert (done, used) == (60, 0)
        assert most <= 5
        for state in pool._origins.values():
            assert not state.in_use
            assert not state.waiting
            assert state.size == len(state.idle)


async def test_a_pool_has_no_more_connections_than_allowed_and_closes_the_one_that_was_idle_longest() -> None:
    async with (
        serving(answer_ok) as first,
        serving(answer_ok) as second,
        serving(answer_ok) as third,
        Pool(max_total=2) as pool,
    ):
        for origin in (first, second, third):
            await fetch(pool, origin, get())
        assert pool.statistics() == PoolStatistics(idle=2, active=0, opened=3, reused=0)
        assert pool.take(first) is None
        async with pool.request(second, get()), pool.request(third, get()):
            with pytest.raises(PoolFullError, match="all 2 connections that this process may have"):
                await pool.open(first)
            assert first.key not in pool._origins
        assert await fetch(pool, first, get()) == (200, b"ok")
        assert pool._total == sum(state.size for state in pool._origins.values()) == 2


async def test_where_others_use_all_connections_a_caller_without_any_has_no_share_that_is_used_up() -> None:
    async with serving(answer_ok) as one, serving(answer_ok) as two, Pool(max_total=1) as pool:
        async with pool.request(one, get()):
            with pytest.raises(PoolFullError, match="all 1 connections that this process may have"):
                await pool.open(two, "newcomer")
        assert await fetch(pool, two, get()) == (200, b"ok")


async def test_the_only_connection_of_a_pool_is_closed_for_another_to_the_same_place() -> None:
    async with serving(answer_ok) as origin, Pool(max_total=1) as pool:
        await fetch(pool, origin, get())
        connection = await pool.open(origin)
        assert connection.fresh
        pool.give_back(connection, reusable=False)
    assert pool._total == 0


async def test_a_new_connection_takes_the_place_of_the_one_that_was_idle_longest() -> None:
    async with serving(answer_ok) as origin, Pool(max_per_origin=2) as pool:
        async with pool.request(origin, get()):
            await fetch(pool, origin, get())
        first, second = pool._origins[origin.key].idle
        connection = await pool.open(origin)
        assert connection.fresh
        assert pool.take(origin) is second
        assert socket_of(first).fileno() == -1
        for each in [connection, second]:
            pool.give_back(each, reusable=False)


# Whole exchanges


def parts_of(whole: Whole) -> tuple[int, HeaderList, HeaderList, bytes]:
    texts = [(name.decode(), value.decode()) for name, value in whole.headers]
    assert whole.texts() == texts
    return whole.status, whole.headers, whole.trailers, whole.body


async def test_a_response_is_fetched_whole() -> None:
    answer = BEGUN + b"0\r\nX: y\r\n\r\n"
    async with serving(Script([answer, OK])) as origin, Pool() as pool:
        chunked_, sized_ = [await pool.fetch(origin, sized(b"x", 1)) for _ in range(2)]
        headers = [(b"transfer-encoding", b"chunked")]
        assert parts_of(chunked_) == (200, headers, [(b"x", b"y")], b"hello")
        assert parts_of(sized_) == (200, [(b"content-length", b"2")], [], b"ok")
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=1, reused=1)


async def test_a_response_that_is_larger_than_allowed_is_an_error_and_closes_its_connection() -> None:
    async with serving(answer_ok) as origin, Pool() as pool:
        assert (await pool.fetch(origin, get(), max_body_bytes=2)).body == b"ok"
        with pytest.raises(BodyTooLargeError):
            await pool.fetch(origin, get(), max_body_bytes=1)
        assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=1, reused=1)


async def test_what_is_fetched_may_be_asked_for_with_a_streamed_body() -> None:
    async with serving(echo_again) as origin, Pool() as pool:
        assert (await pool.fetch(origin, chunked(once(b"a", b"b")))).body == b"ab"
        assert pool.statistics().idle == 1


# Once more, where it is safe


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE"])
async def test_an_idempotent_request_that_a_kept_connection_loses_is_sent_once_more(method: bytes) -> None:
    script = Script([OK], [OK])
    async with serving(script) as origin, Pool() as pool:
        await fetch(pool, origin, get(b"/first"))
        assert await fetch(pool, origin, sized(b"x", 1, method=method)) == (200, b"ok")
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=2, reused=1)
        assert len(script.requests) == 2


async def test_a_request_whose_body_was_not_touched_is_sent_once_more() -> None:
    script = Script([OK], [EMPTY])
    headers = [(b"content-length", b"1"), (b"expect", b"100-continue")]
    async with serving(script) as origin, Pool() as pool:
        await fetch(pool, origin, get())
        assert await fetch(pool, origin, Request(b"PUT", b"/", headers, once(b"x"))) == (204, b"")


async def test_no_request_is_sent_a_third_time() -> None:
    async with serving(Script([OK], [])) as origin, Pool() as pool:
        await fetch(pool, origin, get())
        with pytest.raises(ConnectionBrokenError):
            await fetch(pool, origin, get())
        assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=2, reused=1)


@pytest.mark.parametrize(
    "request_",
    [sized(b"x", 1), sized(once(b"x"), 1, method=b"PUT"), Request(b"PATCH", b"/", [])],
    ids=["POST", "touched body", "PATCH"],
)
async def test_a_request_that_may_have_had_effect_is_sent_once(request_: Request) -> None:
    async with serving(Script([OK], [OK])) as origin, Pool() as pool:
        await fetch(pool, origin, get())
        with pytest.raises(ConnectionBrokenError):
            await fetch(pool, origin, request_)
        assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=1, reused=1)


async def test_a_request_whose_answer_has_begun_is_sent_once() -> None:
    async with serving(Script([OK, b"HTTP/1.1 20", None], [OK])) as origin, Pool() as pool:
        await fetch(pool, origin, get())
        with pytest.raises(ConnectionBrokenError):
            await fetch(pool, origin, get())
        assert pool.statistics().opened == 1


# Connecting


async def test_a_refused_connection_says_where_and_why() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        async with Pool() as pool:
            with pytest.raises(ConnectFailedError, match=f"http://127.0.0.1:{port}: .*refused") as caught:
                await fetch(pool, Origin("http", "127.0.0.1", port), get(b"/?secret"))
            assert "secret" not in str(caught.value)
            assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=0, reused=0)


@pytest.mark.parametrize(
    "error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")]
)
async def test_an_unknown_name_is_a_failure_to_connect(error: Exception, names: Names) -> None:
    names.fails = error
    async with Pool() as pool:
        with pytest.raises(LocalFailureError, match=r"http://peer\.invalid: .*(not known|too long)"):
            await fetch(pool, Origin("http", "peer.invalid", 80), get())


async def test_connecting_takes_no_longer_than_allowed(
    autojump_clock: trio.testing.MockClock, names: Names
) -> None:
    assert autojump_clock.rate == 0
    async with Pool(connect_timeout_s=3) as pool:
        started = trio.current_time()
        with pytest.raises(LocalFailureError, match="within the time allowed"):
            await fetch(pool, Origin("http", "peer.invalid", 80), get())
        assert trio.current_time() - started == pytest.approx(3)


async def test_an_invalid_request_is_refused_before_connecting() -> None:
    async with Pool() as pool:
        with pytest.raises(InvalidRequestError):
            await fetch(pool, Origin("http", "127.0.0.1", 1), get(b"no path"))


async def test_the_limit_of_heads_is_the_pools() -> None:
    script = Script([b"HTTP/1.1 200 OK\r\nx: " + b"y" * 99])
    async with serving(script) as origin, Pool(max_head_bytes=50) as pool:
        with pytest.raises(ProtocolError):
            await fetch(pool, origin, get())


# TLS


async def test_tls_connections_are_verified_kept_and_checked(
    certificates: Files, server_tls: ssl.SSLContext, sockets: list[socket.socket]
) -> None:
    close = trio.Event()

    async def peer(peer: Peer) -> None:
        for _ in range(2):
            await peer.receive_head()
            await peer.send(OK)
        await close.wait()

    async with (
        serving(peer, ssl_context=server_tls) as origin,
        Pool(ssl_context=certificates.client_context) as pool,
    ):
        for _ in range(2):
            assert await fetch(pool, origin, get()) == (200, b"ok")
        assert pool.statistics().reused == 1
        close.set()
        await trio.lowlevel.wait_readable(sockets[0])
        await fetch(pool, origin, get())
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=2, reused=1)


async def test_a_certificate_that_nobody_vouches_for_is_a_failure_to_connect(
    server_tls: ssl.SSLContext, sockets: list[socket.socket]
) -> None:
    async def peer(peer: Peer) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await peer.receive_head()

    async with serving(peer, ssl_context=server_tls) as origin, Pool() as pool:
        with pytest.raises(
            ConnectFailedError, match=r"https://127\.0\.0\.1:.*its certificate is not accepted: "
        ):
            await fetch(pool, origin, get())
        assert pool.statistics().opened == 0
        assert sockets[0].fileno() == -1


async def test_a_body_that_tls_cuts_short_is_a_broken_connection(
    certificates: Files, server_tls: ssl.SSLContext
) -> None:
    async with (
        serving(Script([BEGUN, None]), ssl_context=server_tls) as origin,
        Pool(ssl_context=certificates.client_context) as pool,
    ):
        with pytest.raises(ConnectionBrokenError):
            await fetch(pool, origin, get())


# Both directions at once, on real sockets


async def test_a_body_larger_than_every_buffer_is_echoed_while_it_is_sent() -> None:
    piece, pieces = bytes(range(256)) * 256, 200

    async def body() -> AsyncGenerator[bytes, None]:
        for _ in range(pieces):
            yield piece

    received = 0
    async with serving(echo) as origin, Pool() as pool:
        async with pool.request(origin, chunked(body())) as response:
            async for chunk in response:
                received += len(chunk)
        assert received == len(piece) * pieces
        assert pool.statistics().idle == 1


async def test_a_peer_that_answers_a_large_upload_and_resets_has_answered() -> None:
    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno!")

    async def body() -> AsyncGenerator[bytes, None]:
        while True:
            yield bytes(65536)

    async with serving(peer) as origin, Pool() as pool:
        assert await fetch(pool, origin, chunked(body())) == (413, b"no!")
        assert pool.statistics() == PoolStatistics(idle=0, active=0, opened=1, reused=0)


async def test_a_reset_within_the_answer_is_a_broken_connection() -> None:
    async def peer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(BEGUN)
        assert isinstance(peer.stream, trio.SocketStream)
        reset_at_close(peer.stream)

    async with serving(peer) as origin, Pool() as pool:
        with pytest.raises(ConnectionBrokenError):
            await fetch(pool, origin, get())


# Cancellation


class CancelAtStep(trio.abc.Instrument):
    """Cancels `scope` when the task that made this, or one of its children, is run for the nth time."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.scope = scope
        self.left = step
        self.task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        parent = task.parent_nursery.parent_task if task.parent_nursery else None
        if self.task in {task, parent}:
            self.left -= 1
            if not self.left:
                self.scope.cancel()


@asynccontextmanager
async def cancelled_at(step: int) -> AsyncIterator[trio.CancelScope]:
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            yield scope
        finally:
            trio.lowlevel.remove_instrument(instrument)


async def upload(pool: Pool, origin: Origin) -> None:
    async def body() -> AsyncGenerator[bytes, None]:
        for part in (b"a", b"b"):
            await trio.lowlevel.checkpoint()
            yield part

    async with pool.request(origin, chunked(body(), method=b"PUT")) as response:
        assert b"".join([chunk async for chunk in response]) == b"ab"


async def echo_again(peer: Peer) -> None:
    while await peer.receive_head():
        body = await peer.receive_until(b"0\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await peer.send(body)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("reused", [False, True], ids=["new connection", "kept connection"])
async def test_a_request_cancelled_at_any_step_leaves_the_pool_whole(
    certificates: Files, server_tls: ssl.SSLContext, *, tls: bool, reused: bool
) -> None:
    step, finished = 0, False
    async with serving(echo_again, ssl_context=server_tls if tls else None) as origin:
        while not finished:
            step += 1
            async with Pool(ssl_context=certificates.client_context) as pool:
                if reused:
                    await upload(pool, origin)
                async with cancelled_at(step) as scope:
                    await upload(pool, origin)
                    finished = True
                statistics = pool.statistics()
                assert statistics.active == 0
                assert statistics.idle == int(finished), "a connection that was cut short was kept"
                await upload(pool, origin)
                assert pool.statistics().idle == 1
            finished = finished and not scope.cancel_called
    assert step > 5
