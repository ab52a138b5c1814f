"""The caller's deadline bounds the handler, so that the calls which it makes have what is left of it."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator

import httpx
import pytest
import trio

from cpg_trio.rpc import Context, application
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoService
from tests.http.apps import served


class Left(EchoService):
    """Keeps the time that each of its methods has."""

    def __init__(self) -> None:
        self.left_s: list[float] = []

    def _note(self) -> None:
        self.left_s.append(trio.current_effective_deadline() - trio.current_time())

    async def echo(self, _request: pb.EchoRequest, _ctx: Context, /) -> pb.EchoResponse:
        self._note()
        return pb.EchoResponse()

    async def count(self, _request: pb.CountRequest, _ctx: Context, /) -> AsyncIterator[pb.CountResponse]:
        self._note()
        yield pb.CountResponse()

    async def sum(self, requests: AsyncIterator[pb.SumRequest], _ctx: Context, /) -> pb.SumResponse:
        self._note()
        return pb.SumResponse(sum=len([each async for each in requests]))

    async def http_chat(
        self, requests: AsyncIterator[pb.HTTPChatRequest], _ctx: Context, /
    ) -> AsyncIterator[pb.HTTPChatResponse]:
        self._note()
        async for _ in requests:
            yield pb.HTTPChatResponse()


METHODS = pytest.mark.parametrize("method", ["Echo", "Count", "Sum", "HTTPChat"])
EMPTY = struct.pack(">BI", 0, 0)


async def called(method: str, headers: dict[str, str], body: bytes) -> Left:
    """Return the service after a call of a method over HTTP/2, whose requests come whole."""
    service = Left()
    async with served(application([service])) as url, httpx.AsyncClient(http1=False, http2=True) as http:
        answer = await http.post(f"{url}/echo.v1.EchoService/{method}", content=body, headers=headers)
    assert answer.status_code == 200
    return service


@METHODS
async def test_the_deadline_of_a_connect_call_bounds_its_handler(method: str) -> None:
    is_unary = method == "Echo"
    content_type = "application/proto" if is_unary else "application/connect+proto"
    headers = {"content-type": content_type, "connect-timeout-ms": "9000"}
    service = await called(method, headers, b"" if is_unary else EMPTY)
    assert 5 < service.left_s[0] <= 9


@METHODS
async def test_the_deadline_of_a_grpc_call_bounds_its_handler(method: str) -> None:
    headers = {"content-type": "application/grpc+proto", "te": "trailers", "grpc-timeout": "9S"}
    service = await called(method, headers, EMPTY)
    assert 5 < service.left_s[0] <= 9
