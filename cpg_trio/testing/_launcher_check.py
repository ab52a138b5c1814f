"""What the checks of a launcher are made of."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

import attrs
import trio

from cpg_trio._cell import Cell
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import Enrolment, Host, HostConfig
from cpg_trio.host.supervision import Assignment, Ended, Launcher, LaunchError, Running
from cpg_trio.states import HealthState
from cpg_trio.testing._checks import expect
from cpg_trio.testing.launched import NAME, SERVICE

MakeLauncher: TypeAlias = Callable[[str], Launcher]

START_S = 30.0  # what a run may take to be there, of which nothing is promised
_STOP_S = 20.0
_LOOK_S, _MOST_LOOK_S = 0.005, 0.5  # between two looks, first and later


class Output:
    """What a run has written."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._count = Cell(0)

    def add(self, line: str) -> None:
        """Take a line. It is what the launcher calls."""
        self.lines.append(line)
        self._count.set(len(self.lines))

    async def until(self, what: str, count: int = 1) -> str:
        """Wait until so many lines have a text; return the last of them."""
        with trio.move_on_after(START_S):
            async for _ in self._count.reader():
                found = [line for line in self.lines if what in line]
                if len(found) >= count:
                    return found[-1]
        raise AssertionError(f"no {count} lines with {what!r} in the output: {self.lines[-5:]}")


@attrs.frozen
class Run:
    """A run that a check has started."""

    running: Running
    output: Output

    async def ended(self) -> Ended:
        """Wait until it has ended by itself, or after `stop`."""
        with trio.move_on_after(_STOP_S):
            return await self.running.wait()
        raise AssertionError("`wait` has not returned")


@attrs.frozen
class Tested:
    """A launcher, and a host for what it starts."""

    make: MakeLauncher
    host: Host
    host_url: str
    token: str = attrs.field(repr=False)

    def launcher(self, target: Callable[..., object]) -> Launcher:
        """Return a launcher of a plugin of `launched`."""
        return self.make(f"{target.__module__}:{target.__name__}")

    def assignment(self, output: Callable[[str], None], replica: int = 1) -> Assignment:
        """Return what a run is given."""
        return Assignment(
            plugin="launched",
            replica=replica,
            self_id=NAME,
            host_url=self.host_url,
            enrolment_token=self.token,
            output=output,
            logged=output,
            local=self.host.local.at(f"launched-{secrets.token_hex(4)}"),
            stop_s=_STOP_S,
        )

    @asynccontextmanager
    async def run(self, target: Callable[..., object], replica: int = 1) -> AsyncIterator[Run]:
        """Have a launcher start a plugin of `launched`, for a block."""
        output = Output()
        async with self.launcher(target).launch(self.assignment(output.add, replica)) as running:
            yield Run(running, output)

    async def forget(self) -> None:
        """Have the host forget all plugins, as it does when a run of its own has ended."""
        for runtime_id in list(self.host.identities.known()):
            await self.host.revoke_identity(runtime_id)

    async def until_healthy(self, count: int = 1) -> None:
        """Wait until so many plugins that were started are HEALTHY, by their own reports."""
        await until(lambda: self.healthy() == count, f"{count} plugins that were started report HEALTHY")

    def healthy(self) -> int:
        """Return how many are."""
        registry = self.host.registry
        reports = [registry.health(each.runtime_id) for each in registry.providers(SERVICE)]
        return sum(report.state is HealthState.HEALTHY for report in reports)


Check: TypeAlias = Callable[[Tested], Awaitable[None]]


@asynccontextmanager
async def a_host() -> AsyncIterator[tuple[Host, str, str]]:
    """Run a host that lets plugins in that show a token; yield it, its URL and the token."""
    token = secrets.token_urlsafe(32)
    host, stop = Host(HostConfig(enrolment=Enrolment({NAME: token}))), trio.Event()
    async with open_plain_nursery() as nursery:
        url, *_ = await nursery.start(partial(host.serve, stop, bind="127.0.0.1:0"))
        try:
            yield host, url, token
        finally:
            stop.set()


async def until(condition: Callable[[], object], what: str, within_s: float | None = None) -> None:
    """Wait until something holds. Raises: AssertionError, which says what, if it does not in time."""
    with trio.move_on_after(START_S if within_s is None else within_s):
        wait_s = _LOOK_S
        while not condition():
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, _MOST_LOOK_S)
        return
    raise AssertionError(f"it never came to this: {what}")


def lives(pid: int) -> bool:
    """Whether there is a process with this id, or what is left of one that nobody has reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def resources() -> tuple[int, int]:
    """Return how many descriptors are open, and how many tasks there are."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    with suppress(OSError):
        return len(list(Path("/dev/fd").iterdir())), tasks
    return 0, tasks


def command_lines() -> Iterator[bytes]:
    """Yield the command lines of the processes of this machine, where the system tells them."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield (process / "cmdline").read_bytes()


async def refusal(tested: Tested, launcher: Launcher) -> str:
    """Return why a launcher cannot start something: the error, or how its run has ended at once."""
    output = Output()
    try:
        async with launcher.launch(tested.assignment(output.add)) as running:
            ended = await Run(running, output).ended()
    except LaunchError as error:
        return str(error)
    expect(ended.failed, f"what does not exist was started, and has ended in order: {ended}")
    return f"{ended.how} {ended.detail}"
