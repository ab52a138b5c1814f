"""The calls that a handler makes belong to the request and the trace of the call that it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from cpg_trio.call_context import CallContext, current, serving
from cpg_trio.http import Pool
from cpg_trio.rpc import ClientConfig, Context, application
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoService, EchoServiceClient
from tests.http.apps import served
from tests.rpc.echo import Echo, client_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONTEXT = CallContext("r-1", PARENT, "a=1", "b=2")
FIELDS = {"x-request-id": "r-1", "traceparent": PARENT, "tracestate": "a=1", "baggage": "b=2"}


def context_of(ctx: Context) -> dict[str, str]:
    names = [*FIELDS]
    return {
        name: ", ".join(ctx.request_headers.getall(name)) for name in names if name in ctx.request_headers
    }


async def numbers() -> AsyncIterator[pb.SumRequest]:
    yield pb.SumRequest(number=1)


async def test_each_kind_of_call_goes_on_with_the_context() -> None:
    echo = Echo()
    async with client_of(application([echo])) as client:
        with serving(CONTEXT):
            await client.echo(pb.EchoRequest(text="x"))
            async with client.count(pb.CountRequest(to=1)) as stream:
                assert [message.number async for message in stream] == [0]
            await client.sum(numbers())
    assert [context_of(ctx) for ctx in echo.contexts] == [FIELDS] * 3


async def test_a_call_of_nobody_has_no_context() -> None:
    echo = Echo()
    async with client_of(application([echo])) as client:
        await client.echo(pb.EchoRequest(text="x"))
    assert context_of(echo.contexts[0]) == {}


@pytest.mark.parametrize("of_the_client", [False, True])
async def test_what_a_handler_says_itself_wins(of_the_client: bool) -> None:  # noqa: FBT001
    echo = Echo()
    own = {"X-Request-ID": "own", "Traceparent": PARENT.replace("b7ad", "0000")}
    config = ClientConfig(headers=own) if of_the_client else None
    async with client_of(application([echo]), config) as client:
        with serving(CONTEXT):
            await client.echo(pb.EchoRequest(text="x"), headers={} if of_the_client else own)
    assert context_of(echo.contexts[0]) == {
        "x-request-id": "own",
        "traceparent": own["Traceparent"],
        "baggage": "b=2",
    }


class Passing(EchoService):
    """Calls the next service from within each of its methods."""

    def __init__(self, following: EchoServiceClient) -> None:
        self.following = following

    async def echo(self, request: pb.EchoRequest, _ctx: Context, /) -> pb.EchoResponse:
        return await self.following.echo(request)

    async def count(self, request: pb.CountRequest, _ctx: Context, /) -> AsyncIterator[pb.CountResponse]:
        async with self.following.count(request) as stream:
            async for message in stream:
                yield message

    async def sum(self, requests: AsyncIterator[pb.SumRequest], _ctx: Context, /) -> pb.SumResponse:
        return await self.following.sum(requests)

    async def http_chat(
        self, requests: AsyncIterator[pb.HTTPChatRequest], _ctx: Context, /
    ) -> AsyncIterator[pb.HTTPChatResponse]:
        async for request in requests:
            yield pb.HTTPChatResponse(text=f"{request.text} {current().request_id}")


@asynccontextmanager
async def chain(echo: Echo) -> AsyncIterator[EchoServiceClient]:
    """Yield a client of a service that calls `echo`, over sockets."""
    async with Pool() as pool, served(application([echo])) as last:
        passing = Passing(EchoServiceClient(last, pool))
        async with served(application([passing])) as first:
            yield EchoServiceClient(first, pool)


async def test_what_comes_with_a_call_goes_on_from_service_to_service() -> None:
    echo = Echo()
    async with chain(echo) as client:
        await client.echo(pb.EchoRequest(text="x"), headers=FIELDS)
        async with client.count(pb.CountRequest(to=1), headers=FIELDS) as stream:
            assert [message.number async for message in stream] == [0]
        await client.sum(numbers(), headers=FIELDS)
    assert [context_of(ctx) for ctx in echo.contexts] == [FIELDS] * 3


async def test_calls_at_the_same_time_keep_their_contexts_apart() -> None:
    echo = Echo()
    async with chain(echo) as client, trio.open_nursery() as nursery:
        for n in range(20):
            headers = {"x-request-id": f"r-{n}"}
            nursery.start_soon(partial(client.echo, pb.EchoRequest(text="x"), headers=headers))
    seen = {ctx.request_headers["x-request-id"] for ctx in echo.contexts}
    assert seen == {f"r-{n}" for n in range(20)}
