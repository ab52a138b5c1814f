"""What a method is given beside its request: who calls, whichever way the call is answered."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from connectrpc.request import RequestContext

from cpg_trio.asgi import App, Receive, Scope, Send
from cpg_trio.rpc import Caller, Context, Interceptor, ResponseMetadata, application
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.rpc.echo import Echo, client_of

STORAGE = Caller("storage-1", "storage")
NAMES = ("spiffe://example/storage",)


class Watching:
    """Is asked before a body is read, so that nothing is answered without connectrpc's application."""

    async def on_start(self, _ctx: RequestContext[Any, Any]) -> None:
        pass

    async def on_end(self, _token: None, _ctx: RequestContext[Any, Any], _error: Exception | None, /) -> None:
        pass


both_ways = pytest.mark.parametrize("interceptors", [[], [Watching()]], ids=["short", "connectrpc"])


def told(app: App, state: Mapping[str, Any]) -> App:
    """Stand before an application, as whoever knows the caller does."""

    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {**scope["state"], **state}}, receive, send)

    return tell


@asynccontextmanager
async def called(
    echo: Echo, state: Mapping[str, Any], interceptors: list[Interceptor]
) -> AsyncIterator[EchoServiceClient]:
    async with client_of(told(application([echo], interceptors), state)) as client:
        yield client


async def numbers() -> AsyncIterable[pb.SumRequest]:
    yield pb.SumRequest(number=1)


async def call_each(client: EchoServiceClient) -> None:
    await client.echo(pb.EchoRequest(text="a"))
    async with client.count(pb.CountRequest(to=1)) as stream:
        assert [message.number async for message in stream] == [0]
    await client.sum(numbers())


@both_ways
async def test_every_kind_of_method_sees_who_calls_and_the_names_of_the_certificate(
    interceptors: list[Interceptor],
) -> None:
    echo = Echo()
    async with called(echo, {"caller": STORAGE, "peer_names": NAMES}, interceptors) as client:
        await call_each(client)
    assert len(echo.contexts) == 3
    for ctx in echo.contexts:
        assert isinstance(ctx, Context)
        assert (ctx.caller, ctx.peer_names) == (STORAGE, NAMES)
        assert ctx.client_address == "127.0.0.1:0"


@both_ways
async def test_where_nobody_has_asked_there_is_no_caller(interceptors: list[Interceptor]) -> None:
    echo = Echo()
    async with called(echo, {}, interceptors) as client:
        await call_each(client)
    assert {(ctx.caller, ctx.peer_names) for ctx in echo.contexts} == {(None, ())}


@both_ways
async def test_calls_at_the_same_time_do_not_see_each_others_caller(interceptors: list[Interceptor]) -> None:
    class Naming(Echo):
        async def count(self, _request: pb.CountRequest, ctx: Context, /) -> AsyncIterator[pb.CountResponse]:
            for _ in range(3):
                assert ctx.caller is not None
                yield pb.CountResponse(number=int(ctx.caller.id))
                await trio.lowlevel.checkpoint()

    app = application([Naming()], interceptors)

    async def call(number: int) -> None:
        caller = Caller(str(number), "numbered")
        async with (
            client_of(told(app, {"caller": caller})) as client,
            client.count(pb.CountRequest(to=3)) as stream,
        ):
            assert [message.number async for message in stream] == [number] * 3

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(call, number)


@both_ways
async def test_what_a_method_says_beside_its_answer_arrives(interceptors: list[Interceptor]) -> None:
    metadata = ResponseMetadata()
    async with called(Echo(), {"caller": STORAGE}, interceptors) as client:
        await client.echo(pb.EchoRequest(text="a"), metadata=metadata)
    assert metadata.headers["x-header"] == "h"
    assert metadata.trailers["x-trailer"] == "t"


async def test_what_a_stream_says_beside_its_answer_arrives_and_it_knows_its_time() -> None:
    echo = Echo()
    async with (
        called(echo, {"caller": STORAGE}, []) as client,
        client.count(pb.CountRequest(to=1), timeout_s=5.0) as stream,
    ):
        assert [message.number async for message in stream] == [0]
        assert stream.metadata.headers["x-header"] == "h"
        assert stream.metadata.trailers["x-trailer"] == "t"
    left = echo.contexts[0].timeout_ms
    assert left is not None
    assert 0 < left <= 5000
