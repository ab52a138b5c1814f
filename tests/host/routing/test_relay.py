"""The router passes on what it gets, both ways at once, and ends a call when either side has gone."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import trio
import trio.testing

from cpg_trio.host import (
    HostConfig,
    LeaseConfig,
)
from tests._wire import dial
from tests.host.routed import Recorder, converse, routing, silent_address, text, transport
from tests.http.peers import OK, Peer

__all__ = ["transport"]  # a fixture

pytestmark = pytest.mark.usefixtures("transport")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY"])
async def test_any_method_passes(method: str) -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        assert (await s.call(s.head(method))).body == b"ok"
    assert recorder.line == f"{method} /echo.v1.Echo/M HTTP/1.1".encode()


async def test_head_is_answered_without_a_body() -> None:
    async with routing(Recorder(b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n")) as s:
        response = await s.call(s.head("HEAD"))
    assert (response.status, response.header(b"content-length")) == (200, b"17")


async def test_a_body_without_a_length_passes_in_chunks() -> None:
    recorder = Recorder(body_end=b"0\r\n\r\n")
    async with routing(recorder) as s:
        await s.call(s.head("POST", None, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n")
    assert recorder.seen[0].endswith(b"5\r\nhello\r\n0\r\n\r\n")
    assert (b"transfer-encoding", b"chunked") in recorder.headers


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
@pytest.mark.parametrize(("method", "said"), [("POST", b"0"), ("GET", None)])
async def test_no_body_is_no_body_in_either_version(method: str, said: bytes | None, version: bytes) -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        assert (await s.call(s.head(method).replace(b"HTTP/1.1", version))).status == 200
    headers = dict(recorder.headers)
    assert (headers.get(b"content-length"), b"transfer-encoding" in headers) == (said, False)


async def test_an_expectation_is_met_by_the_host_and_not_passed_on() -> None:
    recorder = Recorder(body_end=b"body")
    async with routing(recorder) as s, dial(s.url) as wire:
        await wire.send(s.head("POST", None, "Expect: 100-continue", "Content-Length: 4"))
        assert (await wire.head()).status == 100
        await wire.send(b"body")
        assert (await wire.response()).status == 200
    assert b"expect" not in dict(recorder.headers)


async def test_an_answer_without_content_has_no_length() -> None:
    async with routing(Recorder(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n")) as s:
        response = await s.call(s.head())
    assert (response.status, response.header(b"content-length")) == (204, None)


async def test_an_answer_is_dated_once() -> None:
    date = b"Mon, 23 Nov 2026 04:37:58 GMT"
    async with routing(Recorder()) as s:
        undated = await s.call(s.head())
    async with routing(Recorder(OK.replace(b"\r\n", b"\r\nDATE: %b\r\n" % date, 1))) as s:
        dated = await s.call(s.head())
    assert [len(value) for name, value in undated.headers if name == b"date"] == [len(date)]
    assert [value for name, value in dated.headers if name == b"date"] == [date]


NO_BODY = b"HTTP/1.1 204 No Content\r\n\r\n"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nok"


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (OK, 200, b"ok"),
        (CHUNKED, 200, b"ok"),
        (UNTIL_CLOSE, 200, b"ok"),
        (UNTIL_CLOSE.replace(b"1.1", b"1.0"), 200, b"ok"),
        (OK.replace(b"1.1", b"1.0"), 200, b"ok"),
        (OK.replace(b" OK", b""), 200, b"ok"),
        (OK.replace(b"200", b"999"), 999, b"ok"),
        (OK + b"more than was said", 200, b"ok"),
        (NO_BODY, 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", 304, b""),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", 502, b"failed to proxy request\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 502, b"failed to proxy request\n"),
        (OK.replace(b"OK", b"OK\r\nx: " + b"y" * 2**16), 502, b"failed to proxy request\n"),
    ],
    ids=[
        *("length", "chunked", "until close", "1.0 until close", "1.0 with a length", "no reason", "999"),
        *("more than was said", "204", "304", "interim", "101", "interim alone", "head too large"),
    ],
)
async def test_whatever_version_and_framing_the_answer_is_the_same(
    method: str, version: str, answer: bytes, status: int, body: bytes
) -> None:
    async def provide(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else answer)

    async with routing(provide) as s, dial(s.url) as wire:
        await wire.send(s.head(method).replace(b"HTTP/1.1", b"HTTP/%b" % version.encode()))
        response = await wire.response(head_only=method == "HEAD")
        if method == "HEAD" and b" 103 " in answer:
            status = 502  # in the table's answer, the final one is behind the first empty line
        assert (response.status, response.body) == (status, b"" if method == "HEAD" else body)
        assert (response.header(b"connection") == b"close") == (version == "1.0")
        if version == "1.0":
            assert response.header(b"transfer-encoding") is None
            assert await wire.rest() == b""
        else:  # the next answer begins where this one ended
            await wire.send(s.head("GET", "/services/echo"))
            assert (await wire.response()).status == 400


@pytest.mark.parametrize("answer", [CHUNKED[:-5], UNTIL_CLOSE.replace(b"OK", b"OK\r\ncontent-length: 3")])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_half_an_answer_is_not_taken_for_the_whole(answer: bytes, version: bytes) -> None:
    async def provide(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(answer)

    async with routing(provide) as s, dial(s.url) as wire:
        await wire.send(s.head().replace(b"HTTP/1.1", b"HTTP/%b" % version))
        head = await wire.head()
        rest = await wire.rest()
    if version == b"1.1" or head.header(b"content-length"):
        assert rest in {b"2\r\nok\r\n", b"ok"}  # short of what was said, and nothing is lost
    else:
        assert rest.endswith(b"<reset>")


async def test_a_body_that_is_none_is_400_and_ends_the_connection() -> None:
    async with routing(hang) as s, dial(s.url) as wire:
        await wire.send(s.head("POST", None, "Transfer-Encoding: chunked") + b"2\r\nok\r\n")
        while not s.host.registry.calls.count(s.provider):
            await trio.testing.wait_all_tasks_blocked(0.001)
        await wire.send(b"no size\r\n")
        response = await wire.response()
        assert (response.status, response.header(b"connection")) == (400, b"close")
        assert await wire.rest() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert s.host.registry.calls.count(s.provider) == 0


async def test_a_redirect_is_the_callers_to_follow() -> None:
    recorder = Recorder(b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")
    async with routing(recorder) as s:
        response = await s.call(s.head("GET"))
    assert (response.status, response.header(b"location")) == (302, b"/elsewhere")
    assert len(recorder.seen) == 1


async def test_a_providers_error_is_passed_on() -> None:
    error = b'{"code":"internal","message":"x"}'
    answer = b"HTTP/1.1 500 x\r\ncontent-type: application/json\r\ncontent-length: 33\r\n\r\n" + error
    async with routing(Recorder(answer)) as s:
        response = await s.call(s.head())
    assert (response.status, response.body) == (500, error)


TRAILING = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n"


async def test_trailers_reach_a_caller_who_asked_for_them() -> None:
    recorder = Recorder(TRAILING)
    async with routing(recorder) as s:
        asked = await s.call(s.head("POST", None, "TE: trailers"))
        silent = await s.call(s.head())
    assert (b"te", b"trailers") in recorder.headers
    assert (asked.body, asked.trailers) == (b"hi", [(b"grpc-status", b"0")])
    assert (silent.body, silent.trailers) == (b"hi", [])


async def test_an_answer_is_passed_on_as_it_comes() -> None:
    go_on = trio.Semaphore(0)

    async def drip(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for index in range(40):
            await peer.send(b"4\r\nm%03d\r\n" % index)
            await go_on.acquire()  # the next message comes only after the caller has had this one
        await peer.send(b"0\r\n\r\n")

    async with routing(drip) as s, dial(s.url) as wire:
        await wire.send(s.head())
        assert (await wire.head()).status == 200
        for index in range(40):
            assert await wire.until(b"\r\n") == b"4\r\n"
            assert await wire.until(b"\r\n") == b"m%03d\r\n" % index
            go_on.release()
        assert await wire.until(b"0\r\n\r\n") == b"0\r\n\r\n"


async def test_a_request_is_passed_on_as_it_comes() -> None:
    arrived = trio.Semaphore(0)

    async def listen(peer: Peer) -> None:
        await peer.receive_head()
        for index in range(40):
            assert await peer.receive_until(b"\r\nm%03d\r\n" % index)
            arrived.release()
        await peer.receive_until(b"0\r\n\r\n")
        await peer.send(OK)

    async with routing(listen) as s, dial(s.url) as wire:
        await wire.send(s.head("POST", None, "Transfer-Encoding: chunked"))
        for index in range(40):
            await wire.send(b"4\r\nm%03d\r\n" % index)
            await arrived.acquire()  # the provider has it before the next is sent
        await wire.send(b"0\r\n\r\n")
        assert (await wire.response()).status == 200


async def test_both_ways_stream_at_once() -> None:
    async with routing(converse) as s, dial(s.url) as wire:
        await wire.send(s.head("POST", None, "Transfer-Encoding: chunked"))
        assert (await wire.head()).status == 200
        for _ in range(5):
            await wire.send(b"4\r\nping\r\n")
            assert await wire.until(b"pong\r\n") == b"4\r\npong\r\n"
        await wire.send(b"0\r\n\r\n")
        assert await wire.until(b"0\r\n\r\n") == b"0\r\n\r\n"


async def test_an_answer_before_the_end_of_the_request_reaches_the_caller() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")

    async with routing(refuse) as s, dial(s.url) as wire:
        await wire.send(s.head("POST", None, "Content-Length: 1000000") + b"x" * 1000)
        response = await wire.response()
    assert (response.status, response.body) == (413, b"big")


async def test_a_provider_that_breaks_off_breaks_the_answer_off() -> None:
    async def stumble(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")

    async with routing(stumble) as s, dial(s.url) as wire:
        await wire.send(s.head())
        assert (await wire.head()).status == 200
        rest = await wire.rest()
    assert rest == b"5\r\nhello\r\n"  # what came before is not lost


@pytest.mark.parametrize(
    "request_",
    [
        ("POST",),
        ("GET",),
        ("POST", None, "Content-Length: 0"),
        ("POST", None, "Content-Length: 4"),
        ("POST", None, "Transfer-Encoding: chunked"),
    ],
)
async def test_a_caller_that_leaves_ends_the_call_at_the_provider(request_: tuple[Any, ...]) -> None:
    started, left = trio.Event(), trio.Event()

    async def hang(peer: Peer) -> None:
        await peer.receive_head()
        started.set()
        await peer.receive_to_end()
        left.set()

    async with routing(hang) as s:
        async with dial(s.url) as wire:
            await wire.send(s.head(*request_))
            await started.wait()
            assert s.host.registry.calls.count(s.provider) == 1
        await left.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert s.host.registry.calls.count(s.provider) == 0


async def test_a_caller_that_leaves_in_mid_request_ends_the_call_at_the_provider() -> None:
    left = trio.Event()

    async def hang(peer: Peer) -> None:
        await peer.receive_until(b"first")
        await peer.receive_to_end()
        left.set()

    async with routing(hang) as s:
        async with dial(s.url) as wire:
            await wire.send(s.head("POST", None, "Content-Length: 100") + b"first")
            await trio.testing.wait_all_tasks_blocked(0.05)
        await left.wait()


SHORT = HostConfig(leases=LeaseConfig(heartbeat_s=0.05, lease_s=0.2, probe_timeout_s=0.05))


async def hang(peer: Peer) -> None:
    await peer.receive_to_end()


async def test_a_call_to_a_provider_that_is_gone_fails_at_once_instead_of_hanging(
    virtual_time: object,
) -> None:
    async with routing(hang, config=SHORT) as s:
        assert text(await s.call(s.head())) == (503, "service unavailable (provider unhealthy)\n")
        assert s.host.registry.service_types() == []


async def test_a_call_to_a_provider_that_is_gone_fails_while_it_is_being_connected_to(
    virtual_time: object,
) -> None:
    async with routing(config=SHORT) as s, silent_address() as base_url:
        s.host.registry.register(s.provider, "echo", "1.0.0", "/", {"base_url": base_url})
        s.host._pool._connect_timeout_s = 60
        assert text(await s.call(s.head())) == (503, "service unavailable (provider unhealthy)\n")


async def test_an_answer_of_a_provider_that_is_gone_is_broken_off(virtual_time: object) -> None:
    async def begin(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await peer.receive_to_end()

    async with routing(begin, config=SHORT) as s, dial(s.url) as wire:
        await wire.send(s.head())
        assert (await wire.head()).status == 200
        assert b"0\r\n\r\n" not in await wire.rest()


async def test_a_last_request_that_came_while_another_was_in_hand_is_answered() -> None:
    release = [trio.Event(), trio.Event()]

    async def in_turn(peer: Peer) -> None:
        for event in release:
            await peer.receive_head()
            await event.wait()
            await peer.send(OK)

    async with routing(in_turn) as s, dial(s.url) as wire:
        await wire.send(s.head("GET"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        await wire.send(s.head("GET", None, "Connection: close"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        release[0].set()
        assert (await wire.response()).status == 200
        await trio.testing.wait_all_tasks_blocked(0.05)
        release[1].set()
        response = await wire.response()
        assert (response.status, response.header(b"connection")) == (200, b"close")
        assert await wire.rest() == b""


async def test_a_call_leaves_nothing_to_the_garbage_collector() -> None:
    async with routing(Recorder()) as s, dial(s.url) as wire:
        await wire.send(s.head())
        await wire.response()
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                await wire.send(s.head())
                await wire.response()
            assert gc.collect() < 10
        finally:
            gc.enable()
