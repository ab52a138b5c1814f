"""A plugin's health: what its author sets, and what its dependencies make of it."""

from __future__ import annotations

from trio.testing import MockClock

from cpg_trio import HealthState
from tests.plugin.running import (
    DEGRADED,
    HEALTHY,
    echo_plugin,
    hosting,
    plugged,
    state_of,
    until,
)


async def test_a_missing_dependency_degrades_a_plugin_until_it_is_there(virtual_time: MockClock) -> None:
    plugin = echo_plugin("needy", "needs")
    plugin.require("echo", min_version="1.0.0")
    plugin.require("nice-to-have", required=False)
    async with hosting() as (host, url), plugged(plugin, url):
        await until(host, lambda: state_of(host, "needs") == DEGRADED)
        needy = host.registry.discover("needs")[0].runtime_id
        await until(host, lambda: ":" in host.registry.health(needy).reason)  # the host has told why
        health = host.registry.health(needy)
        assert health.reason.startswith("waiting for echo: ")
        assert health.unavailable_dependencies == ("echo",)
        async with plugged(echo_plugin(), url):
            await until(host, lambda: state_of(host, "needs") == HEALTHY)
            assert host.registry.health(needy).unavailable_dependencies == ()
        await until(host, lambda: state_of(host, "needs") == DEGRADED)


async def test_a_plugin_whose_author_sets_it_unhealthy_gets_no_calls(virtual_time: MockClock) -> None:
    plugin = echo_plugin()
    async with hosting() as (host, url), plugged(plugin, url):
        await until(host, lambda: host.registry.available("echo"))
        plugin.set_health(HealthState.UNHEALTHY, "the disk is full")
        await until(host, lambda: not host.registry.available("echo"))
        plugin.set_health(HealthState.HEALTHY)
        await until(host, lambda: host.registry.available("echo"))
