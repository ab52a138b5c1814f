"""The checks of launchers: those that there are pass, and each fault of one is found by name."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host.supervision import Assignment, Ended, LaunchError
from cpg_trio.launch.task import RunningTask, TaskLauncher
from cpg_trio.testing import check_launcher


async def test_a_launcher_of_tasks_passes(virtual_time: MockClock) -> None:
    await check_launcher(TaskLauncher)


@attrs.frozen
class Faulty:
    """A launcher of tasks that is right but for one thing."""

    target: str
    tasks: TaskLauncher = attrs.field(
        default=attrs.Factory(lambda self: TaskLauncher(self.target), takes_self=True)
    )
    kind = "task"

    @asynccontextmanager
    async def launch(self, assignment: Assignment, /) -> AsyncIterator[Any]:
        async with self.tasks.launch(self.given(assignment)) as running:
            yield self.made(running)

    def given(self, assignment: Assignment) -> Assignment:
        return assignment

    def made(self, running: RunningTask) -> Any:
        return running


class NeverTheSame(Faulty):
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class NoToken(Faulty):
    def given(self, assignment: Assignment) -> Assignment:
        return attrs.evolve(assignment, enrolment_token="")


class CutsLines(Faulty):
    def given(self, assignment: Assignment) -> Assignment:
        return attrs.evolve(assignment, logged=lambda line: assignment.logged(line[:30]))


class LosesLines(Faulty):
    def given(self, assignment: Assignment) -> Assignment:
        return attrs.evolve(
            assignment, logged=lambda line: None if "line 7." in line else assignment.logged(line)
        )


class KeepsEnds(Faulty):
    def given(self, assignment: Assignment) -> Assignment:
        return attrs.evolve(assignment, logged=lambda line: assignment.logged(line + "\n"))


class Other:
    """A run that is another one in some way."""

    def __init__(self, running: RunningTask, **others: Any) -> None:
        self._running = running
        vars(self).update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._running, name)


class NeverStops(Faulty):
    def made(self, running: RunningTask) -> Any:
        return Other(running, stop=lambda: None)


class AllFail(Faulty):
    def made(self, running: RunningTask) -> Any:
        async def wait() -> Ended:
            return attrs.evolve(await running.wait(), failed=True)

        return Other(running, wait=wait)


class NoneFails(Faulty):
    def made(self, running: RunningTask) -> Any:
        async def wait() -> Ended:
            return attrs.evolve(await running.wait(), failed=False)

        return Other(running, wait=wait)


class WaitsOnce(Faulty):
    def made(self, running: RunningTask) -> Any:
        waited: list[Ended] = []

        async def wait() -> Ended:
            waited.append(await running.wait())
            return Ended(failed=False, how=f"{len(waited)}")

        return Other(running, wait=wait)


class WritesOn(Faulty):
    """Something of it is there when the block is left."""

    @asynccontextmanager
    async def launch(self, assignment: Assignment, /) -> AsyncIterator[Any]:
        async with self.tasks.launch(assignment) as running:
            yield running

        async def write() -> None:
            for _ in range(20):
                assignment.output("late")
                await trio.sleep(0.01)

        trio.lowlevel.spawn_system_task(write)


class LeavesDescriptors(Faulty):
    @asynccontextmanager
    async def launch(self, assignment: Assignment, /) -> AsyncIterator[Any]:
        LEFT.append(os.open(os.devnull, os.O_RDONLY))
        async with self.tasks.launch(assignment) as running:
            yield running


LEFT: list[int] = []


class SwallowsErrors(Faulty):
    @asynccontextmanager
    async def launch(self, assignment: Assignment, /) -> AsyncIterator[Any]:
        try:
            async with self.tasks.launch(assignment) as running:
                yield running
        except LaunchError:
            raise
        except Exception:  # noqa: BLE001 - the fault that is to be found
            pass


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (NeverTheSame, "launchers of the same are equal and others are not: two launchers of the same"),
        (NoToken, "a plugin that is started comes to its host with the token of its run: "),
        (NeverStops, "a plugin that is asked to stop leaves its host and ends in order: `wait` has not"),
        (AllFail, "a plugin that is asked to stop leaves its host and ends in order: a plugin that was"),
        (NoneFails, "a crash is its own and says why: a plugin that has crashed has ended in order"),
        (WaitsOnce, "who waits is told the same however many and whenever: those who waited"),
        (CutsLines, "a crash is its own and says why: |all lines are passed on"),
        (LosesLines, "all lines are passed on in their order as they are: lines are missing"),
        (KeepsEnds, "all lines are passed on in their order as they are: lines have their ends"),
        (WritesOn, "when the block is left nothing of it goes on: ticks: it writes on after its end"),
        (LeavesDescriptors, "who is cancelled at any step leaves nothing behind: "),
        (SwallowsErrors, "who leaves with an error gets that error: "),
    ],
)
async def test_a_fault_is_found_by_name(
    make: Callable[[str], Faulty], check: str, virtual_time: MockClock
) -> None:
    with pytest.raises(AssertionError) as caught:
        await check_launcher(partial(make))
    assert str(caught.value).startswith(tuple(check.split("|"))), str(caught.value)
    while LEFT:
        os.close(LEFT.pop())
