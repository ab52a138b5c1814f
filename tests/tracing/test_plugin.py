"""The spans of plugins: what they call, through the host and directly, and what their authors measure."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from opentelemetry import trace

from cpg_trio.host import Capability, HostConfig
from cpg_trio.http import Pool
from cpg_trio.plugin import Plugin, connect
from cpg_trio.rpc import Code, ConnectError, Context
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import goes_directly, hosting, plugged
from tests.rpc.echo import Echo
from tests.rpc.test_call_context import Passing
from tests.tracing.receiver import Received, Receiver, receiving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


class Measuring(Passing):
    """Calls the next service from within a span of its author."""

    async def echo(self, request: pb.EchoRequest, ctx: Context, /) -> pb.EchoResponse:
        with trace.get_tracer("author").start_as_current_span("work"):
            return await super().echo(request, ctx)


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield receiver


@asynccontextmanager
async def calling(*, direct: bool = False) -> AsyncIterator[EchoServiceClient]:
    """Yield a client of `front`, which calls `echo`."""
    provider, caller = Plugin("echo-plugin", version="1.0.0"), Plugin("front", version="2.0.0")
    provider.provide("echo", Echo())
    dependency = caller.require("echo")
    caller.provide("front", Measuring(dependency.client(EchoServiceClient)), public=True)
    async with (
        hosting() as (_, url),
        plugged(provider, url),
        plugged(caller, url, direct_calls=direct) as front,
        Pool() as pool,
    ):
        with trio.fail_after(10):
            await dependency.wait_available()
        if direct:
            await goes_directly(dependency)
        yield EchoServiceClient(front, pool)


async def test_the_calls_of_a_session_have_spans(receiver: Receiver) -> None:
    provider = Plugin("echo-plugin", version="1.0.0")
    provider.provide("echo", Echo())
    async with hosting() as (_, url), plugged(provider, url), connect(url, "script") as session:
        echo = session.require("echo")
        with trio.fail_after(10):
            await echo.wait_available()
        await echo.client(EchoServiceClient).echo(pb.EchoRequest(text="x"), headers=SAMPLED)
    spans = await receiver.until(lambda spans: any(each.service == "script" for each in spans))
    (own,) = [each for each in spans if each.service == "script"]
    assert (own.kind, own.name, own.trace_id) == ("client", ECHO, TRACE)


def chain(spans: list[Received], last: Received) -> list[tuple[str, str, str]]:
    found, by_id = [last], {each.id: each for each in spans}
    while (parent := by_id.get(found[-1].parent)) is not None:
        found.append(parent)
    return [(each.service, each.kind, each.name) for each in found]


ECHO, COUNT = "echo.v1.EchoService/Echo", "echo.v1.EchoService/Count"
WORK = ("front", "internal", "work")


@pytest.mark.parametrize("direct", [False, True])
async def test_a_call_is_one_chain_of_spans_with_those_of_authors(receiver: Receiver, direct: bool) -> None:  # noqa: FBT001
    through = [] if direct else [("cpg-trio-host", "server", ECHO)]
    wanted = [
        ("echo-plugin", "server", ECHO),
        *through,
        ("front", "client", ECHO),
        WORK,
        ("front", "server", ECHO),
    ]
    async with calling(direct=direct) as client:
        await client.echo(pb.EchoRequest(text="x"), headers=SAMPLED)
        spans = await receiver.until(lambda spans: len(spans) == len(wanted))
    (last,) = [each for each in spans if each.service == "echo-plugin"]
    assert chain(spans, last) == wanted
    assert {each.trace_id for each in spans} == {TRACE}
    kinds = {each.attributes.get("cpg_trio.kind") for each in spans if each.service == "echo-plugin"}
    assert kinds == {"direct" if direct else "routed"}


async def test_a_stream_is_a_span_as_well(receiver: Receiver) -> None:
    async with calling() as client:
        async with client.count(pb.CountRequest(to=2), headers=SAMPLED) as stream:
            assert [message.number async for message in stream] == [0, 1]
        spans = await receiver.until(lambda spans: len(spans) == 4)
    (last,) = [each for each in spans if each.service == "echo-plugin"]
    assert chain(spans, last) == [
        ("echo-plugin", "server", COUNT),
        ("cpg-trio-host", "server", COUNT),
        ("front", "client", COUNT),
        ("front", "server", COUNT),
    ]


async def test_an_error_is_the_callers_span_error_and_the_servers_if_it_is_its_fault(
    receiver: Receiver,
) -> None:
    async with calling() as client:
        with pytest.raises(ConnectError) as caught:
            await client.echo(pb.EchoRequest(text="fail"), headers=SAMPLED)
        assert caught.value.code == Code.ALREADY_EXISTS
        spans = await receiver.until(lambda spans: len(spans) == 5)
    codes = {each.kind: each.attributes["rpc.response.status_code"] for each in spans if each.name == ECHO}
    assert codes == {"client": "already_exists", "server": "already_exists"}
    assert {each.kind for each in spans if each.name == ECHO and each.span.status.code == 2} == {"client"}


async def test_of_an_unsampled_trace_authors_record_nothing_either(receiver: Receiver) -> None:
    async with calling() as client:
        unsampled = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
        await client.echo(pb.EchoRequest(text="x"), headers=unsampled)
    assert receiver.spans == []


async def test_a_call_of_a_capability_is_a_span_of_the_host(receiver: Receiver) -> None:
    caller = Plugin("front", version="1.0.0")
    caller.provide("front", Passing(caller.capability("echo").client(EchoServiceClient)), public=True)
    config = HostConfig(capabilities=[Capability.of("echo", "1.0.0", Echo())])

    async def call(client: EchoServiceClient) -> bool:
        try:
            await client.echo(pb.EchoRequest(text="x"), headers=SAMPLED)
        except ConnectError:  # it has not registered yet
            return False
        return True

    async with hosting(config) as (_, url), plugged(caller, url) as front, Pool() as pool:
        client = EchoServiceClient(front, pool)
        with trio.fail_after(10):
            while not await call(client):  # noqa: ASYNC110 - there is no event
                await trio.sleep(0.01)
        spans = await receiver.until(lambda spans: [s for s in spans if s.service == "cpg-trio-host"])
    (last,) = [each for each in spans if each.service == "cpg-trio-host"]
    assert last.attributes["cpg_trio.kind"] == "capability"
    assert last.trace_id == TRACE
