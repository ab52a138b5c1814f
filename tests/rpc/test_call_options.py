"""What a single call may be given beside its request, and what its method says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from cpg_trio.calls import Retry
from cpg_trio.protos.connectplugin.health.v1 import health_pb2
from cpg_trio.protos.connectplugin.health.v1.health_trio import HealthService
from cpg_trio.rpc import (
    CallTraits,
    ClientConfig,
    Code,
    ConnectError,
    Context,
    HttpRequest,
    HttpResponse,
    Interceptor,
    WholeResponse,
    application,
)
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.rpc.echo import Echo, echo_client, in_process
from tests.rpc.intercepting import Noting


async def numbers(count: int, pause_s: float = 0.0) -> AsyncIterator[pb.SumRequest]:
    for number in range(count):
        await trio.sleep(pause_s)
        yield pb.SumRequest(number=number)


async def texts() -> AsyncIterator[pb.HTTPChatRequest]:
    yield pb.HTTPChatRequest(text="hi")


class Recording:
    """An `HttpClient` that keeps the requests, and answers none."""

    def __init__(self) -> None:
        self.sent: list[HttpRequest] = []

    async def unary(self, request: HttpRequest, _max_bytes: int | None) -> WholeResponse:
        response: WholeResponse = await self._keep(request)
        return response

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        yield await self._keep(request)

    async def _keep(self, request: HttpRequest) -> Any:
        self.sent.append(request)
        raise ConnectError(Code.UNAVAILABLE, "kept")


async def make(kind: str, client: EchoServiceClient, **options: Any) -> None:
    """Make a call of a kind, and read its answer."""
    match kind:
        case "unary":
            await client.echo(pb.EchoRequest(), **options)
        case "server":
            async with client.count(pb.CountRequest(to=1), **options) as stream:
                assert [each async for each in stream]
        case "client":
            await client.sum(numbers(2), **options)
        case _:
            async with client.http_chat(texts(), **options) as chat:
                assert [each async for each in chat]


KINDS = pytest.mark.parametrize("kind", ["unary", "server", "client", "bidi"])


@KINDS
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timeout", "did you mean timeout_s?"),
        ("retries", "did you mean retry?"),
        ("zzz", "there is headers, key, metadata, retry, timeout_s"),
    ],
)
async def test_an_unknown_option_is_an_error_that_names_the_nearest(kind: str, name: str, hint: str) -> None:
    http = Recording()
    with pytest.raises(TypeError, match=f"a call has no option {name}: ") as caught:
        await make(kind, EchoServiceClient("http://echo", http), **{name: 1})
    assert str(caught.value).endswith(hint)
    assert not http.sent


@pytest.mark.parametrize("call", [EchoServiceClient.count, EchoServiceClient.http_chat])
def test_an_unknown_option_of_a_stream_is_an_error_before_its_block(call: Callable[..., Any]) -> None:
    with pytest.raises(TypeError):
        call(EchoServiceClient("http://echo", Recording()), pb.CountRequest(), timeout=1)


@pytest.fixture(params=["without interceptors", "with one"])
def chain(request: pytest.FixtureRequest) -> list[Interceptor]:
    return [Noting("n", [])] if request.param == "with one" else []


@KINDS
async def test_the_traits_of_a_call_go_with_its_request(kind: str, chain: list[Interceptor]) -> None:
    http = Recording()
    client = EchoServiceClient("http://echo", http, interceptors=chain)
    policy = Retry(attempts=5)
    for options in ({}, {"retry": True, "key": "k"}, {"retry": policy}, {"headers": {"x-a": "b"}}):
        with pytest.raises(ConnectError):
            await make(kind, client, **options)
    idempotent = kind == "server"  # as its proto says
    plain = CallTraits(idempotent)
    assert [request.call for request in http.sent] == [
        plain,
        CallTraits(idempotent, retry=True, key="k"),
        CallTraits(idempotent, retry=policy),
        plain,
    ]


# The time until the answer


async def test_a_unary_call_has_its_answer_in_time(chain: list[Interceptor], autojump_clock: object) -> None:
    async with echo_client(ClientConfig(answer_timeout_s=0.05), interceptors=chain) as client:
        await client.echo(pb.EchoRequest())
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(text="hang"))
    assert caught.value.code == Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("options", [{"timeout_s": 9.0}, {"timeout_s": None}])
async def test_a_calls_own_time_replaces_that_of_the_answer(
    options: dict[str, Any], chain: list[Interceptor], autojump_clock: object
) -> None:
    echo = Echo()
    async with echo_client(ClientConfig(answer_timeout_s=1), echo, chain) as client:
        with trio.move_on_after(5) as scope:
            await client.echo(pb.EchoRequest(text="hang"), **options)
    assert scope.cancelled_caught


async def test_a_stream_that_has_begun_may_go_on(chain: list[Interceptor], autojump_clock: object) -> None:
    echo = Echo()
    seen = []
    async with echo_client(ClientConfig(answer_timeout_s=1), echo, chain) as client:
        with trio.move_on_after(60) as scope:
            async with client.count(pb.CountRequest(to=99)) as stream:
                async for message in stream:
                    seen.append(message.number)
    assert scope.cancelled_caught
    assert seen == list(range(99))
    # The scope's time is told to the server, and that of the first message is not.
    assert int(echo.contexts[0].request_headers["connect-timeout-ms"]) > 1000


async def test_the_time_of_an_answer_begins_with_the_last_request(
    chain: list[Interceptor], autojump_clock: object
) -> None:
    async with echo_client(ClientConfig(answer_timeout_s=1), interceptors=chain) as client:
        assert (await client.sum(numbers(4, pause_s=0.9))).sum == 6


async def test_a_stream_both_ways_has_to_answer_its_first_request(
    chain: list[Interceptor], autojump_clock: object
) -> None:
    async def late() -> AsyncIterator[pb.HTTPChatRequest]:
        await trio.sleep(5)
        yield pb.HTTPChatRequest(text="hi")

    async with (
        echo_client(ClientConfig(answer_timeout_s=1), interceptors=chain) as client,
        client.http_chat(late()) as chat,
    ):
        await trio.sleep(2)
        assert [each.text async for each in chat] == ["hi"]
        await trio.sleep(2)


# What a method says of itself


async def test_what_has_no_side_effects_may_be_asked_for_by_get_and_nothing_else() -> None:
    class Health(HealthService):
        async def check(
            self, _request: health_pb2.HealthCheckRequest, _ctx: Context, /
        ) -> health_pb2.HealthCheckResponse:
            return health_pb2.HealthCheckResponse(status=health_pb2.SERVING_STATUS_SERVING)

    app = application([Health(), Echo()])
    query = {"encoding": "json", "message": "{}", "connect": "v1"}
    async with in_process(app) as http:
        base = "http://echo/connectplugin.health.v1.HealthService"
        found = await http.get(f"{base}/Check", params=query)
        assert (found.status_code, found.json()) == (200, {"status": "SERVING_STATUS_SERVING"})
        for path in (f"{base}/Watch", "http://echo/echo.v1.EchoService/Echo"):
            assert (await http.get(path, params=query)).status_code == 405
