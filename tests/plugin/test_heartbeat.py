"""Health reports: how often, what they change, and what is logged of them."""

from __future__ import annotations

import logging
from contextlib import suppress

import httpx
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cpg_trio._cell import Cell
from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.host import HostConfig, Keys, LeaseConfig
from cpg_trio.plugin import HealthState, Plugin, _staying
from cpg_trio.plugin._session import CALL_TIMEOUT_S
from cpg_trio.rpc import ConnectError
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import (
    echo_plugin,
    eventually,
    hosting,
    is_healthy,
    lines,
    meddled,
    plugged,
    state_of,
    until,
    unused_port,
)
from tests.rpc.echo import Echo

UNHEALTHY = HealthState.UNHEALTHY


async def test_a_heartbeat_that_hangs_is_given_up_when_the_next_is_due(virtual_time: MockClock) -> None:
    hung: list[str] = []

    async def hang_once(scope: Scope, receive: Receive, _send: Send) -> bool:
        if hung or not scope["path"].endswith("ReportHealth"):
            return False
        hung.append(scope["path"])
        while (await receive())["type"] != "http.disconnect":
            pass
        return True

    async with meddled(hang_once) as (host, url), plugged(echo_plugin(), url, heartbeat_s=0.2):
        with trio.fail_after(CALL_TIMEOUT_S - 1):
            await until(host, lambda: is_healthy(host, "echo"))


async def test_a_plugin_with_many_calls_in_flight_still_tells_its_host_that_it_lives(
    virtual_time: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_staying, "_MAX_PER_ORIGIN", 6)
    needy = Plugin("needy", version="1.0.0")
    needy.provide("needy", Echo())
    client = needy.require("echo").client(EchoServiceClient)
    config = HostConfig(leases=LeaseConfig(lease_s=0.6))

    async def call() -> None:
        with suppress(ConnectError):
            await client.echo(EchoRequest(text="hang"))

    async with (
        hosting(config) as (host, url),
        plugged(echo_plugin(), url, heartbeat_s=0.2),
        plugged(needy, url, heartbeat_s=0.2) as needy_url,
        httpx.AsyncClient() as http,
        trio.open_nursery() as calls,
    ):
        await until(host, lambda: is_healthy(host, "needy"))
        for _ in range(12):
            calls.start_soon(call)
        await eventually(lambda: host.statistics().router.in_flight >= 3)
        await trio.sleep(3 * 0.6)
        assert (await http.get(f"{needy_url}/readyz")).status_code == 200
        calls.cancel_scope.cancel()


async def test_a_plugin_reports_as_often_as_its_host_asks(
    virtual_time: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = HostConfig(leases=LeaseConfig(heartbeat_s=0.02, lease_s=30.0))
    async with hosting(often) as (host, url), plugged(echo_plugin(), url, heartbeat_s=None):
        beats = Cell(0)
        monkeypatch.setattr(host._liveness, "beat", lambda _: beats.set(beats.value + 1))
        with trio.fail_after(20):
            async for count in beats.reader():
                if count >= 10:
                    break


async def test_a_plugin_logs_its_own_health_and_the_reason_when_they_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    plugin = Plugin("needy-plugin", version="1.0.0")
    plugin.require("echo")
    plugin.provide("needy", Echo())
    async with hosting() as (host, url), plugged(plugin, url, heartbeat_s=0.05):
        await eventually(lambda: "reports DEGRADED: waiting for echo: nobody provides echo" in caplog.text)
        async with plugged(echo_plugin(), url):
            await until(host, lambda: state_of(host, "needy") == HealthState.HEALTHY)
            plugin.set_health(UNHEALTHY, "the disk is full")
            await eventually(lambda: "needy-plugin is unhealthy" in caplog.text)
    found = [line for line in lines(caplog, "cpg_trio.plugin") if line.startswith("needy-plugin is ")]
    assert [line for line in found if "healthy" in line or "degraded" in line] == [
        "needy-plugin is degraded: waiting for echo",
        "needy-plugin is degraded: waiting for echo: nobody provides echo",
        "needy-plugin is healthy",
        "needy-plugin is unhealthy: the disk is full",
    ]


async def test_a_plugin_that_has_lost_its_host_logs_it_now_and_then_and_that_it_is_back(
    caplog: pytest.LogCaptureFixture, virtual_time: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    port = unused_port()
    config, url = HostConfig(keys=Keys(["k" * 32])), f"http://127.0.0.1:{port}"
    async with plugged(echo_plugin(), url):
        async with hosting(config, bind=f"127.0.0.1:{port}") as (host, _):
            await until(host, lambda: host.registry.available("echo"))
        await trio.sleep(100)
        lost = [line for line in caplog.messages if f"has lost its host at {url}, and tries on" in line]
        assert 3 <= len(lost) <= 5
        async with hosting(config, bind=f"127.0.0.1:{port}"):
            await eventually(lambda: "echo-plugin has its host back" in caplog.messages)
