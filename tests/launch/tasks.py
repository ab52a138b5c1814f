"""Hosts with plugins that run as tasks of their process, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from cpg_trio import Plugin
from cpg_trio.host import Host
from cpg_trio.host.supervision import Assignment
from cpg_trio.launch.describe import Target
from cpg_trio.launch.task import RunningTask, TaskLauncher
from tests.plugin.running import echo_plugin


def assignment(host: Host, self_id: str, lines: list[str] | None = None, stop_s: float = 5.0) -> Assignment:
    """Return what a host gives a run of a plugin."""
    return Assignment(
        plugin=self_id,
        replica=1,
        self_id=self_id,
        host_url="",
        enrolment_token="",
        output=lambda _: None,
        logged=(lines if lines is not None else []).append,
        local=host.local.at(self_id),
        stop_s=stop_s,
    )


def echo() -> Plugin:
    return echo_plugin()


@asynccontextmanager
async def task(
    host: Host,
    target: Target,
    self_id: str = "echo-plugin",
    *,
    lines: list[str] | None = None,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[RunningTask]:
    """Run a plugin as a task of a host, until it has stopped in order."""
    launcher = TaskLauncher(target, environment=environment or {}, port=port)
    async with launcher.launch(assignment(host, self_id, lines)) as running:
        yield running
        running.stop()
        await running.wait()


async def registered(host: Host, service_type: str = "echo") -> str:
    """Return the runtime id of the first provider of a service, once there is one that gets calls."""
    with trio.fail_after(10):
        return (await host.require(service_type).wait_available()).id
