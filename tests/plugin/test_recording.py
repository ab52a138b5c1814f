"""The records of the calls that a plugin makes through its host."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from cpg_trio.call_record import Call, CallKind, Calls
from cpg_trio.plugin._recording import RecordedCalls
from cpg_trio.rpc import Code, ConnectError, HttpRequest, HttpResponse, WholeResponse

REQUEST = HttpRequest("POST", "http://host/services/echo/echo-1/Echo", [], b"12345")
JSON = [("content-type", "application/json")]


class Answering:
    """An `HttpClient` that answers with something, or raises it."""

    def __init__(self, answer: WholeResponse | ConnectError | list[bytes]) -> None:
        self._answer = answer

    async def unary(self, _request: HttpRequest, _max_bytes: int | None) -> WholeResponse:
        if isinstance(self._answer, WholeResponse):
            return self._answer
        assert isinstance(self._answer, ConnectError)
        raise self._answer

    @asynccontextmanager
    async def stream(self, _request: HttpRequest) -> AsyncIterator[HttpResponse]:
        async with aclosing(self._body()) as body:
            yield HttpResponse(200, [("content-type", "application/connect+json")], body)

    async def _body(self) -> AsyncGenerator[bytes, None]:
        assert isinstance(self._answer, list)
        for chunk in self._answer:
            yield chunk


def recorded(answer: Any) -> tuple[RecordedCalls, list[Call]]:
    calls, ended = Calls(), list[Call]()
    calls.ended.add(ended.append)
    provider: Any = type(
        "Provider", (), {"runtime_id": "echo-1", "session": type("S", (), {"runtime_id": "a-1"})}
    )
    return RecordedCalls(calls, Answering(answer), provider, "echo", "/echo.v1.Echo/Echo"), ended


async def test_a_whole_response_is_recorded_with_its_code() -> None:
    client, ended = recorded(WholeResponse(404, JSON, b'{"code":"not_found"}'))
    await client.unary(REQUEST, None)
    (call,) = ended
    assert (call.kind, call.caller, call.provider) == (CallKind.ROUTED, "a-1", "echo-1")
    assert (call.service, call.method, call.code) == ("echo", "Echo", "not_found")
    assert (call.request_bytes, call.response_bytes, call.failure) == (5, 20, "")


async def test_an_error_of_the_network_is_recorded_and_raised() -> None:
    client, ended = recorded(ConnectError(Code.UNAVAILABLE, "nothing listens there"))
    with pytest.raises(ConnectError):
        await client.unary(REQUEST, None)
    (call,) = ended
    assert (call.code, call.failure, call.status) == ("unavailable", "nothing listens there", 0)


async def test_a_stream_ends_with_the_code_of_its_last_envelope() -> None:
    end = b'{"error":{"code":"aborted"}}'
    client, ended = recorded([b"\0\0\0\0\1x", b"\2" + len(end).to_bytes(4, "big") + end])
    async with client.stream(REQUEST) as response:
        chunks = [chunk async for chunk in response.body]
    (call,) = ended
    assert (call.code, call.failure, call.response_bytes) == ("aborted", "", sum(map(len, chunks)))


async def test_a_stream_that_is_left_was_canceled() -> None:
    client, ended = recorded([b"\0\0\0\0\1x", b"more"])
    async with client.stream(REQUEST) as response:
        async for _ in response.body:
            break
    (call,) = ended
    assert (call.code, call.status) == ("canceled", 200)
