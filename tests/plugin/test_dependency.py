"""A live dependency: it always knows whether it can be called, and calls whoever provides it now."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cpg_trio import HealthState
from cpg_trio._cell import Cell
from cpg_trio.asgi import App, Receive, Scope, Send, send_text
from cpg_trio.calls import CallPolicy
from cpg_trio.host import Host, HostConfig, Policy, Rules, ServiceRules
from cpg_trio.http import Pool
from cpg_trio.plugin import Plugin, PluginConfig
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._session import ProviderSet, Session, SessionProvider
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import ClientConfig, Code, ConnectError
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plain_host import plain_host
from tests.plugin.running import (
    echo_plugin,
    eventually,
    hosting,
    is_healthy,
    meddled,
    plugged,
    until,
    unused_port,
)
from tests.rpc.echo import Echo

HEARTBEAT = "/connectplugin.v1.PluginLifecycle/ReportHealth"
MARK = (b"X-Plugin-Undelivered", b"true")
STATUSES = [401, 403, 404, 429, 502, 503]


async def test_a_call_reaches_the_provider_through_the_host() -> None:
    plugin = Plugin("caller", version="1.0.0")
    echo = plugin.require("echo", min_version="1.0.0")
    async with hosting() as (_, url), plugged(plugin, url), plugged(echo_plugin(), url):
        with trio.fail_after(10):
            provider = await echo.wait_available()
        assert provider.id.startswith("echo-plugin-")
        client = echo.client(EchoServiceClient, ClientConfig(codec="json"))
        assert (await client.echo(EchoRequest(text="✓"))).text == "✓"
        async with client.count(CountRequest(to=3)) as stream:
            assert [m.number async for m in stream] == [0, 1, 2]
        with pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(text="fail"))
        assert caught.value.code == Code.ALREADY_EXISTS


async def test_an_httpx_client_of_the_authors_own_sends_the_calls() -> None:
    plugin, paths = Plugin("caller", version="1.0.0"), list[str]()
    echo = plugin.require("echo")

    async def note(request: httpx.Request) -> None:
        paths.append(request.url.path)

    async with (
        hosting() as (_, url),
        plugged(plugin, url),
        plugged(echo_plugin(), url),
        httpx.AsyncClient(event_hooks={"request": [note]}) as http,
    ):
        with trio.fail_after(10):
            provider = await echo._service.wait_available()
        client = echo.client(EchoServiceClient, http=http)
        assert (await client.echo(EchoRequest(text="✓"))).text == "✓"
        async with client.count(CountRequest(to=3)) as stream:
            assert [m.number async for m in stream] == [0, 1, 2]
    assert paths == [f"{provider.endpoint_url}/{method}" for method in ("Echo", "Count")]


async def test_a_call_asks_the_host_for_nothing_but_the_call() -> None:
    seen: list[str] = []

    async def record(scope: Scope, _receive: Receive, _send: Send) -> bool:
        seen.append(scope["path"])
        return False

    plugin = Plugin("caller", version="1.0.0")
    echo = plugin.require("echo")
    client = echo.client(EchoServiceClient)
    async with meddled(record) as (host, url), plugged(echo_plugin(), url):
        await until(host, partial(is_healthy, host, "echo"))
        async with plugged(plugin, url):
            with trio.fail_after(10):
                provider = await echo._service.wait_available()
            seen.clear()
            for _ in range(3):
                await client.echo(EchoRequest(text="x"))
            async with client.count(CountRequest(to=1)) as stream:
                assert [m.number async for m in stream] == [0]
            calls = [path for path in seen if path != HEARTBEAT]  # which may come at any time
    assert calls == [f"{provider.endpoint_url}/Echo"] * 3 + [f"{provider.endpoint_url}/Count"]


async def test_a_call_to_nobody_fails_at_once() -> None:
    echo = Plugin("caller", version="1.0.0").require("echo")
    assert not echo.available
    assert not echo.degraded
    with pytest.raises(ConnectError, match="no provider of echo is available") as caught:
        await echo.client(EchoServiceClient).echo(EchoRequest())
    assert caught.value.code == Code.UNAVAILABLE


async def test_calls_move_to_another_provider_when_theirs_goes() -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    both = Policy(Rules(services={"echo": ServiceRules(providers=["first", "second"])}))
    config = HostConfig(policy=both)
    async with hosting(config) as (_, url), plugged(caller, url), plugged(echo_plugin("second"), url):
        async with plugged(echo_plugin("first"), url):
            await echo.wait_available()
            await client.echo(EchoRequest())
        with trio.fail_after(10):
            async for state in echo.changes():
                if state.available and state.providers[0].id.startswith("second"):
                    break
        assert (await client.echo(EchoRequest(text="still"))).text == "still"


def registered(host: Host, times: int) -> bool:
    return len(host.registry.providers("echo")) == times


async def test_a_call_goes_to_who_has_taken_a_killed_providers_place_at_its_address() -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    bind = f"127.0.0.1:{unused_port()}"
    async with hosting() as (host, url), plugged(caller, url):
        for number in range(3):
            async with trio.open_nursery() as killed:
                config = PluginConfig(bind=bind, host_url=url, hostname="127.0.0.1")
                killed.start_soon(partial(echo_plugin().serve, config=config))
                await until(host, partial(registered, host, number + 1))
                await echo.wait_available()
                assert (await client.echo(EchoRequest(text="x"))).text == "x"
                killed.cancel_scope.cancel()


@pytest.mark.parametrize("told_by", ["its stop", "its host"])
async def test_a_rolling_replacement_under_load_loses_no_call(told_by: str) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    answered = Cell(0)

    async def load() -> None:
        while True:
            assert (await client.echo(EchoRequest(text="x"))).text == "x"
            answered.set(answered.value + 1)

    async def provide(url: str, stop: trio.Event, task_status: trio.TaskStatus[trio.Event]) -> None:
        gone = trio.Event()
        async with plugged(echo_plugin(), url, stop=stop):
            task_status.started(gone)
            await stop.wait()
        gone.set()

    with trio.fail_after(30):
        async with hosting() as (host, url), trio.open_nursery() as providers, plugged(caller, url):
            stops = [trio.Event()]
            gone = [await providers.start(provide, url, stops[-1])]
            await echo.wait_available()
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(load)
                for generation in range(1, 5):
                    stops.append(trio.Event())
                    gone.append(await providers.start(provide, url, stops[-1]))
                    await until(host, lambda: len(_healthy(host)) == 2)
                    if told_by == "its host":
                        await host.shut_down_plugin(host.registry.providers("echo")[0].runtime_id)
                        await until(host, lambda: len(host.registry.providers("echo")) == 1)
                    stops[generation - 1].set()
                    await gone[generation - 1].wait()
                    enough = answered.value + 20
                    async for count in answered.reader():
                        if count >= enough:
                            break
                nursery.cancel_scope.cancel()
            stops[-1].set()
    assert answered.value >= 80


def _healthy(host: Host) -> list[str]:
    ids = [provider.runtime_id for provider in host.registry.providers("echo")]
    return [runtime_id for runtime_id in ids if host.registry.health(runtime_id).state is HealthState.HEALTHY]


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_a_call_that_was_not_delivered_goes_to_another_provider(
    virtual_time: MockClock, kind: str
) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo", policy=CallPolicy(balance="first"))
    client = echo.client(EchoServiceClient)
    async with hosting() as (host, url):
        away = {"base_url": f"http://127.0.0.1:{unused_port()}"}
        host.registry.register("gone-0", "echo", "1.0.0", "/echo.v1.EchoService/", away)
        async with plugged(caller, url), plugged(echo_plugin(), url):
            assert (await echo.wait_available()).id == "gone-0"
            await until(host, lambda: len(host.registry.providers("echo")) == 2)
            if kind == "unary":
                assert (await client.echo(EchoRequest(text="x"))).text == "x"
            else:
                async with client.count(CountRequest(to=2)) as stream:
                    assert [m.number async for m in stream] == [0, 1]
            assert not host.registry.health("gone-0").callable


async def test_an_undelivered_call_is_tried_again_though_its_provider_has_not_changed(
    virtual_time: MockClock,
) -> None:
    failed: list[str] = []

    async def fail_once(scope: Scope, _receive: Receive, send: Send) -> bool:
        if failed or not scope["path"].startswith("/services/"):
            return False
        failed.append(scope["path"])
        await send_text(send, 502, "failed to proxy request\n", [(b"x-plugin-undelivered", b"true")])
        return True

    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    async with meddled(fail_once) as (_, url), plugged(caller, url), plugged(echo_plugin(), url):
        await echo.wait_available()
        assert (await echo.client(EchoServiceClient).echo(EchoRequest(text="x"))).text == "x"
    assert failed


async def test_a_call_finds_the_provider_that_lives_behind_several_that_were_killed() -> None:
    """So it is after kills in quick succession, with leases that have not ended yet."""
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    async with hosting() as (host, url):
        for number in range(6):
            away = {"base_url": f"http://127.0.0.1:{unused_port()}"}
            host.registry.register(f"gone-{number}", "echo", "1.0.0", "/echo.v1.EchoService/", away)
        async with plugged(caller, url), plugged(echo_plugin(), url):
            assert (await echo.wait_available()).id == "gone-0"
            await until(host, lambda: len(host.registry.providers("echo")) == 7)
            assert (await echo.client(EchoServiceClient).echo(EchoRequest(text="x"))).text == "x"


async def test_a_call_that_was_not_delivered_to_the_only_provider_is_unavailable(
    virtual_time: MockClock,
) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    async with hosting() as (host, url):
        away = {"base_url": f"http://127.0.0.1:{unused_port()}"}
        host.registry.register("gone-0", "echo", "1.0.0", "/echo.v1.EchoService/", away)
        async with plugged(caller, url):
            await echo.wait_available()
            with pytest.raises(ConnectError) as caught:
                await echo.client(EchoServiceClient).echo(EchoRequest())
    assert caught.value.code == Code.UNAVAILABLE


async def test_a_provider_that_is_too_old_is_passed_over_for_one_that_is_not(virtual_time: MockClock) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo", min_version="2.0.0")
    async with hosting() as (host, url), plugged(echo_plugin(version="1.10.0"), url):
        await until(host, lambda: host.registry.available("echo"))
        async with plugged(caller, url):
            async with plugged(echo_plugin(version="2.0.0"), url):
                with trio.fail_after(10):
                    provider = await echo.wait_available()
                assert provider.version == "2.0.0"
            with trio.fail_after(10):
                async for state in echo.changes():
                    if not state.available:
                        break


async def test_a_provider_that_is_degraded_is_known_to_be() -> None:
    caller, provider = Plugin("caller", version="1.0.0"), echo_plugin()
    echo = caller.require("echo")
    async with hosting() as (_, url), plugged(caller, url), plugged(provider, url):
        with trio.fail_after(10):
            await echo.wait_available()
            provider.set_health(HealthState.DEGRADED, "slow disk")
            async for state in echo.changes():
                if state.degraded:
                    break
        assert state.available
        assert echo.degraded


async def test_a_dependency_is_followed_across_a_restart_of_the_host(virtual_time: MockClock) -> None:
    port = unused_port()
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    url = f"http://127.0.0.1:{port}"
    async with plugged(caller, url, heartbeat_s=0.05), plugged(echo_plugin(), url, heartbeat_s=0.05):
        for _ in range(2):
            async with hosting(bind=f"127.0.0.1:{port}") as (host, _):
                await until(host, partial(is_healthy, host, "echo"))
                with trio.fail_after(10):
                    while True:
                        try:
                            assert (await client.echo(EchoRequest(text="x"))).text == "x"
                            break
                        except ConnectError:
                            await trio.sleep(0.02)


def test_a_token_is_in_no_representation() -> None:
    session = Session(Hosts(["http://host"], Pool()), "x-0", "planted-secret")
    assert "planted-secret" not in repr(session)


async def test_a_dependency_is_not_available_while_the_plugin_has_lost_its_host() -> None:
    echo = Plugin("caller", version="1.0.0").require("echo")
    old, new = (Session(Hosts(["http://host.test"], Pool()), name, "token") for name in ("a-1", "a-2"))
    endpoint = pb.ServiceEndpoint(provider_id="echo-1", version="1.0.0", endpoint_url="/services/echo/echo-1")
    echo._service.link.begin(old)
    echo._service.update(old, ProviderSet.of(SessionProvider.at(old, endpoint)))
    assert echo._service.states.value.available
    old.void.set()
    assert not echo.available
    with pytest.raises(ConnectError, match="registering with its host anew"):
        echo._service.check_callable()
    found: list[SessionProvider] = []

    async def wait() -> None:
        found.append(await echo._service.wait_available())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not found
        echo._service.link.begin(new)
        assert not found
        echo._service.update(new, ProviderSet.of(SessionProvider.at(new, endpoint)))
    assert found == [echo._service.provider]


async def test_a_call_with_an_identity_that_has_ended_gets_the_plugin_a_new_one_and_is_answered(
    virtual_time: MockClock,
) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    async with hosting() as (host, url), plugged(echo_plugin(), url):
        async with plugged(caller, url, heartbeat_s=3600.0):
            provider = await echo._service.wait_available()
            host.identities.revoke(provider.session.runtime_id)
            assert (await client.echo(EchoRequest(text="again"))).text == "again"
            assert provider.session.void.is_set()
            assert all(now.session != provider.session for now in echo._service.providers.value.values())
        assert not echo.available
        with pytest.raises(ConnectError, match="no provider"):
            await client.echo(EchoRequest())


def answering(status: int, *fields: tuple[bytes, bytes]) -> Any:
    """Return a middleware in whose place nothing but a plain-text answer comes."""

    def instead(_: App) -> App:
        async def answer(_scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive()).get("more_body", False):
                pass
            calls.set(calls.value + 1)
            await send_text(send, status, "invalid token\n", list(fields))

        return answer

    calls: Cell[int] = Cell(0)
    instead.calls = calls  # type: ignore[attr-defined] # for the test to read
    return instead


def refusing_plugin(instead: Any) -> Plugin:
    plugin = Plugin("bad-plugin", version="1.0.0")
    plugin.provide("bad", Echo(), middleware=instead)
    return plugin


@asynccontextmanager
async def calling(url: str, instead: Any, **config: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Yield clients of a provider that answers so, and of a good one, and the caller's word on the latter."""
    caller = Plugin("caller", version="1.0.0")
    bad, good = caller.require("bad"), caller.require("echo")
    async with (
        plugged(refusing_plugin(instead), url, **config),
        plugged(echo_plugin(), url, **config),
        plugged(caller, url),
    ):
        with trio.fail_after(20):
            await bad.wait_available()
            await good.wait_available()
        yield bad.client(EchoServiceClient), good.client(EchoServiceClient), good


@pytest.mark.parametrize("fields", [(), (MARK,)], ids=["plain", "forged"])
@pytest.mark.parametrize("status", STATUSES)
async def test_no_answer_of_a_provider_ends_its_callers_session(
    status: int, fields: tuple[tuple[bytes, bytes], ...]
) -> None:
    instead = answering(status, *(fields if status != 401 else ()))
    async with hosting() as (_, url), calling(url, instead) as (bad, good, dependency):
        session = dependency._service.provider.session
        for number in range(5):
            with pytest.raises(ConnectError) as caught:
                await bad.echo(EchoRequest(text="x"))
            assert caught.value.message == "invalid token"
            assert instead.calls.value == number + 1  # each was sent once
            with pytest.raises(ConnectError):
                async with bad.count(CountRequest(to=1)) as stream:
                    _ = [message async for message in stream]
            instead.calls.set(number + 1)
            assert (await good.echo(EchoRequest(text="y"))).text == "y"
        assert not session.void.is_set()
        assert dependency._service.provider.session is session


async def test_a_host_without_an_id_is_asked_whether_a_401_was_its_own() -> None:
    instead = answering(401)
    async with (
        plain_host() as (host, url),
        calling(url, instead, accept_unsigned=True) as (bad, good, dependency),
    ):
        session = dependency._service.provider.session
        for _ in range(3):
            with pytest.raises(ConnectError) as caught:
                await bad.echo(EchoRequest(text="x"))
            assert caught.value.code == Code.UNAUTHENTICATED
            assert (await good.echo(EchoRequest(text="y"))).text == "y"
        assert not session.void.is_set()
        host.tokens.clear()
        assert (await good.echo(EchoRequest(text="y"))).text == "y"
        assert session.void.is_set()


async def test_a_401_of_the_host_itself_ends_the_session_at_once() -> None:
    async with hosting() as (host, url), calling(url, answering(500)) as (_, good, dependency):
        session = dependency._service.provider.session
        await host.revoke_identity(session.runtime_id)
        assert (await good.echo(EchoRequest(text="y"))).text == "y"
        assert session.void.is_set()


async def test_a_call_in_flight_while_its_callers_identity_ends_is_not_made_again() -> None:
    echo = Echo()
    provider, caller = echo_plugin(service=echo), Plugin("caller", version="1.0.0")
    dependency = caller.require("echo")
    client = dependency.client(EchoServiceClient)
    async with hosting() as (host, url), plugged(provider, url), plugged(caller, url):
        with trio.fail_after(20):
            session = (await dependency._service.wait_available()).session
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    with pytest.raises(ConnectError) as caught:
                        await client.echo(EchoRequest(text="hang"))
                    assert caught.value.code == Code.UNAVAILABLE

                nursery.start_soon(call)
                await eventually(lambda: echo.contexts)
                await host.revoke_identity(session.runtime_id)
            assert len(echo.contexts) == 1


async def test_calls_reach_a_provider_through_a_host_that_knows_only_bare_methods() -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    async with (
        plain_host() as (_, url),
        plugged(caller, url),
        plugged(echo_plugin(), url, accept_unsigned=True),
    ):
        with trio.fail_after(20):
            await echo.wait_available()
        assert (await client.echo(EchoRequest(text="x"))).text == "x"
        async with client.count(CountRequest(to=2)) as stream:
            assert [message.number async for message in stream] == [0, 1]
