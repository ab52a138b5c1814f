"""Plugins know several hosts as one, behind a balancer: all that they do works."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
import trio

from cpg_trio.demo import client
from cpg_trio.demo.api import api_plugin
from cpg_trio.demo.logger import logger_plugin
from cpg_trio.demo.storage import storage_plugin
from tests.host.cluster.balancers import by_connection, haproxy, nginx, program
from tests.host.cluster.behind_balancer import ADDRESSES, BALANCER, PROVIDER
from tests.host.cluster.serving import Served, serving_hosts, until
from tests.namespaces import in_namespace
from tests.plugin.running import is_healthy, plugged

Balancer = Callable[[Path, Sequence[int]], AbstractAsyncContextManager[str]]

BALANCERS = pytest.mark.parametrize(
    "balancer",
    [
        by_connection,
        pytest.param(nginx, marks=pytest.mark.skipif(not program("nginx"), reason="nginx is not installed")),
        pytest.param(
            haproxy, marks=pytest.mark.skipif(not program("haproxy"), reason="HAProxy is not installed")
        ),
    ],
)


def ports(*hosts: Served) -> list[int]:
    return [int(host.url.rpartition(":")[2]) for host in hosts]


@BALANCERS
async def test_the_example_runs_behind_a_balancer_over_two_hosts(tmp_path: Path, balancer: Balancer) -> None:
    async with (
        serving_hosts() as (a, b),
        balancer(tmp_path, ports(a, b)) as url,
        storage_plugin(tmp_path / "urls.sqlite3") as storage,
        plugged(logger_plugin(), url, heartbeat_s=0.2),
        plugged(storage, url, heartbeat_s=0.2),
        plugged(api_plugin(), url, heartbeat_s=0.2) as api,
    ):
        for host in (a, b):
            await until(partial(all_healthy, host), 15)
        with trio.fail_after(30):
            for _ in range(6):
                await client.check(api)
        ids = {host.host.registry.id for host in (a, b)}
        assert len(ids) == 1
        for host in (a, b):
            assert host.host.registry.statistics().registered == 3  # nobody has had to register again


def all_healthy(host: Served) -> bool:
    return all(is_healthy(host.host, service) for service in ("api", "storage", "logger"))


async def test_nobody_is_called_but_by_the_name_of_a_host() -> None:
    """See the line `Host` of the guide's nginx."""
    async with serving_hosts() as (a, _):
        response = await a.calls.http.get("/readyz", headers={"host": "hosts"})
        assert response.status_code == 403


async def test_plugins_that_come_through_a_balancer_prove_where_they_are() -> None:
    addresses = [f"ip address add {address}/24 dev lo" for address in ADDRESSES]
    done = in_namespace(
        ["ip link set lo up", *addresses],
        partial(
            subprocess.run,
            [sys.executable, "-m", "tests.host.cluster.behind_balancer"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ),
    )
    assert done.stdout.splitlines() == [f"{BALANCER} http://{PROVIDER}"] * 2, done.stderr
