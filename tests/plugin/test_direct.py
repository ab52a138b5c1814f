"""Direct calls: a plugin calls its provider without the host in between, with leave of the host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from cpg_trio import wire
from cpg_trio._cell import Cell
from cpg_trio.host import Host, HostConfig, PluginRules, Policy, Rules
from cpg_trio.host.access import Rate
from cpg_trio.host.access.rate_limiting import TokenBuckets
from cpg_trio.http import Pool
from cpg_trio.plugin import Dependency, Plugin, PluginConfig
from cpg_trio.plugin._session import SessionProvider
from cpg_trio.plugin.direct import Direct, RequestPace, report_of
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError, Fault, PoolClient, fault_of
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.descriptors import none_left
from tests.plugin.running import echo_plugin, eventually, goes_directly, grant_of, hosting, plugged
from tests.rpc.echo import Echo

BROKER = "/connectplugin.v1.CapabilityBroker/RequestCapability"
ECHO = "/echo.v1.EchoService/Echo"


@attrs.frozen
class Setting:
    """A host, a provider of `echo`, and a plugin that calls it directly."""

    host: Host
    url: str
    echo: Echo
    provider_url: str
    dependency: Dependency
    client: EchoServiceClient

    @property
    def routed(self) -> int:
        return self.host.statistics().router.calls

    @property
    def runtime_id(self) -> str:
        assert self.dependency._service.provider is not None
        return self.dependency._service.provider.runtime_id

    async def goes_directly(self) -> None:
        await goes_directly(self.dependency)

    def change_grant(self, **changes: Any) -> None:
        known = self.dependency._service.direct._providers[self.runtime_id]
        assert known.grant is not None
        known.grant = attrs.evolve(known.grant, **changes)


@asynccontextmanager
async def calling(
    config: HostConfig | None = None, *, heartbeat_s: float = 5.0, direct_calls: bool = True
) -> AsyncIterator[Setting]:
    provider, caller, echo = Plugin("echo-plugin", version="1.0.0"), Plugin("caller", version="1.0.0"), Echo()
    provider.provide("echo", echo)
    dependency = caller.require("echo")
    async with (
        hosting(config) as (host, url),
        plugged(provider, url) as provider_url,
        plugged(caller, url, heartbeat_s=heartbeat_s, direct_calls=direct_calls),
    ):
        with trio.fail_after(10):
            await dependency.wait_available()
        yield Setting(host, url, echo, provider_url, dependency, dependency.client(EchoServiceClient))


async def test_a_call_goes_to_the_provider_and_says_who_calls() -> None:
    async with calling() as setting:
        await setting.goes_directly()
        assert (await setting.client.echo(EchoRequest(text="✓"))).text == "✓"
        async with setting.client.count(CountRequest(to=3)) as stream:
            assert [m.number async for m in stream] == [0, 1, 2]
        with pytest.raises(ConnectError) as caught:
            await setting.client.echo(EchoRequest(text="fail"))
        assert caught.value.code == Code.ALREADY_EXISTS
        assert setting.routed == 0
        caller = setting.echo.contexts[0].caller
        assert caller is not None
        assert caller.name == "caller"
        headers = setting.echo.contexts[0].request_headers
        assert wire.AUTHORIZATION_HEADER not in headers


async def test_calls_go_through_the_host_unless_the_plugin_wants_otherwise() -> None:
    async with calling(direct_calls=False) as setting:
        await setting.client.echo(EchoRequest(text="x"))
        assert setting.routed == 1


async def test_leave_from_before_a_suspend_is_not_used_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with calling() as setting:
        await setting.goes_directly()
        after = SimpleNamespace(current_time=lambda: trio.current_time() + 120)
        monkeypatch.setattr("cpg_trio.plugin.direct._clock", after)
        await setting.client.echo(EchoRequest(text="x"))
        assert setting.routed == 1


def test_that_calls_go_directly_is_said_in_the_environment() -> None:
    assert PluginConfig.from_environment(0, {"DIRECT_CALLS": "true"}).direct_calls
    assert not PluginConfig.from_environment(0, {}).direct_calls


async def test_calls_go_through_the_host_where_the_policy_gives_no_leave() -> None:
    policy = Policy(Rules(plugins={"caller": PluginRules(direct=[])}))
    async with calling(HostConfig(policy=policy)) as setting:
        await setting.client.echo(EchoRequest(text="x"))
        assert setting.routed == 1
        assert grant_of(setting.dependency) is None


async def test_the_host_counts_what_its_plugins_call_directly() -> None:
    async with calling(heartbeat_s=0.1) as setting:
        await setting.goes_directly()
        for _ in range(3):
            await setting.client.echo(EchoRequest(text="x"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hang, setting.client)
            await eventually(lambda: setting.host.statistics().direct.calls == 4)
            assert setting.host.statistics().direct.in_flight == 1
            assert setting.host.registry.calls.count(setting.runtime_id) == 1
            nursery.cancel_scope.cancel()
        await eventually(lambda: setting.host.statistics().direct.failed == 1)
        assert setting.host.statistics().direct.in_flight == 0
        assert setting.routed == 0


async def _hang(client: EchoServiceClient) -> None:
    await client.echo(EchoRequest(text="hang"))


async def test_a_call_that_cannot_connect_goes_through_the_host() -> None:
    async with calling() as setting:
        await setting.goes_directly()
        setting.change_grant(url="http://127.0.0.1:1/echo.v1.EchoService/")
        assert (await setting.client.echo(EchoRequest(text="✓"))).text == "✓"
        assert setting.routed == 1
        assert len(setting.echo.contexts) == 1


async def test_a_call_that_the_guard_refuses_goes_through_the_host_and_is_made_once() -> None:
    async with calling() as setting:
        for request in (setting.client.echo, partial(_first_number, setting.client)):
            await setting.goes_directly()
            grant = grant_of(setting.dependency)
            assert grant is not None
            setting.change_grant(headers={**grant.headers, "authorization": "Bearer forged"})
            setting.echo.contexts.clear()
            before = setting.routed
            await request(EchoRequest(text="x"))
            assert len(setting.echo.contexts) == 1
            assert setting.routed == before + 1
            assert grant_of(setting.dependency) is None
            grant.failed.set()


async def _first_number(client: EchoServiceClient, _: EchoRequest) -> None:
    async with client.count(CountRequest(to=1)) as stream:
        assert [m.number async for m in stream] == [0]


async def test_a_call_that_may_have_been_made_is_not_made_again() -> None:
    async with calling() as setting:
        await setting.goes_directly()
        with pytest.raises(ConnectError) as caught:
            await setting.client.echo(EchoRequest(text="explode"))
        assert caught.value.code == Code.INTERNAL
        assert len(setting.echo.contexts) == 1
        assert setting.routed == 0


async def test_calls_move_to_another_provider_without_a_failure() -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    answered = Cell(0)

    async def load() -> None:
        while True:
            assert (await client.echo(EchoRequest(text="x"))).text == "x"
            answered.set(answered.value + 1)

    def provider() -> Plugin:
        plugin = Plugin("echo-plugin", version="1.0.0")
        plugin.provide("echo", Echo())
        return plugin

    async with (
        hosting() as (host, url),
        plugged(caller, url, direct_calls=True),
        trio.open_nursery() as nursery,
    ):
        stop = trio.Event()
        async with plugged(provider(), url, stop=stop):
            first = await echo.wait_available()
            await goes_directly(echo)
            nursery.start_soon(load)
            async with plugged(provider(), url):
                await eventually(lambda: len(host.registry.providers("echo")) == 2)
                stop.set()
                await eventually(
                    lambda: echo._service.provider and echo._service.provider.runtime_id != first.id
                )
                await goes_directly(echo)
                before = answered.value
                await eventually(lambda: answered.value > before + 10)
                nursery.cancel_scope.cancel()


async def test_a_call_in_flight_ends_when_the_host_says_that_its_provider_is_gone() -> None:
    async with calling() as setting:
        await setting.goes_directly()
        gone = partial(setting.host.revoke_identity, setting.runtime_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_when_called, setting.echo, gone)
            with trio.fail_after(10), pytest.raises(ConnectError, match="the provider is gone") as caught:
                await setting.client.echo(EchoRequest(text="hang"))
        assert (caught.value.code, fault_of(caught.value)) == (Code.UNAVAILABLE, Fault.PROVIDER)


async def test_a_stream_breaks_off_when_the_host_says_that_its_provider_is_gone() -> None:
    async with calling() as setting:
        await setting.goes_directly()
        runtime_id, numbers = setting.runtime_id, []
        with trio.fail_after(10), pytest.raises(ConnectError, match="the provider is gone") as caught:
            async with setting.client.count(CountRequest(to=99)) as stream:
                async for message in stream:
                    numbers.append(message.number)
                    if len(numbers) == 99:
                        await setting.host.revoke_identity(runtime_id)
        assert caught.value.code == Code.UNAVAILABLE


async def _when_called(echo: Echo, do: Callable[[], Awaitable[None]]) -> None:
    await eventually(lambda: echo.contexts)
    await do()


@asynccontextmanager
async def several(number: int) -> AsyncIterator[tuple[Dependency, Cell[Mapping[str, SessionProvider]]]]:
    """Run providers, and a plugin that may call all of them directly."""
    caller = Plugin("caller", version="1.0.0")
    dependency = caller.require("echo")
    async with hosting() as (host, url), AsyncExitStack() as stack:
        for _ in range(number):
            await stack.enter_async_context(plugged(echo_plugin(), url))
        await stack.enter_async_context(plugged(caller, url, direct_calls=True))
        session = (await dependency._service.wait_available()).session
        told = [
            SessionProvider.at(session, pb.ServiceEndpoint(provider_id=each.runtime_id, endpoint_url="/x"))
            for each in host.registry.providers("echo")
        ]
        dependency._service.providers.set({each.runtime_id: each for each in told})
        yield dependency, dependency._service.providers


async def test_each_provider_has_a_grant_of_its_own_until_it_leaves() -> None:
    async with several(3) as (dependency, providers):
        first, *others = providers.value.values()
        await eventually(lambda: all(dependency._service.direct.grant_for(each) for each in (first, *others)))
        urls = {
            grant.url for each in (first, *others) if (grant := dependency._service.direct.grant_for(each))
        }
        assert len(urls) == 3
        kept = dependency._service.direct.grant_for(others[0])
        providers.set({each.runtime_id: each for each in others})
        await eventually(lambda: dependency._service.direct.grant_for(first) is None)
        assert dependency._service.direct.grant_for(others[0]) is kept


async def test_of_many_providers_those_have_a_grant_that_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpg_trio.host.capabilities.broker.GRANT_S", 0.5)
    monkeypatch.setattr("cpg_trio.plugin.direct._FEW", 1)
    async with several(3) as (dependency, providers):
        called, other, _ = providers.value.values()
        for _ in range(2):
            await eventually(lambda: dependency._service.direct.grant_for(called) is not None)
            assert dependency._service.direct._providers[other.runtime_id].grant is None
            # Nothing calls it: the grant is not renewed.
            await eventually(lambda: dependency._service.direct._providers[called.runtime_id].grant is None)


async def test_a_grant_is_kept_when_the_caller_cannot_connect_for_a_reason_of_its_own() -> None:
    async with calling() as setting, Pool() as fresh:
        await setting.client.echo(EchoRequest(text="x"))
        await setting.goes_directly()
        before = setting.routed
        setting.change_grant(http=PoolClient(fresh, peer=Fault.PROVIDER))
        grant = grant_of(setting.dependency)
        with none_left():
            assert (await setting.client.echo(EchoRequest(text="x"))).text == "x"
        assert setting.routed == before + 1
        assert grant_of(setting.dependency) is grant


async def test_grants_are_not_requested_faster_than_a_host_allows(autojump_clock: MockClock) -> None:
    del autojump_clock
    pace, limit = RequestPace(), TokenBuckets(Rate(10, 20))
    for idle_s in (0.0, 100.0, 1.0):
        await trio.sleep(idle_s)
        began = trio.current_time()
        for _ in range(60):
            await pace.turn()
            assert limit.take("plugin") == 0
        assert trio.current_time() - began < 60 / 5


def test_every_count_is_reported_in_turn_within_the_bound_of_a_report() -> None:
    dependencies = [Direct("caller", f"service-{number}") for number in range(6)]
    for each in dependencies:
        for number in range(20):
            each._count_of(f"provider-{number}").calls = 1
        each._count_of("never called")
    before = report_of(dependencies)
    for _ in range(5):
        now = report_of(dependencies)
        assert len(now) == 100
        assert len({(each.service_type, each.provider_id) for each in (*before, *now)}) == 120
        before = now


def test_counts_are_bounded_and_those_of_calls_in_flight_are_kept_longest() -> None:
    direct = Direct("caller", "echo")
    busy = direct._count_of("busy")
    busy.in_flight.add(cast("Any", object()))
    for number in range(200):
        direct._count_of(f"provider-{number}")
    assert len(list(direct.counts())) == 64
    assert direct._count_of("busy") is busy


@pytest.mark.parametrize("direct_calls", [True, False])
async def test_direct_calls_are_balanced_as_routed_ones_are(*, direct_calls: bool) -> None:
    services = [Echo() for _ in range(3)]
    callers = [Plugin("caller", version="1.0.0") for _ in range(30)]
    dependencies = [caller.require("echo") for caller in callers]
    async with hosting() as (host, url), AsyncExitStack() as stack:
        for service in services:
            await stack.enter_async_context(plugged(echo_plugin(service=service), url))
        for caller in callers:
            await stack.enter_async_context(plugged(caller, url, direct_calls=direct_calls))
        await eventually(lambda: all(len(each._service.providers.value) == 3 for each in dependencies))
        if direct_calls:
            await eventually(lambda: all(map(_calls_all_directly, dependencies)))
        async with trio.open_nursery() as nursery:
            for dependency in dependencies:
                nursery.start_soon(_call_often, dependency.client(EchoServiceClient))
        shares = [len(service.contexts) / (30 * 20) for service in services]
        assert sum(shares) == pytest.approx(1.0)
        assert all(0.2 < share < 0.5 for share in shares)
        assert host.statistics().router.calls == (0 if direct_calls else 30 * 20)


def _calls_all_directly(dependency: Dependency) -> bool:
    return all(
        dependency._service.direct.grant_for(each) for each in dependency._service.providers.value.values()
    )


async def _call_often(client: EchoServiceClient) -> None:
    for _ in range(20):
        assert (await client.echo(EchoRequest(text="x"))).text == "x"
