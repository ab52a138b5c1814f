"""Interceptors of a client: all kinds of calls, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from connectrpc.method import IdempotencyLevel, StreamType
from connectrpc.request import RequestContext

from cpg_trio.http import Pool
from cpg_trio.rpc import (
    ClientConfig,
    Code,
    ConnectError,
    Context,
    Headers,
    Interceptor,
    ResponseMetadata,
    application,
)
from cpg_trio.rpc.intercepted import ClientContext
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.http.apps import served
from tests.rpc.echo import Echo
from tests.rpc.intercepting import Noting, NotingMetadata, chat, numbers

Next = Callable[[Any, Any], Awaitable[Any]]


@asynccontextmanager
async def calling(
    *interceptors: Interceptor, echo: Echo | None = None, config: ClientConfig | None = None
) -> AsyncIterator[EchoServiceClient]:
    with trio.fail_after(20):
        async with served(application([echo or Echo()])) as url, Pool() as pool:
            yield EchoServiceClient(url, pool, config, interceptors=interceptors)


async def test_the_same_interceptors_are_around_each_kind_of_call_and_the_first_one_is_outermost() -> None:
    notes: list[str] = []
    outer, inner = Noting("outer", notes), Noting("inner", notes)
    async with calling(outer, inner) as client:
        assert (await client.echo(pb.EchoRequest(text="a"))).text == "a"
        async with client.count(pb.CountRequest(to=2)) as counted:
            assert [message.number async for message in counted] == [0, 1]
        assert (await client.sum(numbers(1, 2))).sum == 3
        async with client.http_chat(chat("a", "b")) as chatted:
            assert [message.text async for message in chatted] == ["a", "b"]
    messages = [note for note in notes if note.endswith(("request", "response"))]
    assert sorted(messages) == sorted(
        [*["inner request", "outer request"] * 4, *["inner response", "outer response"] * 4]
    )
    calls = [note for note in notes if note not in messages]
    for method, at in zip(("Echo", "Count", "Sum", "HTTPChat"), range(0, 16, 4), strict=True):
        expected = [f"outer {method}", f"inner {method}", "inner end", "outer end"]
        assert calls[at : at + 4] == expected


async def test_an_interceptor_knows_the_method_and_the_time_and_that_nobody_calls() -> None:
    noting = Noting("n", [])
    async with calling(noting, config=ClientConfig(timeout_s=5.0)) as client:
        await client.echo(pb.EchoRequest(text="a"))
        async with client.count(pb.CountRequest(to=1), timeout_s=3.0) as counted:
            assert [message.number async for message in counted] == [0]
        await client.sum(numbers(1))
    unary, stream, _ = noting.contexts
    assert isinstance(unary, Context)
    assert unary.caller is None
    assert (unary.method.service_name, unary.method.name) == ("echo.v1.EchoService", "Echo")
    assert (unary.method.input, unary.method.output) == (pb.EchoRequest, pb.EchoResponse)
    assert stream.method.stream_type is StreamType.SERVER_STREAM
    assert unary.method.idempotency_level in IdempotencyLevel
    assert 0 < stream.timeout_ms <= 3000


async def test_the_time_that_is_left_is_that_of_the_nearest_deadline() -> None:
    seen = list[float | None]()

    class Looking:
        async def intercept_unary(self, call_next: Next, request: Any, ctx: Any, /) -> Any:
            seen.append(ctx.timeout_ms)
            return await call_next(request, ctx)

    echo = Echo()
    async with calling(Looking(), echo=echo) as client:
        await client.echo(pb.EchoRequest(text="a"), timeout_s=5.0)
        with trio.fail_after(2):
            await client.echo(pb.EchoRequest(text="a"), timeout_s=5.0)
    five, two = seen
    assert five is not None
    assert two is not None
    assert 2000 < five <= 5000
    assert 0 < two <= 2000
    left = [ctx.timeout_ms for ctx in echo.contexts]
    assert all(each is not None for each in left)  # it has come to the server


async def test_an_interceptor_changes_headers_request_and_answer() -> None:
    class Changing:
        async def intercept_unary(self, call_next: Next, request: Any, ctx: Any, /) -> Any:
            ctx.request_headers["x-added"] = "1"
            ctx.request_headers.add("x-twice", "a")
            ctx.request_headers.add("x-twice", "b")
            del ctx.request_headers["x-config"], ctx.request_headers["user-agent"]
            response = await call_next(pb.EchoRequest(text=request.text.upper()), ctx)
            ctx.response_headers["x-header"] += "!"
            return pb.EchoResponse(text=response.text + ctx.response_trailers["x-trailer"])

    echo, metadata = Echo(), ResponseMetadata()
    config = ClientConfig(headers={"X-Config": "c", "x-kept": "k"})
    async with calling(Changing(), echo=echo, config=config) as client:
        answer = await client.echo(pb.EchoRequest(text="a"), headers={"x-own": "o"}, metadata=metadata)
    received = echo.contexts[0].request_headers
    assert answer.text == "At"
    assert metadata.headers["x-header"] == "h!"
    assert [received[name] for name in ("x-added", "x-own", "x-kept")] == ["1", "o", "k"]
    assert received.getall("x-twice") == ["a", "b"]
    assert not {"x-config", "user-agent"} & set(received)


async def test_headers_with_several_values_are_sent_in_their_order() -> None:
    echo, headers = Echo(), Headers([("x-a", "2"), ("X-A", "1"), ("content-type", "text/plain")])
    async with calling(echo=echo) as client:
        await client.echo(pb.EchoRequest(text="a"), headers=headers)
        async with client.count(pb.CountRequest(to=1), headers=headers) as counted:
            assert [message.number async for message in counted] == [0]
    for ctx in echo.contexts:
        assert ctx.request_headers.getall("x-a") == ["2", "1"]
        assert len(ctx.request_headers.getall("content-type")) == 1


async def test_an_interceptor_answers_itself_calls_again_and_changes_the_error() -> None:
    class Retrying:
        async def intercept_unary(self, call_next: Next, request: Any, ctx: Any, /) -> Any:
            if request.text == "cached":
                return pb.EchoResponse(text="from the cache")
            try:
                return await call_next(request, ctx)
            except ConnectError:
                ctx.request_headers["x-try"] = "2"
            try:
                return await call_next(request, ctx)
            except ConnectError as error:
                raise ConnectError(Code.ABORTED, "twice") from error

    echo, metadata = Echo(), ResponseMetadata()
    async with calling(Retrying(), echo=echo) as client:
        assert (await client.echo(pb.EchoRequest(text="cached"))).text == "from the cache"
        assert echo.contexts == []
        with pytest.raises(ConnectError, match="twice"):
            await client.echo(pb.EchoRequest(text="fail"), metadata=metadata)
    assert [ctx.request_headers.get("x-try") for ctx in echo.contexts] == [None, "2"]


async def test_interceptors_of_streams_change_what_comes_and_answer_themselves() -> None:
    class Doubling:
        async def intercept_server_stream(
            self, call_next: Any, request: Any, ctx: Any, /
        ) -> AsyncIterator[Any]:
            if request.to == 0:
                yield pb.CountResponse(number=-1)
                return
            for _ in range(2):
                async for response in call_next(request, ctx):
                    yield response

        async def intercept_client_stream(self, call_next: Any, requests: Any, ctx: Any, /) -> Any:
            async def doubled() -> AsyncGenerator[Any, None]:
                async for request in requests:
                    yield pb.SumRequest(number=2 * request.number)

            return await call_next(doubled(), ctx)

    echo = Echo()
    async with calling(Doubling(), echo=echo) as client:
        async with client.count(pb.CountRequest(to=0)) as counted:
            assert [message.number async for message in counted] == [-1]
        assert echo.contexts == []
        async with client.count(pb.CountRequest(to=2)) as counted:
            assert [message.number async for message in counted] == [0, 1, 0, 1]
        assert (await client.sum(numbers(1, 2))).sum == 6


async def test_errors_of_streams_come_where_they_come_without_interceptors() -> None:
    notes: list[str] = []
    async with calling(Noting("n", notes)) as client:
        with pytest.raises(ConnectError) as caught:
            async with client.count(pb.CountRequest(to=-1)) as counted:
                assert (await anext(aiter(counted))).number == 0
                await anext(aiter(counted))
        assert caught.value.code is Code.INTERNAL
        with pytest.raises(ConnectError):
            await client.sum(numbers(13))
        async with client.http_chat(chat("explode")) as chatted:
            with pytest.raises(ConnectError):
                await anext(aiter(chatted))
    assert [note for note in notes if note.endswith("internal")] == ["n internal"] * 3


async def test_without_a_server_a_stream_fails_on_entering() -> None:
    async with Pool() as pool:
        client = EchoServiceClient("http://127.0.0.1:1", pool, interceptors=[Noting("n", [])])
        with pytest.raises(ConnectError):
            async with client.count(pb.CountRequest(to=1)):
                raise AssertionError("it has not begun")


async def test_a_stream_both_ways_begins_at_once_and_its_block_may_talk() -> None:
    say, said = trio.open_memory_channel[pb.HTTPChatRequest](0)
    async with calling(Noting("n", [])) as client, client.http_chat(said) as chatted:
        for word in ("a", "b"):
            await say.send(pb.HTTPChatRequest(text=word))
            assert (await anext(aiter(chatted))).text == word
        say.close()
        assert [message async for message in chatted] == []


async def test_what_is_left_early_is_closed_with_its_interceptors_and_requests() -> None:
    notes: list[str] = []
    closed = trio.Event()

    async def endless() -> AsyncGenerator[pb.HTTPChatRequest, None]:
        try:
            while True:
                yield pb.HTTPChatRequest(text="a")
        finally:
            closed.set()

    echo = Echo()
    async with calling(Noting("n", notes), echo=echo) as client:
        async with client.count(pb.CountRequest(to=99)) as counted:
            assert (await anext(aiter(counted))).number == 0
        assert notes[-1] == "n left"
        await echo.closed.wait()
        async with client.http_chat(endless()) as chatted:
            assert (await anext(aiter(chatted))).text == "a"
        assert notes[-1] == "n left"
        await closed.wait()


async def test_an_error_of_the_block_comes_out_as_it_is() -> None:
    async with calling(Noting("n", [])) as client:
        with pytest.raises(LookupError, match="mine"):
            async with client.count(pb.CountRequest(to=3)):
                raise LookupError("mine")


async def test_an_interceptor_may_bound_the_wait_for_a_message() -> None:
    class Impatient:
        async def intercept_server_stream(
            self, call_next: Any, request: Any, ctx: Any, /
        ) -> AsyncIterator[Any]:
            responses = call_next(request, ctx)
            try:
                while True:
                    with trio.fail_after(10):
                        try:
                            response = await anext(responses)
                        except StopAsyncIteration:
                            return
                    yield response
            finally:
                await responses.aclose()

    async with calling(Impatient()) as client, client.count(pb.CountRequest(to=3)) as counted:
        with trio.move_on_after(5):
            assert (await anext(aiter(counted))).number == 0
        assert [message.number async for message in counted] == [1, 2]


async def test_a_cancelled_call_and_one_whose_time_is_over_pass_through(autojump_clock: object) -> None:
    notes: list[str] = []
    echo = Echo()
    async with calling(NotingMetadata(notes), echo=echo) as client:
        with trio.move_on_after(0.1) as scope:
            await client.echo(pb.EchoRequest(text="hang"))
        assert scope.cancelled_caught
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(text="hang"), timeout_s=0.1)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert next(note for note in notes if note.startswith("token")) == "token canceled"
    assert len(notes) == 4


async def test_the_time_of_a_call_bounds_what_its_interceptors_do(autojump_clock: object) -> None:
    class Slow:
        async def intercept_unary(self, _call_next: Next, _request: Any, _ctx: Any, /) -> Any:
            await trio.sleep_forever()

    async with calling(Slow()) as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(text="a"), timeout_s=0.05)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_interceptors_of_metadata_add_headers_to_each_kind_of_call() -> None:
    class Tenant:
        async def on_start(self, ctx: Any) -> None:
            ctx.request_headers["x-tenant"] = "t"

        async def on_end(self, _token: None, _ctx: Any, _error: Exception | None, /) -> None:
            pass

    echo = Echo()
    async with calling(Tenant(), echo=echo) as client:
        await client.echo(pb.EchoRequest(text="a"))
        async with client.count(pb.CountRequest(to=1)) as counted:
            assert [message.number async for message in counted] == [0]
        await client.sum(numbers(1))
    assert [ctx.request_headers["x-tenant"] for ctx in echo.contexts] == ["t"] * 3


@pytest.mark.parametrize("wrong", ["answer", "context"])
async def test_what_an_interceptor_gets_wrong_is_told(wrong: str) -> None:
    class Wrong:
        async def intercept_unary(self, call_next: Next, request: Any, ctx: Any, /) -> Any:
            if wrong == "answer":
                return pb.SumResponse()
            other = RequestContext(method=ctx.method, http_method="POST", request_headers=Headers())
            return await call_next(request, other)

    async with calling(Wrong()) as client:
        with pytest.raises(TypeError, match="interceptor"):
            await client.echo(pb.EchoRequest(text="a"))


async def test_a_client_refuses_what_is_no_interceptor() -> None:
    wrong: Any = Noting
    async with Pool() as pool:
        with pytest.raises(TypeError, match="is a class"):
            EchoServiceClient("http://h", pool, interceptors=[wrong])
    assert issubclass(ClientContext, Context)
