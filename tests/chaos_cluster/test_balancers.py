"""Calls through a balancer over two hosts, which plugins know as one: none fails, also through faults."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.chaos.trial import tell
from tests.chaos_cluster.faults import FAULTS, HELD_S, OF_HOSTS
from tests.chaos_cluster.gate import gate
from tests.chaos_cluster.platform import LEASE_S, SLACK_S, Platform, calling, platform
from tests.host.cluster.balancers import nginx
from tests.plugin.running import unused_port

SERVICES = ["echo-0", "echo-1"]
REPLICAS = 2
STEADY_S = 10.0


@asynccontextmanager
async def balanced(folder: Path, way: str) -> AsyncIterator[Platform]:
    """Run two hosts behind a balancer: by `connection` (TCP round robin), or by `request` (nginx)."""
    ports = [unused_port(), unused_port()]
    if way == "request":
        async with (
            nginx(folder, ports) as url,
            platform(folder, SERVICES, ports=ports, members=1, replicas=REPLICAS, host_url=url) as it,
        ):
            yield it
    else:
        async with (
            gate(lambda: [("127.0.0.1", port) for port in ports]) as balancer,
            platform(
                folder,
                SERVICES,
                ports=ports,
                members=1,
                replicas=REPLICAS,
                host_url=f"http://{balancer.address}",
            ) as it,
        ):
            yield it


@pytest.mark.parametrize("way", ["connection", "request"])
async def test_no_call_fails_through_a_balancer(tmp_path: Path, way: str) -> None:
    async with balanced(tmp_path, way) as it:
        async with calling(it):
            await trio.sleep(STEADY_S)
        it.ledger.check()
        assert set(it.ledger.ended.values()) == {"ok"}


@pytest.mark.parametrize("fault", OF_HOSTS)
@pytest.mark.parametrize("way", ["connection", "request"])
async def test_no_call_that_may_be_repeated_fails_while_hosts_fail_behind_a_balancer(
    tmp_path: Path, way: str, fault: str
) -> None:
    rng, expected = random.Random(fault), len(SERVICES) * REPLICAS
    async with balanced(tmp_path, way) as it:
        async with calling(it):
            await trio.sleep(1.0)
            tell(f"--- {fault}")
            async with FAULTS[fault](it, rng) as away:
                if away:
                    await trio.sleep(HELD_S)
                    await it.agree(expected, but=away, within_s=LEASE_S + SLACK_S)
            await it.agree(expected, within_s=LEASE_S + SLACK_S)
            await trio.sleep(1.0)
        it.ledger.check(uncertain=len(it.ledger.callers))
