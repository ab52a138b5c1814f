"""Hosts in memory: what a test of a plugin needs, without sockets and in no time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from cpg_trio import ConnectError, HealthState, Plugin, Policy
from cpg_trio.host import HostConfig
from cpg_trio.host.access import Action
from cpg_trio.host.access.policy import PluginRules, Rules
from cpg_trio.rpc import Code, Context
from cpg_trio.testing import open_host
from tests._gen.echo.v1.echo_pb2 import CountRequest, CountResponse, EchoRequest, EchoResponse
from tests._gen.echo.v1.echo_trio import EchoService, EchoServiceClient


class Telling(EchoService):
    """Says who calls, and counts for ever."""

    async def echo(self, request: EchoRequest, ctx: Context, /) -> EchoResponse:
        return EchoResponse(text=f"{request.text} of {ctx.caller.name if ctx.caller else 'nobody'}")

    async def count(self, _request: CountRequest, _ctx: Context, /) -> AsyncIterator[CountResponse]:
        for number in range(1_000_000):
            yield CountResponse(number=number)
            await trio.sleep(60)


class Passing(EchoService):
    """Asks another echo."""

    def __init__(self, other: EchoServiceClient) -> None:
        self._other = other

    async def echo(self, request: EchoRequest, _ctx: Context, /) -> EchoResponse:
        return await self._other.echo(request)


@pytest.fixture
def plugin() -> Plugin:
    """Return a plugin that requires a service."""
    plugin = Plugin("passing-plugin", version="1.0.0")
    plugin.provide("passing", Passing(plugin.require("echo").client(EchoServiceClient)))
    return plugin


async def test_a_plugin_calls_what_takes_the_place_of_its_dependency(
    plugin: Plugin, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_host() as host:
        await host.fake("echo", Telling())
        await host.start(plugin)
        client = await host.client("passing", EchoServiceClient)
        assert (await client.echo(EchoRequest(text="a call"))).text == "a call of passing-plugin"


async def test_the_caller_is_who_the_test_says(autojump_clock: trio.testing.MockClock) -> None:
    async with open_host() as host:
        await host.fake("echo", Telling())
        client = await host.client("echo", EchoServiceClient, caller="shop-plugin")
        assert (await client.echo(EchoRequest(text="a call"))).text == "a call of shop-plugin"


async def test_in_virtual_time_no_time_passes_until_a_plugin_without_services_is_healthy(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_host() as host:
        began = trio.current_time()
        await host.start(Plugin("caller-plugin", version="1.0.0"))
        assert trio.current_time() - began < 1


async def test_a_dependency_goes_and_comes_back(
    plugin: Plugin, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_host() as host:
        started = await host.start(plugin, until=HealthState.DEGRADED)
        assert "echo" in started.reason
        echo = await host.fake("echo", Telling())
        await started.until(HealthState.HEALTHY)
        await echo.kill()  # and so it is missed when its lease has ended
        await started.until(HealthState.DEGRADED)
        await host.fake("echo", Telling())
        await started.until(HealthState.HEALTHY)


async def test_the_rules_of_the_host_hold_for_the_caller(autojump_clock: trio.testing.MockClock) -> None:
    rules = Rules(plugins={"stranger": PluginRules(calls=[])})
    config = HostConfig(policy=Policy(rules))
    async with open_host(config) as host:
        await host.fake("echo", Telling())
        friend = await host.client("echo", EchoServiceClient, caller="friend")
        assert (await friend.echo(EchoRequest(text="it"))).text == "it of friend"
        with host.capture_audit() as decisions:
            stranger = await host.client("echo", EchoServiceClient, caller="stranger")
            with pytest.raises(ConnectError) as caught:
                await stranger.echo(EchoRequest(text="it"))
        assert caught.value.code in {Code.PERMISSION_DENIED, Code.UNAVAILABLE}
        assert any(not each.allowed and each.subject.startswith("stranger") for each in decisions)


async def test_calls_and_decisions_are_captured(
    plugin: Plugin, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_host() as host:
        with host.capture_audit() as decisions:
            await host.fake("echo", Telling())
            await host.start(plugin)
        client = await host.client("passing", EchoServiceClient)
        with host.capture_calls() as calls:
            await client.echo(EchoRequest(text="a call"))
        await client.echo(EchoRequest(text="another one"))
        assert [(call.service, call.method, call.code) for call in calls] == [
            ("echo", "Echo", "ok"),
            ("passing", "Echo", "ok"),
        ]
        assert Action.HANDSHAKE in {each.action for each in decisions}
        assert [each.target for each in decisions if each.action is Action.REGISTER] == ["echo", "passing"]


async def test_renewals_pass_in_no_time(plugin: Plugin, autojump_clock: trio.testing.MockClock) -> None:
    async with open_host() as host:
        await host.fake("echo", Telling())
        started = await host.start(plugin)
        runtime_id = started.runtime_id
        with host.capture_audit() as decisions:
            await trio.sleep(20 * 60)
        assert (started.health, started.runtime_id) == (HealthState.HEALTHY, runtime_id)
        assert sum(each.action is Action.RENEW for each in decisions) > 0


async def test_a_stop_ends_streams_when_the_grace_is_over(autojump_clock: trio.testing.MockClock) -> None:
    async with open_host() as host:
        echo = await host.fake("echo", Telling())
        client = await host.client("echo", EchoServiceClient)
        with pytest.raises(ConnectError):
            async with client.count(CountRequest()) as numbers, trio.open_nursery() as nursery:
                assert (await anext(aiter(numbers))).number == 0
                nursery.start_soon(echo.stop)
                async for _ in numbers:
                    pass
        await echo.stop()
        assert not echo.is_running
        assert not host.host.registry.providers("echo")


async def test_what_is_not_reached_is_said(plugin: Plugin, autojump_clock: trio.testing.MockClock) -> None:
    async with open_host() as host:
        with pytest.raises(AssertionError, match=r"does not report healthy, but degraded .*echo"):
            await host.start(plugin)


async def test_a_plugin_says_how_it_is(autojump_clock: trio.testing.MockClock) -> None:
    async with open_host() as host:
        plugin = Plugin("echo-plugin", version="1.0.0")
        plugin.provide("echo", Telling())
        started = await host.start(plugin)
        plugin.set_health(HealthState.UNHEALTHY, "the disk is full")
        await started.until(HealthState.UNHEALTHY)
        assert started.reason == "the disk is full"
