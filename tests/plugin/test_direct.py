"""Direct calls: a plugin calls its provider without the host in between, with leave of the host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace

import attrs
import httpx
import pytest
import trio

from cpg_trio import wire
from cpg_trio._cell import Cell
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.host import Action, AuditEvent, Host, HostConfig, PluginRules, Policy, Rules
from cpg_trio.host.access.identity import Identities
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.routing.direct_calls import DirectGrants, DirectTally, NotDirectlyError
from cpg_trio.plugin import Dependency, Plugin, PluginConfig
from cpg_trio.rpc import Code, ConnectError
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.calls import WireCaller
from tests.plugin.running import eventually, hosting, plugged
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
        assert self.dependency.provider is not None
        return self.dependency.provider.runtime_id

    async def goes_directly(self) -> None:
        await eventually(lambda: self.dependency.direct._way is not None)


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
        assert setting.dependency.direct._way is None


async def test_the_host_counts_what_its_plugins_call_directly() -> None:
    async with calling(heartbeat_s=0.1) as setting:
        await setting.goes_directly()
        for _ in range(3):
            await setting.client.echo(EchoRequest(text="x"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hang, setting.client)
            await eventually(lambda: setting.host.statistics().direct.calls == 4)
            assert setting.host.statistics().direct.in_flight == 1
            assert setting.host.registry.calls_in_flight(setting.runtime_id) == 1
            nursery.cancel_scope.cancel()
        await eventually(lambda: setting.host.statistics().direct.failed == 1)
        assert setting.host.statistics().direct.in_flight == 0
        assert setting.routed == 0


async def _hang(client: EchoServiceClient) -> None:
    await client.echo(EchoRequest(text="hang"))


async def test_a_call_that_cannot_connect_goes_through_the_host() -> None:
    async with calling() as setting:
        await setting.goes_directly()
        way = setting.dependency.direct._way
        assert way is not None
        setting.dependency.direct._way = attrs.evolve(way, url="http://127.0.0.1:1/echo.v1.EchoService/")
        assert (await setting.client.echo(EchoRequest(text="✓"))).text == "✓"
        assert setting.routed == 1
        assert len(setting.echo.contexts) == 1


async def test_a_call_that_the_guard_refuses_goes_through_the_host_and_is_made_once() -> None:
    async with calling() as setting:
        for request in (setting.client.echo, partial(_first_number, setting.client)):
            await setting.goes_directly()
            way = setting.dependency.direct._way
            assert way is not None
            forged = {**way.headers, "authorization": "Bearer forged"}
            setting.dependency.direct._way = attrs.evolve(way, headers=forged)
            setting.echo.contexts.clear()
            before = setting.routed
            await request(EchoRequest(text="x"))
            assert len(setting.echo.contexts) == 1
            assert setting.routed == before + 1
            assert setting.dependency.direct._way is not way
            way.broken.set()


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
            await eventually(lambda: echo.direct._way is not None)
            nursery.start_soon(load)
            async with plugged(provider(), url):
                await eventually(lambda: len(host.registry.providers("echo")) == 2)
                stop.set()
                await eventually(lambda: echo.provider and echo.provider.runtime_id != first.runtime_id)
                await eventually(lambda: echo.direct._way and echo.direct._way.provider is echo.provider)
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
        assert caught.value.code == Code.UNAVAILABLE


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


# Who gets leave


@attrs.frozen
class Asking(WireCaller):
    """A host with a provider of `echo` that takes direct calls, and how to ask for leave."""

    host: Host
    provider_url: str

    async def ask(self, headers: dict[str, str], service_type: str = "echo", **more: str) -> tuple[int, str]:
        status, answer = await self.post(
            BROKER, {"capabilityType": f"service:{service_type}", **more}, headers
        )
        return status, answer.get("message", "")

    async def declared(self, self_id: str, requires: str) -> dict[str, str]:
        """Return the headers of a plugin that has declared what it requires."""
        said = await self.post(
            "/connectplugin.v1.HandshakeService/Handshake",
            {
                "coreProtocolVersion": 1,
                "appProtocolVersion": 1,
                "magicCookieKey": wire.COOKIE_KEY,
                "magicCookieValue": wire.COOKIE_VALUE,
                "selfId": self_id,
                "clientMetadata": {"requires": requires, "provides": ""},
            },
        )
        return {
            "X-Plugin-Runtime-ID": said[1]["runtimeId"],
            "Authorization": f"Bearer {said[1]['runtimeToken']}",
        }


@asynccontextmanager
async def asking(config: HostConfig | None = None) -> AsyncIterator[Asking]:
    provider = Plugin("echo-plugin", version="1.2.0")
    provider.provide("echo", Echo())
    async with (
        hosting(config) as (host, url),
        plugged(provider, url) as provider_url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        await eventually(lambda: host.registry.available("echo"))
        yield Asking(http, host, provider_url)


async def test_leave_opens_the_one_service_of_the_one_provider_for_its_owner() -> None:
    async with asking() as setting:
        mine = await setting.plugin("app")
        status, answer = await setting.post(BROKER, {"capabilityType": "service:echo"}, mine)
        assert status == 200
        grant = answer["grant"]
        provider = setting.host.registry.status("echo").provider
        assert provider is not None
        assert grant["endpointUrl"] == f"{setting.provider_url}/echo.v1.EchoService/"
        assert (grant["providerId"], grant["version"]) == (provider.runtime_id, "1.2.0")
        assert grant["expiresInMs"] == "60000"
        proof = {**mine, "Authorization": f"Bearer {grant['bearerToken']}"}
        url = f"{setting.provider_url}{ECHO}"
        assert (await setting.http.post(url, json={"text": "x"}, headers=proof)).status_code == 200
        theirs = {**proof, "X-Plugin-Runtime-ID": (await setting.plugin("thief"))["X-Plugin-Runtime-ID"]}
        for headers in (theirs, mine, {}):
            response = await setting.http.post(url, json={"text": "x"}, headers=headers)
            assert response.status_code == 401
            assert response.headers[wire.UNDELIVERED_HEADER] == "true"
        shut = f"{setting.provider_url}/connectplugin.v1.PluginControl/Shutdown"
        assert (await setting.http.post(shut, json={}, headers=proof)).status_code == 401


async def test_leave_that_is_renewed_is_one_event_in_the_audit_trail() -> None:
    async with asking() as setting:
        events: list[AuditEvent] = []
        setting.host.audit.subscribe(events.append)
        app = await setting.plugin("app")
        for _ in range(3):
            assert (await setting.ask(app))[0] == 200
        assert (await setting.ask(app, minVersion="9.0.0"))[0] == 400
        stranger = await setting.declared("stranger", requires="storage")
        assert (await setting.ask(stranger))[0] == 403
        granted = [event for event in events if event.action == Action.GRANT]
        assert [(event.allowed, event.subject.split("-")[0]) for event in granted] == [
            (True, "app"),
            (False, "stranger"),
        ]


async def test_a_plugin_gets_no_leave_for_what_it_has_not_declared() -> None:
    async with asking() as setting:
        other = await setting.declared("app", requires="storage")
        assert (await setting.ask(other))[0] == 403
        assert (await setting.ask({}))[0] == 400
        assert (await setting.ask(await setting.declared("app", requires="echo")))[0] == 200


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"service_type": "nobody"}, 400, 'no providers for service "nobody"'),
        ({"service_type": "../x"}, 400, "invalid characters"),
        ({"minVersion": "2.0.0"}, 400, "no compatible providers"),
        ({"minVersion": "newest"}, 400, "must be semantic version"),
        ({"providerId": "echo-plugin-0"}, 400, "echo-plugin-0 does not provide echo"),
        ({"providerId": "x" * 300}, 400, "provider_id too long"),
    ],
)
async def test_who_cannot_be_called_directly_is_not_and_it_is_said_why(
    asked: dict[str, str], status: int, said: str
) -> None:
    async with asking() as setting:
        answer = await setting.ask(await setting.plugin("app"), **asked)
        assert answer[0] == status
        assert said in answer[1]


async def test_a_provider_that_cannot_check_who_calls_is_not_called_directly() -> None:
    async with asking() as setting:
        await setting.provider("plain", "http://127.0.0.1:9")
        status, message = await setting.ask(await setting.plugin("app"), "plain")
        assert status == 400
        assert "does not take calls but through the host" in message


def test_nobody_elsewhere_is_sent_to_its_own_loopback() -> None:
    identities, registry = Identities(clock=lambda: 0.0), Registry()
    provider, _ = identities.issue("echo-plugin", address="127.0.0.1")
    metadata = {"base_url": "http://127.0.0.1:8081", wire.DIRECT_KEY: "true"}
    registry.register(provider.runtime_id, "echo", "1.0.0", "/e/", metadata)
    grants = DirectGrants(identities, registry)
    here, _ = identities.issue("app", address="127.0.0.1")
    assert grants.issue(here, "echo").endpoint_url == "http://127.0.0.1:8081/e/"
    there, _ = identities.issue("app", address="192.0.2.7")
    with pytest.raises(NotDirectlyError, match="host's own machine only"):
        grants.issue(there, "echo")


def test_a_caller_is_sent_where_the_host_has_looked() -> None:
    identities, registry = Identities(clock=lambda: 0.0), Registry()
    provider, _ = identities.issue("echo-plugin", address="192.0.2.1")
    metadata = {"base_url": "http://echo.example:8081/base", wire.DIRECT_KEY: "true"}
    registry.register(provider.runtime_id, "echo", "1.0.0", "/e e/", metadata, address="192.0.2.1")
    caller, _ = identities.issue("app", address="192.0.2.7")
    grant = DirectGrants(identities, registry).issue(caller, "echo", "1.0.0", provider.runtime_id)
    assert grant.endpoint_url == "http://192.0.2.1:8081/base/e%20e/"
    assert "token" not in repr(grant)


# What is reported


def calls(provider: str, series: int, *numbers: int, service_type: str = "echo") -> pb.DirectCalls:
    begun, failed, in_flight = numbers
    return pb.DirectCalls(
        service_type=service_type,
        provider_id=provider,
        series=series,
        calls=begun,
        failed=failed,
        in_flight=in_flight,
    )


def test_a_report_that_is_lost_or_repeated_or_late_counts_once() -> None:
    tally = DirectTally()
    for numbers in ((5, 1, 2), (5, 1, 2), (20, 3, 1), (9, 1, 4), (20, 3, 0)):
        tally.report("app-1", [calls("echo-1", 7, *numbers)])
    assert attrs.astuple(tally.statistics()) == (20, 0, 3)
    tally.report("app-1", [calls("echo-1", 8, 2, 0, 1)])
    assert attrs.astuple(tally.statistics()) == (22, 1, 3)
    assert tally.in_flight("echo-1") == 1
    tally.forget("app-1")
    assert attrs.astuple(tally.statistics()) == (22, 0, 3)


def test_a_report_of_many_services_is_a_few_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cpg_trio.router")
    tally = DirectTally()
    tally.report("caller", [calls(f"echo-{number}", 7, 1, 0, 0) for number in range(100)])
    assert tally.statistics().calls == 100
    assert len(caplog.messages) == 11
    assert caplog.messages[-1] == "[DIRECT] caller → 90 more providers of services"


def test_what_is_kept_of_reports_is_bounded_and_goes_with_either_plugin() -> None:
    tally = DirectTally(most=2)
    for provider in ("echo-1", "echo-2", "echo-3"):
        tally.report("app-1", [calls(provider, 7, 5, 0, 1)])
    assert [tally.in_flight(provider) for provider in ("echo-1", "echo-2", "echo-3")] == [1, 1, 0]
    assert attrs.astuple(tally.statistics()) == (10, 2, 0)
    tally.forget("echo-1")
    tally.report("app-2", [calls("echo-2", 7, 5, 0, 2)])
    assert attrs.astuple(tally.statistics()) == (15, 3, 0)
    for gone in ("echo-2", "app-1", "app-2"):
        tally.forget(gone)
    assert attrs.astuple(tally.statistics()) == (15, 0, 0)
    assert (tally._said, tally._callers, tally._in_flight, tally._pairs) == ({}, {}, {}, 0)


def test_no_caller_has_all_that_is_kept_of_reports() -> None:
    tally = DirectTally(most=5000)
    for number in range(1500):
        tally.report("app-1", [calls(f"echo-{number}", 7, 5, 0, 1)])
    assert attrs.astuple(tally.statistics()) == (5000, 1000, 0)
    tally.report("app-2", [calls("echo-1", 7, 5, 0, 1)])
    assert tally.in_flight("echo-1") == 2


async def report(setting: Asking, headers: dict[str, str], *said: pb.DirectCalls) -> int:
    request = pb.ReportHealthRequest(state=pb.HEALTH_STATE_HEALTHY, direct_calls=said)
    response = await setting.http.post(
        "/connectplugin.v1.PluginLifecycle/ReportHealth",
        content=request.SerializeToString(),
        headers={**headers, "Content-Type": "application/proto"},
    )
    return response.status_code


async def test_no_plugin_turns_callers_away_from_a_provider_by_what_it_reports() -> None:
    async with asking() as setting:
        provider = setting.host.registry.status("echo").provider
        assert provider is not None
        stranger = await setting.declared("stranger", requires="storage")
        app = await setting.declared("app", requires="echo")
        lie = calls(provider.runtime_id, 1, 2**60, 0, 2**60)
        assert await report(setting, stranger, lie) == 200
        assert setting.host.registry.calls_in_flight(provider.runtime_id) == 0
        for nobody in (calls("echo-0", 1, 5, 0, 5), calls(provider.runtime_id, 1, 5, 0, 5, service_type="x")):
            assert await report(setting, app, nobody) == 200
        assert setting.host.statistics().direct.calls == 0
        assert await report(setting, app, lie) == 200
        assert setting.host.registry.calls_in_flight(provider.runtime_id) == 1000
        await setting.host.revoke_identity(app["X-Plugin-Runtime-ID"])
        assert setting.host.registry.calls_in_flight(provider.runtime_id) == 0


async def test_a_report_that_makes_no_sense_is_refused_and_changes_nothing() -> None:
    async with asking() as setting:
        provider = setting.host.registry.status("echo").provider
        assert provider is not None
        app = await setting.plugin("app")
        more_ended_than_begun = calls(provider.runtime_id, 1, 2, 2, 1)
        assert (
            await report(setting, app, calls(provider.runtime_id, 1, 1, 0, 0), more_ended_than_begun) == 400
        )
        assert await report(setting, app, *[calls("echo-0", 1, 1, 0, 0)] * 101) == 400
        assert setting.host.statistics().direct.calls == 0
