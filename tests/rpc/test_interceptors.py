"""Interceptors of a server: all kinds of calls, by Connect and by gRPC, on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import grpc
import pytest
import trio

from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.http import Pool
from cpg_trio.rpc import Caller, Code, ConnectError, Interceptor, ResponseMetadata, application
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.http.apps import served
from tests.rpc.echo import Echo
from tests.rpc.intercepting import Noting, NotingMetadata, chat, numbers

CALLER = Caller("caller-1", "caller")


@asynccontextmanager
async def answered(
    *interceptors: Interceptor, echo: Echo | None = None
) -> AsyncIterator[tuple[EchoServiceClient, str]]:
    """Serve echo behind interceptors to a known caller; yield a client and the server's URL."""
    app = application([echo or Echo()], interceptors)

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {**scope.get("state", {}), "caller": CALLER}}, receive, send)

    with trio.fail_after(20):
        async with served(known) as url, Pool() as pool:
            yield EchoServiceClient(url, pool), url


async def call_all(client: EchoServiceClient) -> None:
    assert (await client.echo(pb.EchoRequest(text="a"))).text == "a"
    async with client.count(pb.CountRequest(to=2)) as counted:
        assert [message.number async for message in counted] == [0, 1]
    assert (await client.sum(numbers(1, 2))).sum == 3
    async with client.http_chat(chat("a", "b")) as chatted:
        assert [message.text async for message in chatted] == ["a", "b"]


def call_all_by_grpc(url: str) -> None:
    with grpc.insecure_channel(url.removeprefix("http://")) as channel:
        path = "/echo.v1.EchoService/"
        to_bytes: Any = lambda message: message.SerializeToString()  # noqa: E731 - grpcio's word for it
        echo = channel.unary_unary(f"{path}Echo", to_bytes, pb.EchoResponse.FromString)
        assert echo(pb.EchoRequest(text="a"), timeout=10).text == "a"
        count = channel.unary_stream(f"{path}Count", to_bytes, pb.CountResponse.FromString)
        assert [m.number for m in count(pb.CountRequest(to=2), timeout=10)] == [0, 1]
        add = channel.stream_unary(f"{path}Sum", to_bytes, pb.SumResponse.FromString)
        assert add(iter([pb.SumRequest(number=1), pb.SumRequest(number=2)]), timeout=10).sum == 3
        talk = channel.stream_stream(f"{path}HTTPChat", to_bytes, pb.HTTPChatResponse.FromString)
        said = [pb.HTTPChatRequest(text="a"), pb.HTTPChatRequest(text="b")]
        assert [m.text for m in talk(iter(said), timeout=10)] == ["a", "b"]


def steps(name: str) -> list[str]:
    """Return what an interceptor notes of `call_all`, apart from the messages."""
    return [f"{name} {what}" for method in ("Echo", "Count", "Sum", "HTTPChat") for what in (method, "end")]


@pytest.mark.parametrize("protocol", ["connect", "grpc"])
async def test_interceptors_are_around_each_kind_of_call_and_the_first_one_is_outermost(
    protocol: str,
) -> None:
    notes: list[str] = []
    outer, inner = Noting("outer", notes), Noting("inner", notes)
    async with answered(outer, inner) as (client, url):
        if protocol == "connect":
            await call_all(client)
        else:
            await trio.to_thread.run_sync(partial(call_all_by_grpc, url))
    messages = [note for note in notes if note.endswith(("request", "response"))]
    assert sorted(messages) == sorted(
        [*["inner request", "outer request"] * 4, *["inner response", "outer response"] * 4]
    )
    calls = [note for note in notes if note not in messages]
    assert [note for note in calls if note.startswith("outer")] == steps("outer")
    assert [note for note in calls if note.startswith("inner")] == steps("inner")
    for at in range(0, len(calls), 4):
        assert [note.split()[0] for note in calls[at : at + 4]] == ["outer", "inner", "inner", "outer"]
    for ctx in outer.contexts + inner.contexts:
        assert ctx.caller == CALLER


async def test_a_unary_interceptor_changes_request_headers_answer_and_error() -> None:
    class Changing:
        async def intercept_unary(
            self, call_next: Callable[[Any, Any], Awaitable[Any]], request: Any, ctx: Any, /
        ) -> Any:
            ctx.response_headers["x-tenant"] = ctx.request_headers["x-tenant"]
            ctx.response_trailers["x-after"] = "1"
            try:
                response = await call_next(pb.EchoRequest(text=request.text.lower()), ctx)
            except ConnectError as error:
                raise ConnectError(Code.ABORTED, f"not {error.message}") from error
            return pb.EchoResponse(text=response.text + "!")

    async with answered(Changing()) as (client, _):
        metadata = ResponseMetadata()
        answer = await client.echo(pb.EchoRequest(text="A"), headers={"x-tenant": "t"}, metadata=metadata)
        assert answer.text == "a!"
        assert (metadata.headers["x-tenant"], metadata.trailers["x-after"]) == ("t", "1")
        with pytest.raises(ConnectError, match="not there it is") as caught:
            await client.echo(pb.EchoRequest(text="FAIL"), headers={"x-tenant": "t"})
        assert caught.value.code is Code.ABORTED


async def test_an_interceptor_answers_itself_or_asks_twice() -> None:
    class Caching:
        async def intercept_unary(
            self, call_next: Callable[[Any, Any], Awaitable[Any]], request: Any, ctx: Any, /
        ) -> Any:
            if request.text == "cached":
                return pb.EchoResponse(text="from the cache")
            await call_next(request, ctx)
            return await call_next(request, ctx)

    echo = Echo()
    async with answered(Caching(), echo=echo) as (client, _):
        assert (await client.echo(pb.EchoRequest(text="cached"))).text == "from the cache"
        assert echo.contexts == []
        assert (await client.echo(pb.EchoRequest(text="a"))).text == "a"
    assert len(echo.contexts) == 2


async def test_an_interceptor_knows_the_time_that_is_left() -> None:
    noting = Noting("n", [])
    async with answered(noting) as (client, _):
        await client.echo(pb.EchoRequest(text="a"), timeout_s=5.0)
    assert 0 < noting.contexts[0].timeout_ms <= 5000


async def test_a_cancelled_call_passes_through_interceptors() -> None:
    notes: list[str] = []
    echo = Echo()
    async with answered(NotingMetadata(notes), Noting("n", notes), NotingMetadata(notes), echo=echo) as (
        client,
        _,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.echo, pb.EchoRequest(text="hang"))
            await echo.hangs.wait()
            nursery.cancel_scope.cancel()
        await echo.cancelled.wait()
        with trio.CancelScope() as scope:
            async with client.count(pb.CountRequest(to=99)) as counted:
                async for message in counted:
                    if message.number == 98:
                        scope.cancel()
        await echo.closed.wait()
    assert notes.count("token None") == 0
    assert notes.count("n left") + notes.count("n canceled") + notes.count("n deadline_exceeded") == 2


async def test_interceptors_of_metadata_see_every_kind_of_call_the_caller_and_the_error() -> None:
    notes: list[str] = []
    inner: list[str] = []
    # The first one is asked before the body is read, the other one in its turn.
    async with answered(NotingMetadata(notes), Noting("n", []), NotingMetadata(inner)) as (client, _):
        await call_all(client)
        metadata = ResponseMetadata()
        with pytest.raises(ConnectError):
            await client.echo(pb.EchoRequest(text="fail"), metadata=metadata)
        assert metadata.headers["x-noted"] == "yes"
    begun = ["Echo", "Count", "Sum", "HTTPChat", "Echo"]
    expected = [each for method in begun for each in (f"start {method} for caller", "token None")]
    expected[-1] = "token already_exists"
    assert (notes, inner) == (expected, expected)


@pytest.mark.parametrize("where", ["first", "inside"])
async def test_what_an_interceptor_of_metadata_raises_is_hidden(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        async def on_start(self, _ctx: Any) -> None:
            raise LookupError("secret internals")

        async def on_end(self, _token: None, _ctx: Any, _error: Exception | None, /) -> None:
            pass

    chain: list[Interceptor] = [Failing()] if where == "first" else [Noting("n", []), Failing()]
    async with answered(*chain) as (client, _):
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(text="a"))
        async with client.count(pb.CountRequest(to=1)) as counted:
            with pytest.raises(ConnectError, match="internal error"):
                await anext(aiter(counted))
    assert (caught.value.code, caught.value.message) == (Code.INTERNAL, "internal error")
    assert "unexpected exception" in caplog.text


async def test_an_answer_of_another_type_is_an_error_of_the_server() -> None:
    class Wrong:
        async def intercept_unary(self, _call_next: Any, _request: Any, _ctx: Any, /) -> Any:
            return pb.SumResponse()

    async with answered(Wrong()) as (client, _):
        with pytest.raises(ConnectError, match="internal error"):
            await client.echo(pb.EchoRequest(text="a"))


@attrs.define
class NoInterceptor:
    """Has no method of one."""


@pytest.mark.parametrize("wrong", [NoInterceptor(), Noting, None])
def test_what_is_no_interceptor_is_refused_when_it_is_given(wrong: Any) -> None:
    with pytest.raises(TypeError, match="intercept"):
        application([Echo()], [wrong])
