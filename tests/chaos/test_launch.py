"""Processes that are started and end in every way, many times: no descriptor, task or process is left."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from cpg_trio.host.supervision import LaunchError, OutputBook
from cpg_trio.launch.process import ProcessLauncher
from tests.launch.launching import assignment, marked, nothing_left, parent_of, until_none_marked

CYCLES, AT_ONCE = 1_000, 8
SCRIPTS = (
    "exit 3",
    "kill -SEGV $$",
    "kill -STOP $$",
    "trap '' TERM; sleep 60",
    "(setsid sh -c 'setsid sleep 61 & sleep 62' &); sleep 60",
    "yes",
    "exec <&- >&- 2>&-; sleep 60",
    "no-such-command",
)


@asynccontextmanager
async def hosts(mark: str) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(
        (sys.executable, "-m", "tests.chaos.launching_hosts", mark),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    assert process.stdio
    async with process.stdio:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()


async def start_host(process: trio.Process, what: str = "cycle") -> list[int]:
    """Return the id of a new host, and that of what it has forked."""
    assert process.stdio
    await process.stdio.send_all(f"{what}\n".encode())
    data = b""
    while data.count(b"\n") < (2 if what == "fork" else 1):
        data += await process.stdio.receive_some(100)
    return [*map(int, data.split())]


async def one(mark: str, book: OutputBook, chance: random.Random) -> None:
    """Run a plugin for a moment, and have it end in one of many ways."""
    command = (chance.choice(("sh", "sh", "sh", "no-such-shell")), "-c", chance.choice(SCRIPTS))
    launcher = ProcessLauncher(command, environment={"MARK": mark})
    given = assignment(book.writer(mark, 1), plugin=mark, stop_s=0.02)
    with trio.move_on_after(chance.choice((0.001, 0.02, 0.05, 5))):
        try:
            async with launcher.launch(given) as running:
                await trio.sleep(chance.random() / 50)
                match chance.randrange(4):
                    case 0:
                        running.stop()
                        await running.wait()
                    case 1 if running.pid:
                        with_its_guardian(running.pid)
                        await running.wait()
                    case 2:
                        chance.choice(())  # an error of who has launched it
        except (LaunchError, IndexError):
            pass


def with_its_guardian(pid: int) -> None:
    """Kill the guardian of a plugin, unless it has ended."""
    try:
        guardian = parent_of(pid)
    except OSError:
        return
    if parent_of(guardian) == os.getpid():
        os.kill(guardian, signal.SIGKILL)


async def test_a_thousand_runs_leave_nothing() -> None:
    mark, seed = f"mark-{uuid4().hex}", random.randrange(2**32)
    print("seed", seed)  # noqa: T201 - to repeat it
    chance, book = random.Random(seed), OutputBook()
    limit = trio.CapacityLimiter(AT_ONCE)

    async def limited() -> None:
        async with limit:
            await one(mark, book, chance)

    await one(mark, book, chance)  # threads, and what is opened once
    tasks = trio.lowlevel.current_statistics().tasks_living
    with nothing_left():
        async with trio.open_nursery() as nursery:
            for _ in range(CYCLES):
                nursery.start_soon(limited)
        await until_none_marked(mark)
        assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_without_its_guardian_and_its_host_a_plugin_is_ended_by_the_kernel() -> None:
    mark = f"mark-{uuid4().hex}"
    async with hosts(mark) as process:
        host, holder = sorted(await start_host(process, "fork"))
        [plugin] = [pid for pid in marked(mark) if parent_of(pid) != host]
        for pid in (host, parent_of(plugin), holder):
            os.kill(pid, signal.SIGKILL)
        await until_none_marked(mark)


async def test_hosts_that_are_killed_at_every_moment_leave_nothing() -> None:
    mark = f"mark-{uuid4().hex}"
    async with hosts(mark) as process:
        for number in range(200):
            [host] = await start_host(process)
            await trio.sleep(number * 0.0005)
            os.kill(host, signal.SIGKILL)
        await until_none_marked(mark)
    assert not marked(mark)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, and unshare")
async def test_process_1_has_no_zombie_when_a_guardian_was_killed() -> None:
    program = (sys.executable, "-m", "tests.chaos.as_process_1")
    ended = await trio.run_process(
        ("unshare", "--pid", "--fork", "--mount-proc", *program),
        capture_stdout=True,
        cwd=Path(__file__).parents[2],
    )
    assert ended.stdout == b"1 True\n"
