"""Bodies of routed calls that are passed on without a task: nothing of them is lost, held, or let through.

All calls here have a connection to the provider that was kept, without which a task makes the call.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing

from cpg_trio.host import HostConfig, Limits
from cpg_trio.http import ServeConfig, passing, reactor
from cpg_trio.http.channel import RECEIVE_BYTES
from cpg_trio.http.passing import RequestBody, ResponseBody
from cpg_trio.http.relay import RelayCall
from cpg_trio.http.server.http1 import Http1Exchange
from tests._wire import Wire, dial, reset_at_close, socket_of
from tests.host.routed import Setting, routing, transport
from tests.http.peers import OK, Peer

__all__ = ["transport"]  # fixtures

BUFFER = reactor._BUFFER_BYTES
LENGTHS = [1, 65_536, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 17]
ENOUGH = 2**26  # bytes, more than all buffers on the way
PART = bytes(2**16)
CHUNK = b"10000\r\n%b\r\n" % PART

Script = Callable[[Peer, bytes], Awaitable[None]]


@pytest.fixture(params=["epoll", "tasks"])
def every_reactor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test twice: with the reactor of Linux, and with that of other platforms."""
    monkeypatch.setattr(reactor, "_HAS_EPOLL", request.param == "epoll" and reactor._HAS_EPOLL)


def body_of(length: int) -> bytes:
    return random.Random(length).randbytes(length)


def pieces(data: bytes, seed: int) -> Iterator[bytes]:
    """Cut data into pieces, of which some are tiny and some are large."""
    sizes, at = random.Random(seed), 0
    while at < len(data):
        size = int(len(data) ** sizes.random())
        yield data[at : at + size]
        at += size


def chunked(data: bytes, seed: int) -> bytes:
    return b"".join([b"%x\r\n%b\r\n" % (len(part), part) for part in pieces(data, seed)]) + b"0\r\n\r\n"


@asynccontextmanager
async def kept(script: Script, **config: Any) -> AsyncIterator[tuple[Setting, Wire]]:
    """Run a host whose connection to the provider is kept. `script` answers the calls of `M`."""

    async def provide(peer: Peer) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while head := await peer.receive_head():
                await (peer.send(OK) if b"/Warm " in head else script(peer, head))

    async with routing(provide, config=HostConfig(**config)) as s, dial(s.url) as wire:
        await wire.send(s.head(path=s.path("Warm")))
        assert (await wire.response()).body == b"ok"
        yield s, wire


async def assert_nothing_is_left(s: Setting) -> None:
    while s.host._pool.statistics().active or s.host.registry.calls.count(s.provider):
        await trio.testing.wait_all_tasks_blocked(0.001)


async def send_in_pieces(send: Callable[[bytes], Awaitable[None]], data: bytes, seed: int) -> None:
    for piece in pieces(data, seed):
        await send(piece)


async def received(peer: Peer, length: int) -> bytes:
    while len(peer.received) < length:
        peer.received += await peer.stream.receive_some()
    body, peer.received = bytes(peer.received[:length]), peer.received[length:]
    return body


async def received_in_chunks(peer: Peer) -> bytes:
    body = bytearray()
    while size := int(await peer.receive_until(b"\r\n"), 16):
        body += await received(peer, size)
        assert await received(peer, 2) == b"\r\n"
    await peer.receive_until(b"\r\n")
    return bytes(body)


# Nothing is lost


@pytest.mark.usefixtures("transport", "every_reactor")
@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
async def test_an_answer_arrives_byte_for_byte_however_it_was_cut(framing: str) -> None:
    async def answer(peer: Peer, head: bytes) -> None:
        length, seed = map(int, head.split(b" ")[1].rpartition(b"/")[2].split(b"-"))
        body = body_of(length)
        fields, framed = {
            "length": (b"content-length: %d" % length, body),
            "chunks": (b"transfer-encoding: chunked", chunked(body, seed)),
            "close": (b"connection: close", body),
        }[framing]
        await send_in_pieces(peer.send, b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (fields, framed), seed + 1)
        if framing == "close":
            await peer.stream.aclose()

    async with kept(answer) as (s, wire):
        for seed, length in enumerate(LENGTHS):
            await wire.send(s.head(path=s.path("Warm")))
            assert (await wire.response()).body == b"ok"
            await wire.send(s.head("GET", s.path(f"{length}-{seed}")))
            response = await wire.response()
            assert (response.status, response.body == body_of(length)) == (200, True)
        await assert_nothing_is_left(s)


@pytest.mark.usefixtures("transport", "every_reactor")
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_request_arrives_byte_for_byte_however_it_was_cut(framing: str) -> None:
    bodies: list[bytes] = []

    async def listen(peer: Peer, head: bytes) -> None:
        length = int(head.split(b" ")[1].rpartition(b"/")[2])
        body = received(peer, length) if framing == "length" else received_in_chunks(peer)
        bodies.append(await body)
        await peer.send(OK)

    async with kept(listen) as (s, wire):
        for seed, length in enumerate(LENGTHS):
            field = f"Content-Length: {length}" if framing == "length" else "Transfer-Encoding: chunked"
            framed = body_of(length) if framing == "length" else chunked(body_of(length), seed)
            request = s.head("POST", s.path(str(length)), field) + framed
            await send_in_pieces(wire.send, request, seed + 1)
            assert (await wire.response()).body == b"ok"
        assert s.host._pool.statistics().opened == 1
    assert [len(body) for body in bodies] == LENGTHS
    assert bodies == [body_of(length) for length in LENGTHS]


async def test_what_is_passed_on_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    length, ended = 3 * BUFFER, list[tuple[int, int, str, str]]()

    async def echo(peer: Peer, _head: bytes) -> None:
        body = await received(peer, length)
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (length - 1, body[1:]))

    def never(*_: object) -> None:
        raise AssertionError("a task has gone on")

    async with kept(echo) as (s, wire):
        monkeypatch.setattr(RelayCall, "run", never)
        s.host.calls.ended.add(
            lambda call: ended.append((call.request_bytes, call.response_bytes, call.code, call.failure))
        )
        await wire.send(s.head("POST", None, f"Content-Length: {length}") + bytes(length))
        assert len((await wire.response()).body) == length - 1
    assert ended == [(length, length - 1, "ok", "")]


async def test_the_code_of_a_stream_is_that_of_its_last_message() -> None:
    codes: list[str] = []
    end = b'\x02\x00\x00\x00\x26{"error":{"code":"not_found","message":0}}'
    end = b"\x02" + (len(end) - 5).to_bytes(4) + end[5:]

    async def stream(peer: Peer, _head: bytes) -> None:
        await peer.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for message in (b"\x00\x00\x00\x00\x01x", b"\x00\x00\x00\x00\x01y", end):
            await peer.send(b"%x\r\n%b\r\n" % (len(message), message))
            await trio.testing.wait_all_tasks_blocked(0.001)
        await peer.send(b"0\r\n\r\n")

    async with kept(stream) as (s, wire):
        s.host.calls.ended.add(lambda call: codes.append(call.code))
        await wire.send(s.head())
        assert (await wire.response()).body.endswith(end)
    assert codes == ["not_found"]


# Nothing is held


@pytest.mark.usefixtures("transport", "every_reactor")
async def test_a_caller_that_does_not_read_holds_its_provider_and_takes_no_memory() -> None:
    sent = 0

    async def flood(peer: Peer, _head: bytes) -> None:
        nonlocal sent
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % ENOUGH)
        while sent < ENOUGH:
            await peer.send(bytes(2**16))
            sent += 2**16

    async with kept(flood) as (s, wire):
        tracemalloc.start()
        await wire.send(s.head())
        before, at = tracemalloc.get_traced_memory()[0], -1
        while at != sent:
            at = sent
            await trio.testing.wait_all_tasks_blocked(0.02)
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert sent < ENOUGH
        assert held < 4 * BUFFER
        assert (await wire.head()).status == 200
        left = ENOUGH - len(wire._buffer)
        while left:
            left -= len(await wire.stream.receive_some())
        await assert_nothing_is_left(s)


async def test_many_callers_that_read_slowly_take_little_memory_each(monkeypatch: pytest.MonkeyPatch) -> None:
    callers, few = 30, 1
    monkeypatch.setattr(passing, "_MOST_HELD", few)

    asked, all_have_asked = 0, trio.Event()

    async def flood(peer: Peer, head: bytes) -> None:
        nonlocal asked
        if b"/Open " in head:
            asked += 1
            if asked == callers:
                all_have_asked.set()
            await all_have_asked.wait()
            await peer.send(OK)
        else:
            await _flood(peer.send, b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n")

    async def call(s: Setting) -> None:
        async with dial(s.url) as wire:
            await wire.send(s.head(path=s.path("Open")))
            assert (await wire.response()).body == b"ok"  # each has had a connection to the provider
            await wire.send(s.head())
            for _ in range(3):  # slowly
                await trio.testing.wait_all_tasks_blocked(0.02)
                await wire.stream.receive_some(2**20)
            await trio.sleep_forever()

    async with kept(flood) as (s, _), trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(callers):
            nursery.start_soon(call, s)
        with trio.fail_after(20):
            while s.host.registry.calls.count(s.provider) < callers:
                await trio.testing.wait_all_tasks_blocked(0.02)
            await trio.testing.wait_all_tasks_blocked(0.1)
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        bodies = [each for each in gc.get_objects() if isinstance(each, ResponseBody)]
        sizes = [
            len(exchange._unsent) for each in bodies if isinstance(exchange := each._caller, Http1Exchange)
        ]
        assert len(sizes) == callers
        assert len([size for size in sizes if size > RECEIVE_BYTES]) <= few
        # A call itself takes some 30 KiB here, with its peers.
        assert held < BUFFER + few * BUFFER + callers * (RECEIVE_BYTES + 64 * 1024)
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("transport", "every_reactor")
@pytest.mark.parametrize("way", ["request", "response"])
@pytest.mark.parametrize(
    "ending", ["caller closes", "caller resets", "provider leaves", "provider is gone", "host stops"]
)
async def test_a_call_whose_body_is_held_ends_with_either_side(
    way: str, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    leave, ended = trio.Event(), trio.Event()

    async def hold(peer: Peer, _head: bytes) -> None:
        async with trio.open_nursery() as nursery:
            if way == "response":
                nursery.start_soon(_flood, peer.send, b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n")
            await leave.wait()
            nursery.cancel_scope.cancel()
        if ending == "provider leaves":
            await trio.aclose_forcefully(peer.stream)
        else:
            await peer.receive_to_end()
        ended.set()

    async with kept(hold, serve=ServeConfig(grace_s=0, linger_s=0.02)) as (s, wire), trio.open_nursery() as n:
        if way == "request":
            n.start_soon(_flood, wire.send, s.head("POST", None, "Content-Length: 99999999"))
        else:
            await wire.send(s.head())
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert s.host.registry.calls.count(s.provider) == 1
        if ending == "caller closes":
            await trio.aclose_forcefully(wire.stream)
        elif ending == "caller resets":
            reset_at_close(wire.stream)
            socket_of(wire.stream).close()
        elif ending == "provider is gone":
            s.host._lifetimes.end(s.provider, "it is gone")
        leave.set()
        if ending != "host stops":
            if not ending.startswith("caller"):
                n.start_soon(_read_on, wire)
            await ended.wait()
            await assert_nothing_is_left(s)
            assert s.host._pool.statistics().idle == 0
        n.cancel_scope.cancel()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def _flood(send: Callable[[bytes], Awaitable[None]], head: bytes) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await send(head)
        while True:
            await send(PART)


async def _read_on(wire: Wire) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
        while await wire.stream.receive_some(2**20):
            pass


@pytest.mark.usefixtures("transport", "every_reactor")
async def test_a_provider_that_does_not_read_holds_its_caller() -> None:
    sent, read_on = 0, trio.Event()

    async def read_late(peer: Peer, _head: bytes) -> None:
        await read_on.wait()
        left = ENOUGH - len(peer.received)
        while left:
            left -= len(await peer.stream.receive_some())
        peer.received.clear()
        await peer.send(OK)

    async with kept(read_late) as (s, wire):

        async def flood() -> None:
            nonlocal sent
            await wire.send(s.head("POST", None, f"Content-Length: {ENOUGH}"))
            while sent < ENOUGH:
                await wire.send(bytes(2**16))
                sent += 2**16

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            at = -1
            while at != sent:
                at = sent
                await trio.testing.wait_all_tasks_blocked(0.02)
            assert sent < ENOUGH
            read_on.set()
        assert (await wire.response()).body == b"ok"


@pytest.mark.usefixtures("transport")
async def test_large_bodies_let_other_calls_through() -> None:
    async def flood(peer: Peer, _head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await peer.send(CHUNK)

    async def read_all(wire: Wire) -> None:
        with suppress(trio.BrokenResourceError):
            while await wire.stream.receive_some(2**20):
                pass

    async with kept(flood) as (s, wire), trio.open_nursery() as nursery:
        await wire.send(s.head())
        nursery.start_soon(read_all, wire)
        for _ in range(20):
            assert (await s.call(s.head(path=s.path("Warm")))).body == b"ok"
        nursery.cancel_scope.cancel()


# Nothing is let through


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("framing", ["Content-Length: 3000000", "Transfer-Encoding: chunked"])
async def test_a_body_above_the_limit_is_413_as_soon_as_that_is_known(framing: str) -> None:
    async def read_all(peer: Peer, _head: bytes) -> None:
        await peer.receive_to_end()

    async with kept(read_all, limits=Limits(max_routed_body_bytes=2**20)) as (s, wire):
        await wire.send(s.head("POST", None, framing))
        with suppress(trio.BrokenResourceError):
            for _ in range(20 * ("chunked" in framing)):
                await wire.send(CHUNK)
        assert (await wire.response()).status == 413
        await assert_nothing_is_left(s)


@pytest.mark.usefixtures("transport", "every_reactor")
async def test_a_body_that_comes_too_slowly_ends_its_call() -> None:
    cut = trio.Event()

    async def read_all(peer: Peer, _head: bytes) -> None:
        assert await peer.receive_to_end() == b"abc"
        cut.set()

    async with kept(read_all, serve=ServeConfig(body_timeout_s=0.02, linger_s=0.02)) as (s, wire):
        await wire.send(s.head("POST", None, "Content-Length: 1000000") + b"abc")
        assert await wire.rest() in {b"", b"<reset>"}
        await cut.wait()
        await assert_nothing_is_left(s)


@pytest.mark.usefixtures("every_reactor")
async def test_a_body_that_comes_in_crumbs_has_the_time_that_its_length_is_worth() -> None:
    async def read_all(peer: Peer, _head: bytes) -> None:
        await peer.receive_to_end()

    limits = ServeConfig(body_timeout_s=0.05, min_body_bytes_per_s=1_000_000, linger_s=0.02)
    async with kept(read_all, serve=limits) as (s, wire):
        await wire.send(s.head("POST", None, "Content-Length: 1000000"))
        with suppress(trio.BrokenResourceError):
            for _ in range(10_000):
                await wire.send(b"x")  # each is in time, and all together are not
                await trio.sleep(0.01)
        assert await wire.rest() in {b"", b"<reset>"}
        await assert_nothing_is_left(s)


@pytest.mark.usefixtures("transport", "every_reactor")
async def test_a_body_that_turns_out_malformed_is_400() -> None:
    async def read_all(peer: Peer, _head: bytes) -> None:
        assert b"no size" not in await peer.receive_to_end()

    async with kept(read_all) as (s, wire):
        await wire.send(s.head("POST", None, "Transfer-Encoding: chunked") + b"2\r\nok\r\n")
        await trio.testing.wait_all_tasks_blocked(0.002)
        await wire.send(b"no size\r\n")
        response = await wire.response()
        assert (response.status, response.header(b"connection")) == (400, b"close")
        await assert_nothing_is_left(s)


@pytest.mark.usefixtures("transport", "every_reactor")
@pytest.mark.parametrize("head", [b"content-length: 1000000", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("then", ["ends", "is malformed"])
async def test_an_answer_that_is_cut_short_is_not_taken_for_the_whole(head: bytes, then: str) -> None:
    failures: list[str] = []

    async def cut_short(peer: Peer, _head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n3e8\r\n%b\r\n" % (head, bytes(1000)))
        await trio.testing.wait_all_tasks_blocked(0.002)
        await peer.send(b"3e8\r\n%b\r\n" % bytes(1000))
        await trio.testing.wait_all_tasks_blocked(0.002)
        if then == "is malformed":
            await peer.send(b"no size\r\n")
            await trio.testing.wait_all_tasks_blocked(0.002)
        await peer.stream.aclose()

    async with kept(cut_short) as (s, wire):
        s.host.calls.ended.add(lambda call: failures.append(call.failure))
        await wire.send(s.head())
        rest = await wire.rest()
        assert rest.count(bytes(1000)) == 2
        assert not rest.endswith(b"0\r\n\r\n")
        await assert_nothing_is_left(s)
    assert failures != [""]


async def test_what_follows_an_answer_of_declared_length_is_not_passed_back() -> None:
    async def say_more(peer: Peer, _head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + bytes(200_000))
        await trio.testing.wait_all_tasks_blocked(0.002)
        await peer.send(bytes(100_000) + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged")

    async with kept(say_more) as (s, wire):
        await wire.send(s.head())
        assert (await wire.response()).body == bytes(300_000)
        await assert_nothing_is_left(s)
        assert s.host._pool.statistics().idle == 0
        await wire.send(s.head(path=s.path("Warm")))
        assert (await wire.response()).body == b"ok"


async def test_a_request_that_follows_a_long_one_is_another_call() -> None:
    length = 2 * BUFFER

    async def listen(peer: Peer, _head: bytes) -> None:
        assert await received(peer, length) == bytes(length)
        await peer.send(OK)

    async with kept(listen) as (s, wire):
        long = s.head("POST", None, f"Content-Length: {length}") + bytes(length)
        await wire.send(long + s.head(path=s.path("Warm")) + long)
        for _ in range(3):
            assert (await wire.response()).body == b"ok"


@pytest.mark.usefixtures("transport", "every_reactor")
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_the_end_of_a_request_is_sent_once_if_its_answer_comes_in_parts(framing: str) -> None:
    behind: list[bytes] = []

    async def answer_in_parts(peer: Peer, _head: bytes) -> None:
        await (received(peer, 4) if framing == "length" else received_in_chunks(peer))
        await peer.send(OK[:9])
        await trio.testing.wait_all_tasks_blocked(0.005)
        behind.append(bytes(peer.received))
        await peer.send(OK[9:])

    async with kept(answer_in_parts) as (s, wire):
        field = {"length": "Content-Length: 4", "chunks": "Transfer-Encoding: chunked"}[framing]
        body = {"length": [b"bo", b"dy"], "chunks": [b"2\r\nbo\r\n", b"2\r\ndy\r\n0\r\n\r\n"]}[framing]
        for _ in range(3):
            await wire.send(s.head("POST", None, field))
            for part in body:
                await trio.testing.wait_all_tasks_blocked(0.005)
                await wire.send(part)
            assert (await wire.response()).body == b"ok"
        await assert_nothing_is_left(s)
        statistics = s.host._pool.statistics()
        assert (statistics.opened, statistics.idle) == (1, 1)
    assert behind == [b""] * 3


@pytest.mark.usefixtures("transport", "every_reactor")
async def test_an_answer_in_the_middle_of_a_request_goes_back_and_so_does_the_request_go_on() -> None:
    length = 3 * BUFFER

    async def answer_early(peer: Peer, _head: bytes) -> None:
        await received(peer, BUFFER)
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n")
        assert await received(peer, length - BUFFER) == bytes(length - BUFFER)
        await peer.send(b"4\r\nlate\r\n0\r\n\r\n")

    async with kept(answer_early) as (s, wire):
        await wire.send(s.head("POST", None, f"Content-Length: {length}") + bytes(BUFFER))
        assert (await wire.until(b"early\r\n")).endswith(b"5\r\nearly\r\n")
        await wire.send(bytes(length - BUFFER))
        assert await wire.until(b"0\r\n\r\n") == b"4\r\nlate\r\n0\r\n\r\n"
        await assert_nothing_is_left(s)


async def test_a_provider_that_leaves_within_a_request_is_502_and_it_is_sent_once() -> None:
    calls = 0

    async def leave(peer: Peer, _head: bytes) -> None:
        nonlocal calls
        calls += 1
        await received(peer, 1000)
        await peer.stream.aclose()

    async with kept(leave) as (s, wire):
        await wire.send(s.head("PUT", None, "Content-Length: 1000000") + bytes(500))
        await trio.testing.wait_all_tasks_blocked(0.002)
        await wire.send(bytes(500))
        assert (await wire.response()).status == 502
        await assert_nothing_is_left(s)
    assert calls == 1


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("ending", ["caller closes", "caller resets", "provider is gone", "host stops"])
@pytest.mark.parametrize("way", ["request", "response"])
async def test_a_call_whose_body_is_on_its_way_leaves_nothing_behind(
    ending: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    ended = trio.Event()

    async def begin(peer: Peer, _head: bytes) -> None:
        if way == "response":
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + bytes(100_000))
        await peer.receive_to_end()
        ended.set()

    config = {"serve": ServeConfig(grace_s=0, linger_s=0.02)}
    async with kept(begin, **config) as (s, wire):
        field = "Content-Length: 1000000" if way == "request" else "Content-Length: 0"
        await wire.send(s.head("POST", None, field) + bytes(100_000 * (way == "request")))
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert s.host.registry.calls.count(s.provider) == 1
        if ending == "caller closes":
            await wire.stream.aclose()
        elif ending == "caller resets":
            reset_at_close(wire.stream)
            socket_of(wire.stream).close()
        elif ending == "provider is gone":
            s.host._lifetimes.end(s.provider, "it is gone")
        if ending != "host stops":
            await ended.wait()
            await assert_nothing_is_left(s)
            assert s.host._pool.statistics().idle == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize(
    ("where", "name"), [(RequestBody, "_pass_on"), (ResponseBody, "_send"), (RelayCall, "_end_body")]
)
async def test_an_error_of_our_own_ends_one_connection_and_its_call(
    where: type[object], name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def echo(peer: Peer, _head: bytes) -> None:
        body = await received(peer, 300_000)
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + body)

    def wrong(*_: object, **_named: object) -> None:
        raise RuntimeError("a bug")

    async with kept(echo) as (s, wire):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, wrong)
            with suppress(trio.BrokenResourceError):
                await wire.send(s.head("POST", None, "Content-Length: 300000") + bytes(300_000))
            await wire.rest()
        await assert_nothing_is_left(s)
        assert caplog.text.count("RuntimeError: a bug") == 1
        assert (await s.call(s.head(path=s.path("Warm")))).body == b"ok"
