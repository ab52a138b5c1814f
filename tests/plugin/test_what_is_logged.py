"""What people look for in logs: registrations, a plugin's health and its reason, what it waits for."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import HostConfig, Keys
from cpg_trio.plugin import HealthState, Plugin
from tests.plugin.running import echo_plugin, eventually, hosting, plugged, state_of, until, unused_port
from tests.rpc.echo import Echo

UNHEALTHY = HealthState.HEALTH_STATE_UNHEALTHY


def lines(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == name]


async def test_a_host_logs_each_registration_and_its_end_as_a_registered_service(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with hosting() as (host, url):
        async with plugged(echo_plugin(), url):
            await until(host, lambda: host.registry.available("echo"))
            plugin = host.registry.discover("echo")[0].runtime_id
        await until(host, lambda: not host.registry.available("echo"))
    assert f"Registered service: echo v1.0.0 of {plugin}" in lines(caplog, "cpg_trio.host")
    assert f"Unregistered service: echo of {plugin}" in lines(caplog, "cpg_trio.host")


async def test_a_plugin_logs_its_own_health_and_the_reason_when_they_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    plugin = Plugin("needy-plugin", version="1.0.0")
    plugin.require("echo")
    plugin.provide("needy", Echo())
    async with hosting() as (host, url), plugged(plugin, url, heartbeat_s=0.05):
        await until(host, lambda: state_of(host, "needy") == HealthState.HEALTH_STATE_DEGRADED)
        async with plugged(echo_plugin(), url):
            await until(host, lambda: state_of(host, "needy") == HealthState.HEALTH_STATE_HEALTHY)
            plugin.set_health(UNHEALTHY, "the disk is full")
            await eventually(lambda: "needy-plugin is unhealthy" in caplog.text)
    said = [line for line in lines(caplog, "cpg_trio.plugin") if line.startswith("needy-plugin is ")]
    assert [line for line in said if "healthy" in line or "degraded" in line] == [
        "needy-plugin is degraded: waiting for echo",
        "needy-plugin is healthy",
        "needy-plugin is unhealthy: the disk is full",
    ]


async def test_a_plugin_that_waits_for_its_host_says_again_and_again_for_which_and_why(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05
    url = f"http://127.0.0.1:{unused_port()}"
    async with plugged(echo_plugin(), url):
        await trio.sleep(100)
    said = [line for line in lines(caplog, "cpg_trio.plugin") if url in line]
    assert 3 <= len(said) <= 5
    assert all(line.endswith("connection refused") for line in said), said


async def test_a_plugin_without_a_host_url_says_again_and_again_that_it_waits_to_be_called(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    async with plugged(echo_plugin(), None) as url:
        await trio.sleep(100)
        said = f"echo-plugin has no HOST_URL, and waits for a managing host to call it on {url}"
        assert lines(caplog, "cpg_trio.plugin").count(said) == 4


async def test_a_plugin_that_has_lost_its_host_says_again_and_again_which_and_then_that_it_is_back(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.01  # for sockets, where nobody answers
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
