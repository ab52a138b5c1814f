"""A dependency is available only while a call would be sent, and who waits for that does not spin."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import HostConfig, PluginRules, Policy, Rules
from cpg_trio.plugin import Dependency, DependencyState, Plugin, PluginStoppedError
from cpg_trio.rpc import ConnectError
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import echo_plugin, eventually, hosting, lines, plugged
from tests.plugin.test_dependency import answering
from tests.processes import Running, running
from tests.rpc.echo import Echo

LEASE_S = 1.0
SLACK_S = 1.0


@asynccontextmanager
async def with_a_real_host() -> AsyncIterator[tuple[Running, Dependency]]:
    """Run a host as a process, a provider, and a plugin that requires it."""
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    environment = {"LEASE_S": str(LEASE_S), "PORT": "0", "ADMIN_SOCKET": "off"}
    async with running("cpg_trio", "host", environment=environment) as host:
        url = await host.url()
        async with (
            plugged(echo_plugin(), url, heartbeat_s=None, grace_s=0.1),
            plugged(caller, url, heartbeat_s=None, grace_s=0.1),
        ):
            with trio.fail_after(10):
                await echo.wait_available()
            yield host, echo


async def becomes(dependency: Dependency, *, available: bool) -> DependencyState:
    async for state in dependency.changes():
        if state.available is available:
            return state
    raise AssertionError("the plugin has stopped")


async def tries_in(dependency: Dependency, seconds: float) -> int:
    """Return how often a loop of waiting and calling calls."""
    tries, client = 0, dependency.client(EchoServiceClient)
    with trio.move_on_after(seconds):
        while True:
            await dependency.wait_available()
            tries += 1
            try:
                await client.echo(EchoRequest(text="x"), timeout_s=1.0)
            except ConnectError:
                continue
            await trio.sleep(0.1)
    return tries


async def test_a_host_that_is_stopped_or_killed_makes_it_unavailable_and_who_waits_does_not_spin() -> None:
    async with with_a_real_host() as (host, echo):
        host.process.send_signal(signal.SIGSTOP)
        try:
            with trio.fail_after(LEASE_S + SLACK_S):
                state = await becomes(echo, available=False)
            assert state.reason == "the host cannot be reached: nothing has come from it for 1 s"
            assert not echo.available
            assert await tries_in(echo, 0.3) == 0
        finally:
            host.process.send_signal(signal.SIGCONT)
        with trio.fail_after(20):
            await becomes(echo, available=True)
        await host.end(signal.SIGKILL)
        with trio.fail_after(LEASE_S + SLACK_S):
            state = await becomes(echo, available=False)
        assert state.reason.startswith("the host cannot be reached: ")
        assert [provider.version for provider in state.providers] == ["1.0.0"]
        assert await tries_in(echo, 0.5) <= 5


async def test_a_provider_that_fails_each_call_is_called_less_and_less_often() -> None:
    caller, bad = Plugin("caller", version="1.0.0"), Plugin("bad-plugin", version="1.0.0")
    bad.provide("echo", Echo(), middleware=answering(500))
    echo = caller.require("echo")
    async with hosting() as (_, url), plugged(bad, url), plugged(caller, url):
        with trio.fail_after(10):
            await echo.wait_available()
        assert await tries_in(echo, 1.0) <= 10


async def test_who_waits_while_the_plugin_registers_anew_does_not_spin(virtual_time: MockClock) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    async with hosting() as (host, url), plugged(echo_plugin(), url), plugged(caller, url):
        session = (await echo._service.wait_available()).session
        await host.revoke_identity(session.runtime_id)
        session.void.set()
        assert not echo.available
        assert echo.changes() is not None  # which looks at once
        assert echo._service.states.value.reason == "caller is not registered with its host"
        with trio.fail_after(20):
            assert (await echo._service.wait_available()).session is not session


async def test_calls_that_all_fail_are_the_reason_until_one_is_answered() -> None:
    caller, bad = Plugin("caller", version="1.0.0"), Plugin("bad-plugin", version="1.0.0")
    bad.provide("echo", Echo(), middleware=answering(500))
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    async with hosting() as (_, url), plugged(bad, url), plugged(caller, url):
        with trio.fail_after(10):
            await echo.wait_available()
            while echo._service.missing is None:
                await echo.wait_available()
                with pytest.raises(ConnectError):
                    await client.echo(EchoRequest(text="x"))
        assert echo._service.missing == "calls to its only provider fail"
        assert not echo.available
        assert echo.statistics().calls >= 3


async def test_a_dependency_with_no_room_for_another_call_is_not_available(virtual_time: MockClock) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    async with hosting() as (_, url), plugged(echo_plugin(), url), plugged(caller, url):
        await echo.wait_available()
        most = echo.policy.concurrency.max_in_flight
        for _ in range(most):
            await echo._service.in_flight.take()
        assert not echo.available
        with trio.move_on_after(1.0):
            await echo.wait_available()
            raise AssertionError("it is not available")
        echo._service.in_flight.give_back()
        with trio.fail_after(1.0):
            await echo.wait_available()


async def test_who_waits_is_told_that_the_plugin_stops_and_changes_end(virtual_time: MockClock) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    states: list[DependencyState] = []

    async def wait() -> None:
        with pytest.raises(PluginStoppedError, match="caller has stopped: echo cannot be called"):
            await echo.wait_available()

    async def follow() -> None:
        states.extend([state async for state in echo.changes()])

    for _ in range(2):  # a plugin may be served again
        async with hosting() as (_, url), trio.open_nursery() as nursery, plugged(caller, url):
            nursery.start_soon(wait)
            nursery.start_soon(follow)
            await eventually(lambda: echo._service.states.value.reason.startswith("no"))
        assert [state for state in states if state.available] == []
        with pytest.raises(PluginStoppedError):
            await echo.wait_available()


async def test_the_log_the_readiness_probe_and_the_state_say_why(
    virtual_time: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caller = Plugin("caller", version="1.0.0")
    nobody, denied = caller.require("nobody"), caller.require("no")
    newer = caller.require("echo", version=">=3")
    rules = Rules(plugins={"caller": PluginRules(calls=["nobody", "echo"])})
    async with (
        hosting(HostConfig(policy=Policy(rules))) as (_, url),
        plugged(echo_plugin(), url),
        plugged(caller, url) as caller_url,
        httpx.AsyncClient(base_url=caller_url) as http,
    ):
        whys = (nobody, newer, denied)
        await eventually(
            lambda: all(each._service.missing and not each._service.unexplained for each in whys)
        )
        found = lines(caplog, "cpg_trio.plugin")
        for each in whys:
            assert not each.available
            assert f"caller cannot call {each.service_type}: {each._service.missing}" in found
        assert "3" in (newer._service.missing or "")
        assert "caller" in (denied._service.missing or "")
        answer = await http.get("/readyz")
        assert answer.status_code == 200
        assert f"waiting for echo: {newer._service.missing}" in answer.text
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len([line for line in warnings if line.startswith("caller cannot call nobody")]) <= 2
