"""What is started and ended again and again leaves nothing: no descriptor, task, thread, process or memory.

UP_CYCLES says how often: a thousand times to find what leaks slowly.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pytest
import trio

from cpg_trio.host import Host, HostConfig, LeaseConfig
from cpg_trio.host.supervision import Launcher, LaunchError, Phase, PluginSpec, Ready, RestartPolicy
from cpg_trio.launch import ProcessLauncher, TaskLauncher
from tests.chaos.platforms import LEASE_S, below
from tests.plugin.running import eventually, hosting

CYCLES = int(os.environ.get("UP_CYCLES", "20"))
_WARM = 10  # what is made once, such as threads and caches, is there then
_AT_ONCE = 4
_COUNTED = ("descriptors", "tasks", "processes")  # threads come and go
Cycle: TypeAlias = Callable[[], Awaitable[None]]
Repeat: TypeAlias = Callable[[Cycle], Awaitable[None]]


@attrs.frozen
class Held:
    """What this process holds."""

    descriptors: int
    tasks: int
    threads: int
    processes: int

    @classmethod
    def now(cls) -> Held:
        return cls(
            len(list(Path("/proc/self/fd").iterdir())),
            trio.lowlevel.current_statistics().tasks_living,
            threading.active_count(),
            len(below(os.getpid())),
        )

    def exceeds(self, other: Held) -> bool:
        """Whether any of it is more. Threads come and go."""
        return any(
            getattr(self, name) > getattr(other, name) for name in ("descriptors", "tasks", "processes")
        )


def program(folder: Path, *command: str) -> ProcessLauncher:
    return ProcessLauncher(command, directory=folder)


def spec(launcher: Launcher, *, name: str = "program", **options: Any) -> PluginSpec:
    return PluginSpec(name=name, launcher=launcher, **{"ready": Ready.RUNNING, "stop_s": 2.0, **options})


@asynccontextmanager
async def leaking_nothing() -> AsyncIterator[
    tuple[Host, Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]]
]:
    """Yield a host, and what repeats a cycle: afterwards it holds as much as after the first few."""
    # What is kept of a plugin that has ended, until its lease has, is not kept for long here.
    async with hosting(HostConfig(leases=LeaseConfig(lease_s=LEASE_S))) as (host, _):

        async def repeat(cycle: Cycle) -> None:
            for _ in range(_WARM):
                await cycle()
            await trio.sleep(0.2)
            gc.collect()
            before = Held.now()
            for _ in range(CYCLES):
                await cycle()
            with trio.move_on_after(10):
                while Held.now().exceeds(before):  # noqa: ASYNC110 - what ends takes a moment
                    await trio.sleep(0.1)
            assert not Held.now().exceeds(before), f"{before} has become {Held.now()}"

        yield host, repeat


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("sleep", "600"), id="a program"),
        pytest.param(("sh", "-c", "sleep 600 & sleep 600"), id="one with a child"),
        pytest.param(("sh", "-c", "trap '' TERM; sleep 600 & wait"), id="one that does not stop"),
    ],
)
async def test_adding_and_removing_leaves_nothing(tmp_path: Path, command: tuple[str, ...]) -> None:
    async with leaking_nothing() as (host, repeat):
        stubborn = "trap" in command[-1]

        async def cycle() -> None:
            await host.plugins.add(spec(program(tmp_path, *command), stop_s=0.05 if stubborn else 2.0))
            await host.plugins.remove("program")

        await repeat(cycle)


async def test_what_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    async with leaking_nothing() as (host, repeat):

        async def cycle() -> None:
            with pytest.raises(LaunchError, match="there-is-no-such"):
                await host.plugins.add(spec(program(tmp_path, "./there-is-no-such")))
            assert not host.plugins.specs()

        await repeat(cycle)


async def test_a_start_that_is_cancelled_at_any_moment_leaves_nothing(tmp_path: Path) -> None:
    async with leaking_nothing() as (host, repeat):
        after_s = 0.0

        async def cycle() -> None:
            nonlocal after_s
            after_s = (after_s + 0.0037) % 0.1
            with trio.move_on_after(after_s):
                await host.plugins.add(spec(program(tmp_path, "sleep", "600"), ready=Ready.HEALTHY))
            await eventually(lambda: not host.plugins.specs())

        await repeat(cycle)


async def test_a_crash_loop_leaves_nothing(tmp_path: Path) -> None:
    async with leaking_nothing() as (host, _):
        fast = RestartPolicy(first_s=0.001, most_s=0.001)
        specs = [spec(program(tmp_path, "false"), name=f"p{n}", restart=fast) for n in range(_AT_ONCE)]
        await host.plugins.add(*specs, wait=False)

        def all_runs() -> list[int]:
            return [host.plugins.replicas(each.name)[0].runs for each in specs]

        async def cycle() -> None:
            runs = all_runs()
            await eventually(
                lambda: all(
                    host.plugins.replicas(s.name)[0].runs > r for s, r in zip(specs, runs, strict=True)
                )
            )

        for _ in range(_WARM):
            await cycle()
        before = Held.now()
        for _ in range(CYCLES):
            await cycle()
        after = Held.now()
        # Each of them may just be running, or be started.
        assert after.descriptors <= before.descriptors + 8 * _AT_ONCE
        assert after.tasks <= before.tasks + 8 * _AT_ONCE
        await host.plugins.remove("p0")
        assert len(below(os.getpid())) <= 3 * _AT_ONCE


async def test_processes_that_are_killed_leave_nothing(tmp_path: Path) -> None:
    async with leaking_nothing() as (host, repeat):
        fast = RestartPolicy(first_s=0.001, most_s=0.001)
        await host.plugins.add(spec(program(tmp_path, "sleep", "600"), restart=fast))
        (replica,) = host.plugins.replicas("program")

        async def cycle() -> None:
            runs = replica.runs
            assert replica.pid
            os.kill(replica.pid, signal.SIGKILL)
            await eventually(lambda: replica.runs > runs and replica.phase is Phase.READY)

        await repeat(cycle)


async def test_guardians_that_are_killed_leave_nothing(tmp_path: Path) -> None:
    async with leaking_nothing() as (host, repeat):
        fast = RestartPolicy(first_s=0.001, most_s=0.001)
        await host.plugins.add(spec(program(tmp_path, "sleep", "600"), restart=fast))
        (replica,) = host.plugins.replicas("program")

        async def cycle() -> None:
            runs, pid = replica.runs, replica.pid
            (guardian,) = [each.parent for each in below(os.getpid()) if each.pid == pid]
            os.kill(guardian, signal.SIGKILL)
            await eventually(lambda: replica.runs > runs and replica.phase is Phase.READY)

        await repeat(cycle)


async def test_tasks_that_are_added_and_removed_leave_nothing() -> None:
    async with leaking_nothing() as (host, repeat):
        task = TaskLauncher("cpg_trio.testing.launched:serves")
        launched = spec(task, ready=Ready.HEALTHY, self_id="launched-plugin", provides=("launched",))

        async def cycle() -> None:
            await host.plugins.add(launched)
            await host.plugins.remove("program")

        await repeat(cycle)
