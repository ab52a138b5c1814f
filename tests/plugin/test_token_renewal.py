"""Tokens are renewed before they expire."""

from __future__ import annotations

from trio.testing import MockClock

from cpg_trio.host import Action, HostConfig
from tests.plugin.running import (
    HEALTHY,
    echo_plugin,
    eventually,
    hosting,
    plugged,
    state_of,
    until,
)


async def test_a_token_is_renewed_before_it_expires_and_the_identity_stays(virtual_time: MockClock) -> None:
    renewed: list[str] = []
    async with hosting(HostConfig(token_ttl_s=0.5)) as (host, url):
        host.audit.subscribe(lambda e: renewed.append(e.subject) if e.action is Action.RENEW else None)
        async with plugged(echo_plugin(), url):
            await until(host, lambda: state_of(host, "echo") == HEALTHY)
            first = host.registry.discover("echo")[0].runtime_id
            await eventually(lambda: len(renewed) >= 5)
            assert set(renewed) == {first}
            assert host.registry.discover("echo")[0].runtime_id == first
