"""What becomes of the calls of a host: deadlines, cancellation, retries, breakers, and providers that go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from cpg_trio import CallPolicy, Retry
from cpg_trio.call_context import current
from cpg_trio.calls import BreakerState
from cpg_trio.host import Host, HostConfig, Policy, Rules, ServiceRules
from cpg_trio.http import ServeConfig
from cpg_trio.plugin import PluginConfig
from cpg_trio.rpc import Code, ConnectError, Context, Fault, fault_of
from tests._gen.echo.v1.echo_pb2 import CountRequest, CountResponse, EchoRequest, EchoResponse
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.launch.tasks import task
from tests.plugin.running import echo_plugin, eventually, hosting, plugged, until, unused_port
from tests.plugin.test_directory_of_hosts import directory
from tests.rpc.echo import Echo

BOTH = pytest.mark.parametrize("here", [False, True], ids=["a process", "a task"])
SHARED = HostConfig(policy=Policy(Rules(services={"echo": ServiceRules(providers=["first", "second"])})))


class Flaky(Echo):
    """Fails as many calls as it is told to."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.calls = 0

    async def echo(self, request: EchoRequest, ctx: Context, /) -> EchoResponse:
        self.calls += 1
        if self.calls <= self.failures:
            raise ConnectError(Code.UNAVAILABLE, "flaky")
        return await super().echo(request, ctx)


async def test_a_call_that_is_given_up_ends_at_the_provider() -> None:
    service = Echo()
    async with hosting() as (host, url), plugged(echo_plugin(service=service), url):
        await host.require("echo").wait_available()
        client = host.client("echo", EchoServiceClient)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.echo, EchoRequest(text="hang"))
            await eventually(lambda: service.contexts)
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await service.cancelled.wait()
        async with client.count(CountRequest(to=99)) as stream:
            await anext(aiter(stream))
        with trio.fail_after(5):
            await service.closed.wait()
        assert host.require("echo")._service.in_flight.in_flight == 0


async def test_the_time_that_a_call_of_the_host_may_take_reaches_the_provider() -> None:
    service = Echo()
    async with hosting() as (host, url), plugged(echo_plugin(service=service), url):
        patient = host.require("echo", policy=CallPolicy(timeout_s=0.3, retry=Retry(attempts=1)))
        await patient.wait_available()
        with pytest.raises(ConnectError) as caught:
            await patient.client(EchoServiceClient).echo(EchoRequest(text="hang"))
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        (context,) = service.contexts
        left_ms = context.timeout_ms
        assert left_ms is not None
        assert left_ms <= 300


async def test_a_call_is_sent_again_only_if_it_may_run_twice() -> None:
    flaky = Flaky(failures=2)
    async with hosting() as (host, url), plugged(echo_plugin(service=flaky), url):
        once = host.require("echo")
        await once.wait_available()
        with pytest.raises(ConnectError, match="flaky"):
            await once.client(EchoServiceClient).echo(EchoRequest())
        assert flaky.calls == 1
        again = host.client(
            "echo", EchoServiceClient, policy=CallPolicy(retry=Retry(idempotent=True, budget=1))
        )
        assert (await again.echo(EchoRequest(text="now"))).text == "now"
        assert flaky.calls == 3


async def test_a_provider_that_fails_the_host_is_left_alone(virtual_time: MockClock) -> None:
    failing = Flaky(failures=1000)
    async with (
        hosting(SHARED) as (host, url),
        plugged(echo_plugin("first", service=failing), url),
        plugged(echo_plugin("second"), url),
    ):
        echo = host.require("echo")
        client = echo.client(EchoServiceClient)
        await eventually(lambda: len(echo._service.group.members) == 2)
        for _ in range(30):
            with suppress(ConnectError):
                await client.echo(EchoRequest(text="x"))
        assert failing.calls == 1
        states = {each.runtime_id.partition("-")[0]: each.state for each in echo.statistics().providers}
        assert states == {"first": BreakerState.OPEN, "second": BreakerState.CLOSED}


async def test_calls_go_on_at_the_others_when_a_provider_is_killed() -> None:
    async with hosting(SHARED) as (host, url), plugged(echo_plugin("second"), url):
        client = host.client("echo", EchoServiceClient)
        async with trio.open_nursery() as killed:
            config = PluginConfig(bind=f"127.0.0.1:{unused_port()}", host_url=url, hostname="127.0.0.1")
            killed.start_soon(partial(echo_plugin("first").serve, config=config))
            await until(host, lambda: host.registry.callable_count("echo") == 2)
            killed.cancel_scope.cancel()
        for _ in range(20):
            assert (await client.echo(EchoRequest(text="x"))).text == "x"


async def test_a_stream_ends_with_an_error_when_its_provider_is_revoked() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url):
        echo = host.require("echo")
        provider = await echo.wait_available()
        with trio.fail_after(5), pytest.raises(ConnectError) as caught:
            async with echo.client(EchoServiceClient).count(CountRequest(to=99)) as stream:
                async for _ in stream:
                    await host.revoke_identity(provider.id)
        assert caught.value.code != Code.UNAUTHENTICATED, "the host's own identity has not ended"
        assert fault_of(caught.value) is not Fault.CALLER


async def test_the_context_of_the_program_goes_on_with_the_calls_of_its_host() -> None:
    seen: list[str] = []

    class Noting(Echo):
        async def echo(self, request: EchoRequest, ctx: Context, /) -> EchoResponse:
            seen.append(current().request_id)
            return await super().echo(request, ctx)

    async with hosting() as (host, url), plugged(echo_plugin(service=Noting()), url):
        await host.require("echo").wait_available()
        client = host.client("echo", EchoServiceClient)
        await client.echo(EchoRequest(), headers={"x-request-id": "mine"})
        await client.echo(EchoRequest())
        assert seen[0] == "mine"
        assert seen[1], "a call without one gets one"


async def test_a_host_calls_providers_that_another_host_of_its_directory_keeps() -> None:
    async with directory(2) as (first, second), plugged(echo_plugin(), first.url):
        echo = second.host.require("echo")
        with trio.fail_after(20):
            await echo.wait_available()
        assert (await echo.client(EchoServiceClient).echo(EchoRequest(text="far"))).text == "far"


async def test_a_call_whose_provider_goes_is_no_call_of_a_host_whose_identity_has_ended() -> None:
    service = Echo()
    async with hosting() as (host, url), plugged(echo_plugin(service=service), url):
        echo = host.require("echo")
        provider = await echo.wait_available()
        async with trio.open_nursery() as nursery:

            async def revoke() -> None:
                await eventually(lambda: service.contexts)
                await host.revoke_identity(provider.id)

            nursery.start_soon(revoke)
            with pytest.raises(ConnectError) as caught:
                await echo.client(EchoServiceClient).echo(EchoRequest(text="hang"))
        assert caught.value.code == Code.UNAVAILABLE


@asynccontextmanager
async def stopping(service: Slow, grace_s: float, *, here: bool) -> AsyncIterator[tuple[Host, trio.Event]]:
    """Run a host, and a plugin as a task or as if it were a process, until the host has stopped."""
    host, stop = Host(HostConfig(serve=ServeConfig(grace_s=grace_s))), trio.Event()
    async with trio.open_nursery() as nursery:
        url, *_ = await nursery.start(partial(host.serve, stop, bind="127.0.0.1:0"))
        plugin = echo_plugin(service=service)
        async with task(host, plugin) if here else plugged(plugin, url):
            await host.require("echo").wait_available()
            yield host, stop


async def test_calls_in_flight_have_the_grace_of_the_host_that_stops() -> None:
    service = Slow()
    async with (
        stopping(service, 10.0, here=True) as (host, stop),
        host.client("echo", EchoServiceClient).count(CountRequest(to=1)) as stream,
    ):
        numbers = aiter(stream)
        assert (await anext(numbers)).number == 7
        stop.set()
        await trio.sleep(0.1)
        service.go_on.set()
        assert [each.number async for each in numbers] == [8]


@BOTH
async def test_calls_end_with_an_error_when_the_grace_of_the_host_is_over(*, here: bool) -> None:
    async with stopping(Slow(), 0.1, here=here) as (host, stop):
        with trio.fail_after(5), pytest.raises(ConnectError):
            async with host.client("echo", EchoServiceClient).count(CountRequest(to=1)) as stream:
                async for _ in stream:
                    stop.set()


class Slow(Echo):
    """Sends one number, and another one when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.go_on = trio.Event(), trio.Event()

    async def count(self, _request: CountRequest, _ctx: Context, /) -> AsyncIterator[CountResponse]:
        yield CountResponse(number=7)
        self.called.set()
        await self.go_on.wait()
        yield CountResponse(number=8)
