"""Many plugins at once, and many one after another."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests.chaos.glass_host import GLASS_HOST, holdings
from tests.chaos.observer import NOBODY
from tests.chaos.trial import AVAILABLE, SLACK_S, START_S, Trial, tell, trial
from tests.plugin.running import echo_plugin, plugged

CROWD = [f"crowd-{number}" for number in range(50)]
CROWD_LEASE_S = 6.0  # they all register at once, on one core
RUNS = 100
RUNS_OF_A_PROCESS = 10
GONE_S = 8.0  # two leases until an identity ends, and two rounds of the pool that closes idle connections
LEEWAY = {"file descriptors": 6, "tasks": 12}  # those who stay have a connection more at times


@asynccontextmanager
async def crowded(folder: Path) -> AsyncIterator[Trial]:
    """Run a trial in which fifty more plugins are offered."""
    modules = GLASS_HOST | {"crowd": ("tests.chaos.crowd",)}
    environment = {"CROWD": str(len(CROWD))}
    async with trial(folder, lease_s=CROWD_LEASE_S, modules=modules, environment=environment, writers=0) as t:
        await t.start("crowd")
        await all_are_offered(t, within_s=START_S)
        yield t


async def all_are_offered(t: Trial, *, within_s: float | None = None) -> None:
    """Wait until each of the crowd has been offered; nobody is asked for again, which would be a load."""
    absent = list(CROWD)

    async def missing() -> list[str]:
        while absent and await t.observer.offered(absent[0]) != NOBODY:
            del absent[0]
        return absent

    await t.becomes([], missing, within_s=within_s)


async def test_fifty_plugins_are_back_soon_after_their_host_and_do_not_come_all_at_once(
    tmp_path: Path,
) -> None:
    async with crowded(tmp_path) as t:
        await t.kill("host")
        await trio.sleep(t.lease_s)  # it is away for so long that nobody tries often any more
        assert "has lost logger" not in t.system.parts["crowd"].output  # what they know, they keep
        await t.start("host")
        await all_are_offered(t)
        arrivals = _arrivals(t)
        assert len(arrivals) == len(CROWD)
        moment_s = t.lease_s / 3 / 10  # a tenth of the time between two heartbeats
        at_once = max(bisect_right(arrivals, time + moment_s) - n for n, time in enumerate(arrivals))
        tell(f"{at_once} came within {moment_s:.1f} s, all within {arrivals[-1] - arrivals[0]:.1f} s")
        assert at_once <= len(CROWD) / 2


async def test_none_of_fifty_plugins_sees_its_dependency_go_away_while_their_host_starts_again(
    tmp_path: Path,
) -> None:
    async with crowded(tmp_path) as t:
        await t.kill("host")
        await t.start("host")
        back = trio.current_time()
        await all_are_offered(t)
        await trio.sleep_until(back + t.lease_s)
        assert "has lost logger" not in t.system.parts["crowd"].output


def _arrivals(t: Trial) -> list[float]:
    """Return when the host that runs now shook hands with each of the crowd, in seconds."""
    lines = re.findall(r"^(\S+) crowd-\d+ is ", t.system.parts["host"].output, re.MULTILINE)
    return sorted(map(float, lines))


async def test_a_hundred_runs_of_a_plugin_leave_nothing_on_the_host(tmp_path: Path) -> None:
    modules = GLASS_HOST | {"blocker": ("tests.chaos.blocker",)}
    async with trial(tmp_path, modules=modules, writers=0) as t:
        before = await holdings(t.system.parts["host"])

        async def more() -> dict[str, int]:
            """Return what the host holds more of than before."""
            now = await holdings(t.system.parts["host"])
            extra = {what: number - before[what] for what, number in now.items()}
            return {what: number for what, number in extra.items() if number > LEEWAY.get(what, 0)}

        for _ in range(RUNS):
            await _run_once(t)
        tell(f"{RUNS} runs: {await more()}")
        for _ in range(RUNS_OF_A_PROCESS):
            await t.start("blocker")
            await t.becomes(AVAILABLE, t.observer.told, "blocker")
            await t.stop("blocker")
        assert not await t.observer.known("echo")
        assert not await t.observer.known("blocker")
        tell(f"and {RUNS_OF_A_PROCESS} of a process: {await more()}")
        await t.becomes({}, more, within_s=GONE_S + SLACK_S)


async def _run_once(t: Trial) -> None:
    """Run a plugin until it is registered, knows its dependency and has been called."""
    plugin = echo_plugin()
    logger = plugin.require("logger")
    async with plugged(plugin, t.system.host_url, heartbeat_s=None):
        runtime_id = (await logger._service.wait_available()).session.runtime_id
        client = await t.observer.echo("echo", runtime_id)
        assert (await client.echo(EchoRequest(text="hello"))).text == "hello"
