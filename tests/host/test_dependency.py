"""A host calls its plugins: typed clients, balanced and resilient as those of a plugin's dependency."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cpg_trio import wire
from cpg_trio.host import (
    AuditEvent,
    Host,
    HostConfig,
    HostDependency,
    HostStoppedError,
    PluginRules,
    Policy,
    Rules,
    ServiceRules,
)
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as admin
from cpg_trio.rpc import Caller, Code, ConnectError, Context
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest, EchoResponse, HTTPChatRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.launch.tasks import task
from tests.plugin.running import echo_plugin, hosting, plugged, until
from tests.rpc.echo import Echo

SHARED = Policy(Rules(services={"echo": ServiceRules(providers=["first", "second"])}))


class Named(Echo):
    """Answers with its name, and keeps who has called."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.callers: list[Caller | None] = []

    async def echo(self, request: EchoRequest, ctx: Context) -> EchoResponse:
        self.callers.append(ctx.caller)
        return EchoResponse(text=self.name or request.text)


async def test_a_host_calls_a_service_of_its_plugins() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url):
        echo = host.require("echo")
        client = host.client("echo", EchoServiceClient)
        with trio.fail_after(10):
            provider = await echo.wait_available()
        assert provider.id.startswith("echo-plugin-")
        assert (await client.echo(EchoRequest(text="✓"))).text == "✓"
        async with client.count(CountRequest(to=3)) as stream:
            assert [m.number async for m in stream] == [0, 1, 2]
        with pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(text="fail"))
        assert caught.value.code == Code.ALREADY_EXISTS
        assert echo.statistics().calls == 3


async def test_requests_and_responses_of_a_host_pass_each_other() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url):
        client = host.client("echo", EchoServiceClient)
        await host.require("echo").wait_available()
        send, receive = trio.open_memory_channel[HTTPChatRequest](0)
        async with client.http_chat(receive) as stream, send:
            for text in ("a", "b"):
                await send.send(HTTPChatRequest(text=text))
                assert (await anext(aiter(stream))).text == text


async def test_a_plugin_sees_the_host_as_its_caller_by_a_name_that_no_plugin_can_have() -> None:
    service = Named()
    async with hosting() as (host, url), plugged(echo_plugin(service=service), url):
        await host.require("echo").wait_available()
        await host.client("echo", EchoServiceClient).echo(EchoRequest())
        assert service.callers == [Caller(f"_host-{host.registry.id}", "_host")]
    with pytest.raises(wire.InvalidError):
        wire.validate_self_id(wire.HOST_NAME)


async def test_a_host_calls_what_no_plugin_may_and_the_audit_trail_says_so_once() -> None:
    policy = Policy(Rules(undeclared="deny", plugins={"echo-plugin": PluginRules(provides=["echo"])}))
    async with hosting(HostConfig(policy=policy)) as (host, url), plugged(echo_plugin(), url):
        events = list[AuditEvent]()
        host.audit.subscribe(events.append)
        await host.require("echo").wait_available()
        client = host.client("echo", EchoServiceClient)
        for _ in range(3):
            await client.echo(EchoRequest())
        assert len([e for e in events if e.subject.startswith("_host-")]) == 1


async def test_calls_of_a_host_are_balanced_and_move_when_a_provider_goes() -> None:
    async with hosting(HostConfig(policy=SHARED)) as (host, url):
        client = host.client("echo", EchoServiceClient)
        async with plugged(echo_plugin("second", service=Named("second")), url):
            async with plugged(echo_plugin("first", service=Named("first")), url):
                await until(host, lambda: host.registry.callable_count("echo") == 2)
                seen = {(await client.echo(EchoRequest())).text for _ in range(50)}
                assert seen == {"first", "second"}
            assert {(await client.echo(EchoRequest())).text for _ in range(10)} == {"second"}


async def test_a_host_calls_only_the_versions_that_it_asks_for() -> None:
    async with hosting(HostConfig(policy=SHARED)) as (host, url):
        old = plugged(echo_plugin("first", version="1.4.0", service=Named("old")), url)
        new = plugged(echo_plugin("second", version="2.0.0", service=Named("new")), url)
        client = host.client("echo", EchoServiceClient, version=">=2")
        echo = host.require("echo", version=">=2")
        async with old:
            await until(host, partial(host.registry.available, "echo"))
            with pytest.raises(ConnectError, match=r"1\.4\.0 is there and >=2 is required") as caught:
                await client.echo(EchoRequest())
            assert caught.value.code == Code.UNAVAILABLE
            async with new:
                await echo.wait_available()
                assert {(await client.echo(EchoRequest())).text for _ in range(10)} == {"new"}


async def test_a_drained_provider_gets_no_calls_of_the_host() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url):
        echo = host.require("echo")
        provider = await echo.wait_available()
        host.registry.drain(provider.id, "it is replaced")
        assert not echo.available
        with pytest.raises(ConnectError, match="it is drained"):
            await host.client("echo", EchoServiceClient).echo(EchoRequest())
        host.registry.undrain(provider.id)
        assert echo.available


async def test_a_call_before_the_host_runs_fails_and_a_wait_goes_on_until_somebody_provides_it() -> None:
    host = Host()
    echo, client = host.require("echo"), host.client("echo", EchoServiceClient)
    with pytest.raises(ConnectError, match="echo cannot be called: the host does not run yet") as caught:
        await client.echo(EchoRequest())
    assert caught.value.code == Code.UNAVAILABLE
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                await echo.wait_available()
                assert (await client.echo(EchoRequest(text="now"))).text == "now"
                nursery.cancel_scope.cancel()

            nursery.start_soon(call)
            async with hosting(host=host) as (_, url), plugged(echo_plugin(), url):
                await trio.sleep_forever()


def test_a_host_is_asked_for_a_service_outside_of_trio() -> None:
    assert isinstance(Host().require("echo"), HostDependency)
    with pytest.raises(wire.InvalidError):
        Host().require("no/service")


async def test_after_the_stop_of_the_host_nothing_waits_and_nothing_is_called() -> None:
    host = Host()
    echo, client = host.require("echo"), host.client("echo", EchoServiceClient)
    states = echo.changes()
    async with trio.open_nursery() as nursery:

        async def wait_for_nobody() -> None:
            with pytest.raises(HostStoppedError, match="the host has stopped: echo cannot be called"):
                await echo.wait_available()

        async with hosting(host=host):
            nursery.start_soon(wait_for_nobody)
            await wait_all_tasks_blocked()
    with pytest.raises(ConnectError, match="the host has stopped"):
        await client.echo(EchoRequest())
    assert [state.available async for state in states] == [False]


async def test_what_is_equal_is_one_dependency_of_the_host() -> None:
    host = Host()
    assert host.require("echo") is host.require("echo")
    assert host.require("echo") is not host.require("echo", version=">=2")


async def test_the_statistics_of_a_host_have_its_own_calls_and_operators_see_who_makes_them() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url):
        await host.require("echo").wait_available()
        await host.client("echo", EchoServiceClient).echo(EchoRequest())
        (series,) = host.admin.view.calls(admin.ListCallsRequest()).series
        assert (series.caller, series.provider, series.method) == ("_host", "echo-plugin", "Echo")
        assert series.calls.calls == 1
        graph = host.admin.view.graph(admin.GetGraphRequest())
        assert [(edge.caller, edge.provider, edge.calls.calls) for edge in graph.edges] == [
            ("_host", "echo-plugin", 1)
        ]
        assert [node.name for node in graph.nodes] == ["_host", "echo-plugin"]


@pytest.mark.parametrize("bind", [[], "127.0.0.1:0"], ids=["without a socket", "with one"])
async def test_a_host_calls_a_plugin_in_its_own_process(bind: str | list[str]) -> None:
    service, host, stop = Named(), Host(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(host.serve, stop, bind=bind))
        async with task(host, lambda: echo_plugin(service=service)):
            client = host.client("echo", EchoServiceClient)
            with trio.fail_after(10):
                await host.require("echo").wait_available()
            assert (await client.echo(EchoRequest(text="here"))).text == "here"
            async with client.count(CountRequest(to=3)) as stream:
                assert [m.number async for m in stream] == [0, 1, 2]
            send, receive = trio.open_memory_channel[HTTPChatRequest](0)
            async with client.http_chat(receive) as answers, send:
                await send.send(HTTPChatRequest(text="a"))
                assert (await anext(aiter(answers))).text == "a"
            assert service.callers == [Caller(f"_host-{host.registry.id}", "_host")]
        with pytest.raises(ConnectError):
            await client.echo(EchoRequest())
        stop.set()


async def test_what_a_host_lacks_is_no_warning_as_it_may_start_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="cpg_trio.host")
    async with hosting() as (host, url):
        await anext(host.require("echo").changes())
        async with plugged(echo_plugin(), url):
            await host.require("echo").wait_available()
    said = [(each.levelname, each.getMessage()) for each in caplog.records if "echo" in each.getMessage()]
    assert ("INFO", "the host cannot call echo: nobody provides echo") in said
    assert any(line.startswith("the host: echo is provided by echo-plugin-") for _, line in said)
