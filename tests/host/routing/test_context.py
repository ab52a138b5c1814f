"""The context of a routed call: what of it reaches the provider, and what its caller is told."""

from __future__ import annotations

import re

import pytest

from cpg_trio.call_record import Call
from cpg_trio.http import messages
from cpg_trio.http.heads import RequestHead
from tests._wire import dial, dial_http2
from tests.host.routed import Recorder, Setting, routing
from tests.host.routing.test_http2 import ask
from tests.http.peers import Peer
from tests.plugin.running import eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
NEW_ID = re.compile(rb"[0-9a-f]{32}")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def context_of(recorder: Recorder) -> dict[bytes, bytes]:
    names = {b"traceparent", b"tracestate", b"baggage", b"x-request-id"}
    fields = [field for field in recorder.headers if field[0] in names]
    assert len(dict(fields)) == len(fields)
    return dict(fields)


def watched(s: Setting) -> list[Call]:
    calls = list[Call]()
    s.host.calls.ended.add(calls.append)
    s.host.calls.refused.add(calls.append)
    return calls


async def test_a_valid_context_reaches_the_provider_as_it_came() -> None:
    recorder = Recorder()
    lines = [f"TraceParent: {PARENT}", "tracestate: a=1", "baggage: b=2", "X-Request-ID: r-1"]
    async with routing(recorder) as s:
        calls = watched(s)
        response = await s.call(s.head("GET", None, *lines))
        await eventually(lambda: calls)
    assert context_of(recorder) == {
        b"traceparent": PARENT.encode(),
        b"tracestate": b"a=1",
        b"baggage": b"b=2",
        b"x-request-id": b"r-1",
    }
    assert response.header(b"x-request-id") == b"r-1"
    (call,) = calls
    assert (call.request_id, call.trace_id, call.is_sampled) == ("r-1", TRACE, True)


async def test_an_invalid_context_does_not() -> None:
    recorder = Recorder()
    lines = ["traceparent: 00-1-2-3", "tracestate: a=1", "baggage: b", f"X-Request-ID: {'x' * 129}"]
    async with routing(recorder) as s:
        response = await s.call(s.head("GET", None, *lines))
    assert list(context_of(recorder)) == [b"x-request-id"]
    assert NEW_ID.fullmatch(context_of(recorder)[b"x-request-id"])
    assert response.header(b"x-request-id") == context_of(recorder)[b"x-request-id"]


async def test_the_host_makes_a_request_id_where_there_is_none_another_for_each_call() -> None:
    recorder = Recorder()
    async with routing(recorder) as s, dial(s.url) as wire:
        calls, told = watched(s), []
        for _ in range(3):
            await wire.send(s.head("GET"))
            told.append((await wire.response()).header(b"x-request-id"))
        await eventually(lambda: len(calls) == 3)
    assert all(NEW_ID.fullmatch(each or b"") for each in told)
    assert len(set(told)) == 3
    assert [call.request_id.encode() for call in calls] == told
    assert [call.trace_id for call in calls] == [""] * 3
    sent = [
        dict(line.split(b": ", 1) for line in seen.split(b"\r\n") if b": " in line) for seen in recorder.seen
    ]
    assert [fields[b"x-request-id"] for fields in sent] == told


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-request-id: its-own\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-Request-ID: its-own\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-Request-ID: its-own\r\ncontent-length: 2\r\nx-request-id: 2\r\n\r\nok",
    ],
)
async def test_the_caller_is_told_the_id_that_the_log_has_and_no_other(answer: bytes) -> None:
    async with routing(Recorder(answer)) as s:
        response = await s.call(s.head("GET", None, "x-request-id: r-1"))
    assert [value for name, value in response.headers if name == b"x-request-id"] == [b"r-1"]


async def test_a_refused_call_has_an_id_as_well() -> None:
    async with routing() as s:
        calls = watched(s)
        unproved = await s.call(f"GET {s.path()} HTTP/1.1\r\nHost: h\r\nx-request-id: r-1\r\n\r\n".encode())
        nowhere = await s.call(s.head("GET", "/services/echo/nobody-0/M"))
    assert (unproved.status, unproved.header(b"x-request-id")) == (401, b"r-1")
    assert nowhere.status == 404
    assert [call.request_id.encode() for call in calls] == [b"r-1", nowhere.header(b"x-request-id")]


async def test_a_call_whose_provider_is_away_has_an_id_as_well() -> None:
    async def gone(peer: Peer) -> None:
        """End each connection behind its request."""
        await peer.receive_head()

    async with routing(gone) as s:
        response = await s.call(s.head("GET", None, "x-request-id: r-1"))
    assert (response.status, response.header(b"x-request-id")) == (502, b"r-1")


async def test_a_context_travels_over_http_2_as_well() -> None:
    recorder = Recorder(OK, body_end=b"body")
    async with routing(recorder) as s, dial_http2(s.url) as wire:
        told = []
        for n in range(3):
            stream = await ask(s, wire, ("traceparent", PARENT), ("x-request-id", f"r-{n}"))
            response = await wire.response(stream)
            told.append(response.header(b"x-request-id"))
    assert context_of(recorder) == {b"traceparent": PARENT.encode(), b"x-request-id": b"r-0"}
    assert told == [b"r-0", b"r-1", b"r-2"]


async def test_calls_that_differ_in_their_context_only_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[bytes]()

    def counted(head: bytes) -> RequestHead:
        read.append(head)
        return RequestHead(head)

    monkeypatch.setattr(messages, "RequestHead", counted)
    recorder = Recorder()
    async with routing(recorder) as s, dial(s.url) as wire:
        for n in range(3):
            lines = f"x-request-id: r-{n}", f"traceparent: 00-{TRACE}-{n + 1:016x}-01"
            await wire.send(s.head("GET", None, *lines))
            assert (await wire.response()).header(b"x-request-id") == b"r-%d" % n
    assert len(read) == 1
    assert len(set(recorder.seen)) == 3
