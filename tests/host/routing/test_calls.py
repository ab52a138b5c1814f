"""The record of a routed call: what its listeners are told of how it went."""

from __future__ import annotations

import pytest
import trio.testing

from cpg_trio.call_record import Call, CallKind, Stage
from tests._wire import dial
from tests.host.routed import Recorder, Setting, routing
from tests.http.peers import OK, Handler, Peer
from tests.plugin.running import eventually, unused_port


def heard(setting: Setting) -> list[Call]:
    """Return a list to which each call of a host is added when it has ended, or is refused."""
    calls: list[Call] = []
    setting.host.calls.ended.add(calls.append)
    setting.host.calls.refused.add(calls.append)
    return calls


async def test_a_call_that_is_answered_has_all_that_is_known_of_it() -> None:
    async with routing(Recorder(OK, body_end=b"body")) as s:
        calls, begun = heard(s), list[Call]()
        s.host.calls.begun.add(begun.append)
        await s.call(s.head("POST", s.path("M?q=1"), "Content-Length: 4") + b"body")
        await eventually(lambda: calls)
    (call,) = calls
    assert begun == [call]
    assert (call.kind, call.caller, call.provider) == (CallKind.ROUTED, s.caller, s.provider)
    assert (call.service, call.method, call.protocol) == ("echo", "M", "1.1")
    assert (call.request_bytes, call.response_bytes, call.status) == (4, 2, 200)
    assert (call.failure, call.stage, call.attempts, call.undelivered) == ("", Stage.RESPONSE, 1, False)
    assert call.code == "ok"
    assert call.duration_s > 0


async def break_off_in_the_body(peer: Peer) -> None:
    await peer.receive_head()
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")


async def break_off(peer: Peer) -> None:
    await peer.receive_head()


@pytest.mark.parametrize(
    ("handler", "stage", "status"),
    [(break_off, Stage.REQUEST, 502), (break_off_in_the_body, Stage.RESPONSE, 200)],
)
async def test_a_call_that_fails_has_where_it_failed(handler: Handler, stage: Stage, status: int) -> None:
    async with routing(handler) as s:
        calls = heard(s)
        async with dial(s.url) as wire:
            await wire.send(s.head())
            await wire.head()
        await eventually(lambda: calls)
    (call,) = calls
    assert (call.stage, call.status, call.undelivered) == (stage, status, False)
    assert call.failure


async def test_a_call_to_which_no_connection_came_about_is_undelivered() -> None:
    async with routing() as s:
        calls = heard(s)
        base_url = f"http://127.0.0.1:{unused_port()}"
        s.host.registry.register(s.provider, "echo", "1.0.0", "/", {"base_url": base_url})
        await s.call(s.head())
    (call,) = calls
    assert (call.stage, call.status, call.undelivered) == (Stage.CONNECT, 502, True)


async def test_a_call_that_is_sent_again_is_one_call_with_two_attempts() -> None:
    async def answer_one_and_lose_one(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(OK)
        await peer.receive_head()

    async with routing(answer_one_and_lose_one) as s:
        calls = heard(s)
        for _ in range(2):
            assert (await s.call(s.head("GET"))).status == 200
        await eventually(lambda: len(calls) == 2)
    assert [call.attempts for call in calls] == [1, 2]


async def test_a_refused_call_has_the_status_and_why() -> None:
    async with routing() as s:
        calls = heard(s)
        await s.call(s.head(path="/services/echo"))
    (call,) = calls
    assert (call.status, call.code, call.undelivered) == (400, "invalid_argument", True)
    assert call.failure.startswith("Invalid path")


CONNECT, STREAM = b"content-type: application/json", b"content-type: application/connect+json"
IN_JSON = b'{"code":"not_found","message":"no such key"}'
END = b'{"error":{"code":"aborted"}}'
ENVELOPE = b"\2" + len(END).to_bytes(4, "big") + END
CHUNKED = b"transfer-encoding: chunked"


def whole(status: int, body: bytes, *fields: bytes) -> tuple[bytes, ...]:
    length = b"content-length: %d" % len(body)
    return (b"\r\n".join([b"HTTP/1.1 %d X" % status, length, *fields, b"", b""]) + body,)


def chunked(*chunks: bytes, fields: tuple[bytes, ...], trailers: bytes = b"") -> tuple[bytes, ...]:
    head = b"\r\n".join([b"HTTP/1.1 200 OK", CHUNKED, *fields, b"", b""])
    return (head, *(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n" + trailers + b"\r\n")


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (whole(200, b"{}", CONNECT), "ok"),
        (whole(404, IN_JSON, CONNECT), "not_found"),
        (whole(404, b"404 page not found", b"content-type: text/plain"), "unimplemented"),
        (whole(503, b"", b"content-type: text/html"), "unavailable"),
        (whole(500, b"[" * 10_000, CONNECT), "unknown"),
        (whole(200, ENVELOPE, STREAM), "aborted"),
        (chunked(b"\0\0\0\0\0", ENVELOPE, fields=(STREAM,)), "aborted"),
        (chunked(b"\0\0\0\0\0", b"\2\0\0\0\2{}", fields=(STREAM,)), "ok"),
        (
            chunked(b"abc", fields=(b"content-type: application/grpc",), trailers=b"grpc-status: 5\r\n"),
            "not_found",
        ),
        (whole(200, b"", b"content-type: application/grpc", b"grpc-status: 12"), "unimplemented"),
    ],
)
async def test_a_call_has_the_code_of_its_response(response: tuple[bytes, ...], code: str) -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        for part in response:
            await peer.send(part)
            await trio.testing.wait_all_tasks_blocked(0.01)  # so that the parts come apart

    async with routing(answer) as s:
        calls = heard(s)
        async with dial(s.url) as wire:
            await wire.send(s.head("GET", None, "TE: trailers"))
            await eventually(lambda: calls)
    (call,) = calls
    assert (call.code, call.failure) == (code, "")
