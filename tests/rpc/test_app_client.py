"""Calls of an application in memory: what is no request, or no answer, is refused as on a socket."""

from __future__ import annotations

import pytest

from cpg_trio.asgi import App, Receive, Scope, Send, send_response
from cpg_trio.http import Pool
from cpg_trio.rpc import CallError, Code, Fault, HttpRequest, PoolClient, fault_of
from cpg_trio.rpc.app_client import AppClient
from cpg_trio.rpc.app_server import serving_app

FIELDS = [
    ("x-note", "a\r\nx-evil: 1"),
    ("x-note", "a\nx-evil: 1"),
    ("x-note", "a\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("x-note", "a\0b"),
    ("x-note", "é"),
    ("x-note\r\nx-evil", "1"),
    ("x note", "1"),
    ("x:y", "1"),
    ("", "1"),
    ("content-length", "1"),
    ("transfer-encoding", "chunked"),
]


async def never_called(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError


@pytest.mark.parametrize("field", FIELDS, ids=repr)
async def test_a_request_that_a_pool_does_not_send_is_not_made_in_memory(
    field: tuple[str, str],
) -> None:
    request = HttpRequest("POST", "http://127.0.0.1:1/a.B/C", [field], b"12")
    said = []
    async with Pool() as pool:
        for client in (PoolClient(pool), AppClient(never_called)):
            with pytest.raises(CallError) as caught:
                await client.unary(request, None)
            assert caught.value.code == Code.INVALID_ARGUMENT
            assert fault_of(caught.value) is Fault.CALLER
            said.append(caught.value.message)
    assert said[0] == said[1]


@pytest.mark.parametrize("target", ["/a b", "/a\r\nx-evil: 1", "/a\r\n\r\nGET /", "/ä"])
async def test_a_target_that_would_break_a_request_is_refused_in_memory(target: str) -> None:
    with pytest.raises(CallError) as caught:
        await AppClient(never_called).unary(HttpRequest("POST", target, [], b""), None)
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("kind", ["head", "trailers"])
@pytest.mark.parametrize(
    "field", [(b"x-a", b"b\r\nx-evil: 1"), (b"x-a", b"b\0"), (b"x-a\r\nx-evil", b"b")], ids=repr
)
async def test_an_answer_whose_fields_are_none_is_a_failure_of_the_application(
    field: tuple[bytes, bytes], kind: str
) -> None:
    async with serving_app(answering(field, kind), "echo") as server:
        client = AppClient(server)
        if kind == "head":
            answer = await client.unary(HttpRequest("POST", "/a.B/C", [], b""), None)
            assert (answer.status, answer.header("x-evil")) == (500, "")
        else:
            with pytest.raises(CallError) as caught:
                await client.unary(HttpRequest("POST", "/a.B/C", [], b""), None)
            assert caught.value.code == Code.UNAVAILABLE


def answering(field: tuple[bytes, bytes], kind: str) -> App:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        if kind == "head":
            await send_response(send, 200, b"", [field])
            return
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"all", "more_body": False})
        await send({"type": "http.response.trailers", "headers": [field], "more_trailers": False})

    return app
