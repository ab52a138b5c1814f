"""A routed call on HTTP/2: what a caller on HTTP/1.1 may rely on holds for it, too."""

from __future__ import annotations

import h2.events
import pytest
import trio
import trio.testing
from h2.settings import SettingCodes

from cpg_trio.call_record import Call
from tests._wire import Http2Wire, dial_http2
from tests.host.routed import Recorder, Setting, converse, routing
from tests.http.peers import OK, Handler, Peer
from tests.plugin.running import eventually

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRAILING = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n"
BEGUN = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"


async def ask(
    s: Setting, wire: Http2Wire, *more: tuple[str, str], path: str = "", body: bytes | None = b"body"
) -> int:
    """Begin a routed call, and end its request unless the body is empty; return its stream."""
    credentials = [(name.lower(), value) for name, value in s.credentials.items()]
    return await wire.request(path or s.path("M?q=1"), *credentials, *more, body=body, method="POST")


async def test_a_call_passes_with_its_path_its_body_and_the_fields_that_pass() -> None:
    recorder = Recorder(OK, body_end=b"body")
    async with routing(recorder) as s, dial_http2(s.url) as wire:
        calls = list[Call]()
        s.host.calls.ended.add(calls.append)
        stream = await ask(s, wire, ("content-length", "4"), ("traceparent", PARENT), ("cookie", "a=b"))
        response = await wire.response(stream)
        await eventually(lambda: calls)
    assert (response.status, response.body) == (200, b"ok")
    assert recorder.line == b"POST /echo.v1.Echo/M?q=1 HTTP/1.1"
    names = [name for name, _ in recorder.headers]
    assert (b"content-length", b"4") in recorder.headers
    assert (b"traceparent", PARENT.encode()) in recorder.headers
    assert not {b"cookie", b"authorization", b"x-plugin-runtime-id", b"transfer-encoding"} & set(names)
    assert (b"x-plugin-caller-id", s.caller.encode()) in recorder.headers
    (call,) = calls
    assert (call.protocol, call.status, call.request_bytes, call.response_bytes) == ("2", 200, 4, 2)


async def test_a_body_without_a_length_passes_in_chunks_and_trailers_come_back() -> None:
    recorder = Recorder(TRAILING, body_end=b"0\r\n\r\n")
    async with routing(recorder) as s, dial_http2(s.url) as wire:
        response = await wire.response(await ask(s, wire, ("te", "trailers")))
    assert (b"transfer-encoding", b"chunked") in recorder.headers
    assert (b"te", b"trailers") in recorder.headers
    assert (response.body, response.trailers) == (b"hi", [(b"grpc-status", b"0")])


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/services/echo", 400, b"invalid service path format"),
        ("/services/echo/nobody-0/M", 404, b"provider not found: nobody-0\n"),
    ],
)
async def test_a_refusal_has_its_status_its_text_and_the_mark(path: str, status: int, text: bytes) -> None:
    async with routing() as s, dial_http2(s.url) as wire:
        stream = await ask(s, wire, path=path, body=None)
        head = dict((await wire.until(h2.events.ResponseReceived, stream)).headers)
        data = await wire.until(h2.events.DataReceived, stream)
    assert (head[b":status"], head[b"x-plugin-undelivered"]) == (b"%d" % status, b"true")
    assert data.data.startswith(text)


async def test_both_ways_stream_at_once() -> None:
    async with routing(converse) as s, dial_http2(s.url) as wire:
        stream = await ask(s, wire, body=b"")
        assert await wire.status(stream) == 200
        for _ in range(5):
            await wire.upload(stream, b"ping")
            assert (await wire.until(h2.events.DataReceived, stream)).data == b"pong"
        wire.h2.end_stream(stream)
        await wire.flush()
        await wire.until(h2.events.StreamEnded, stream)


async def break_off(peer: Peer) -> None:
    await peer.receive_until(b"body")
    await peer.send(BEGUN)


async def say_nothing(peer: Peer) -> None:
    await peer.receive_until(b"body")


@pytest.mark.parametrize(("provide", "status"), [(break_off, 200), (say_nothing, 502)])
async def test_a_provider_that_breaks_off_is_no_whole_answer(provide: Handler, status: int) -> None:
    async with routing(provide) as s, dial_http2(s.url) as wire:
        stream = await ask(s, wire, ("content-length", "4"))
        assert await wire.status(stream) == status
        if status == 200:
            await wire.until(h2.events.StreamReset, stream)
        again = await ask(s, wire, path="/services/echo", body=None)  # the connection lives on
        assert (await wire.response(again)).status == 400


async def test_a_caller_that_gives_up_ends_the_call_at_the_provider_and_no_other() -> None:
    begun, left = trio.Event(), trio.Event()

    async def hang(peer: Peer) -> None:
        head = await peer.receive_head()
        if b"/Other" in head:
            await peer.send(OK)
            return
        begun.set()
        await peer.receive_to_end()
        left.set()

    async with routing(hang) as s, dial_http2(s.url) as wire:
        stream = await ask(s, wire, body=None)
        await begun.wait()
        wire.h2.reset_stream(stream)
        await wire.flush()
        await left.wait()
        other = await ask(s, wire, path=s.path("Other"), body=None)
        assert (await wire.response(other)).body == b"ok"
        await eventually(lambda: not s.host.registry.calls.of_provider(s.provider))


async def test_the_head_of_a_response_waits_for_no_window() -> None:
    async with routing(Recorder(OK)) as s, dial_http2(s.url) as wire:
        wire.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        stream = await ask(s, wire, body=None)
        assert await wire.status(stream) == 200
        wire.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2})
        await wire.flush()
        assert (await wire.until(h2.events.DataReceived, stream)).data == b"ok"
        await wire.until(h2.events.StreamEnded, stream)


async def test_calls_of_one_connection_do_not_wait_for_each_other() -> None:
    release = trio.Event()

    async def slow_or_fast(peer: Peer) -> None:
        if b"/Slow" in await peer.receive_head():
            await release.wait()
        await peer.send(OK)

    async with routing(slow_or_fast) as s, dial_http2(s.url) as wire:
        slow = await ask(s, wire, path=s.path("Slow"), body=None)
        fast = await ask(s, wire, path=s.path("Fast"), body=None)
        assert (await wire.response(fast)).status == 200
        release.set()
        assert (await wire.response(slow)).status == 200


async def test_a_call_whose_provider_is_gone_ends_at_once() -> None:
    async def hang(peer: Peer) -> None:
        await peer.receive_to_end()

    async with routing(hang) as s, dial_http2(s.url) as wire:
        stream = await ask(s, wire, body=None)
        await eventually(lambda: s.host.registry.calls.of_provider(s.provider))
        await s.host.revoke_identity(s.provider)
        assert await wire.status(stream) == 503
