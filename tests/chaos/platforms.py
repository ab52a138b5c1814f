"""Platforms that are run from a file by `cpg-trio up`, and what is left of them."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from cpg_trio._cell import Cell
from tests.chaos.trial import tell
from tests.processes import assert_no_traceback

LEASE_S = 1.5
START_S = 60.0  # what a platform may take to be there on a busy machine
END_S = 30.0
PYTHON = os.environ.get("UP_PYTHON", sys.executable)
"""Which one runs the platforms: that of a virtual environment, for instance, where a package is installed."""
_LOOK_S = 0.02
_MARK = "PLATFORM_OF_TEST"


@attrs.frozen
class Process:
    """A process of this machine, which is another one if its id has been given again."""

    pid: int
    started: str
    """When: clock ticks since the start of the machine."""
    parent: int = attrs.field(eq=False)
    state: str = attrs.field(eq=False)
    command: str = attrs.field(eq=False)

    @classmethod
    def at(cls, pid: int) -> Process | None:
        """Return the process that has an id now."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()
        return cls(pid, fields[19], int(fields[1]), fields[0], command.strip())

    @property
    def is_there(self) -> bool:
        """Whether it still is, also as a zombie."""
        return Process.at(self.pid) == self

    def environment(self) -> bytes:
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/environ").read_bytes()
        return b""


def processes() -> Iterator[Process]:
    """Yield all processes of this machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := Process.at(int(entry.name))) is not None:
            yield found


def below(pid: int) -> Sequence[Process]:
    """Return all that a process has started, and they in turn."""
    known = {pid}
    everything = list(processes())
    while True:
        more = {each.pid for each in everything if each.parent in known} - known
        if not more:
            return [each for each in everything if each.pid in known and each.pid != pid]
        known |= more


@attrs.define
class Up:
    """A platform that `cpg-trio up` runs."""

    process: trio.Process
    folder: Path
    mark: str
    seen: set[Process] = attrs.field(factory=set)
    """All processes that have ever been below it."""
    told: list[dict[str, Any]] = attrs.field(factory=list)
    """The changes that it has told of, as JSON documents."""
    errors: str = ""
    _changed: Cell[int] = attrs.field(factory=lambda: Cell(0))

    @property
    def pid(self) -> int:
        return self.process.pid

    async def read(self, task_status: trio.TaskStatus[None]) -> None:
        """Read what it tells."""
        assert self.process.stdout
        task_status.started()
        rest = b""
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            self.told += [json.loads(line) for line in lines if line.startswith(b"{")]
            self._changed.set(len(self.told))
        self._changed.close()

    async def read_errors(self) -> None:
        assert self.process.stderr
        async for data in self.process.stderr:
            self.errors += data.decode(errors="replace")
            self._changed.set(self._changed.value + 1)

    async def watch(self) -> None:
        """Note all processes below it."""
        while True:
            self.seen.update(below(self.pid))
            await trio.sleep(_LOOK_S)

    async def until(self, condition: Callable[[], object], what: str, within_s: float = START_S) -> None:
        """Wait until something holds that follows from what it tells, or from its processes."""
        with trio.move_on_after(within_s):
            while not condition():
                assert self.process.returncode is None, f"it has ended:\n{self.story()}"
                await trio.sleep(_LOOK_S)
            return
        raise AssertionError(f"not within {within_s:g} s: {what}\n{self.story()}")

    def last(self, plugin: str, replica: int = 1) -> dict[str, Any]:
        """Return what it has told last of a replica."""
        about = [d for d in self.told if d.get("plugin") == plugin and d.get("replica") == replica]
        return about[-1] if about else {}

    async def until_ready(self, *plugins: str, runs: int = 0) -> None:
        """Wait until plugins are ready, and have been started so often at least."""
        for plugin in plugins:
            await self.until(partial(self._is_ready, plugin, runs), f"{plugin} is ready")

    def _is_ready(self, plugin: str, runs: int) -> bool:
        last = self.last(plugin)
        return last.get("state") == "ready" and last["runs"] >= runs

    def memory_bytes(self) -> int:
        """Return what the host holds in memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def kill(self, plugin: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the process of a plugin a signal, and wait until another run is ready."""
        last = self.last(plugin)
        tell(f"{number.name} to {plugin}, pid {last['pid']}")
        os.kill(last["pid"], number)
        await self.until_ready(plugin, runs=last["runs"] + 1)

    async def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send it a signal; return its exit status."""
        tell(f"{number.name} to the host")
        self.seen.update(below(self.pid))
        self.process.send_signal(number)
        with trio.move_on_after(END_S):
            return await self.process.wait()
        raise AssertionError(f"it has not ended {END_S:g} s after {number.name}:\n{self.story()}")

    def left(self) -> list[Process]:
        """Return what is still there of it: processes that it had, or that bear its mark."""
        mark = f"{_MARK}={self.mark}".encode()
        marked = {each for each in processes() if mark in each.environment()}
        return [each for each in self.seen | marked if each.is_there and each.pid != self.pid]

    async def leaves_nothing(self, within_s: float = 2 * LEASE_S) -> None:
        """Check that all of it is gone after two leases at most."""
        with trio.move_on_after(within_s):
            while self.left():  # noqa: ASYNC110 - processes tell of nothing
                await trio.sleep(_LOOK_S)
        left = self.left()
        assert not left, f"left after {within_s:g} s: {left}\n{self.story()}"
        if self.process.returncode != -signal.SIGKILL:
            assert not list(self.folder.rglob("*.sock")), "a socket is left"

    async def reaps(self) -> None:
        """Check that what has ended below it is waited for by its parent."""
        zombies = [each for each in below(self.pid) if each.state == "Z"]
        await self.until(lambda: not any(each.is_there for each in zombies), f"{zombies} are reaped", 5)

    def story(self) -> str:
        """Return what it has told."""
        return "\n".join([*map(str, self.told[-30:]), *self.errors.splitlines()[-30:]])


@asynccontextmanager
async def platform(
    folder: Path,
    text: str,
    *arguments: str,
    environment: dict[str, str] | None = None,
    name: str = "platform.toml",
) -> AsyncIterator[Up]:
    """Run a platform file for a block; what still runs at its end is killed, and nothing may be left of it.

    In the file `{mark}` stands for the environment of a plugin by which its processes are known.
    """
    mark = secrets.token_hex(8)
    file = folder / name
    file.write_text(text.replace("{mark}", f'{_MARK} = "{mark}"'))
    process = await trio.lowlevel.open_process(
        [PYTHON, "-m", "cpg_trio", "up", str(file), "--json", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        start_new_session=True,
        env={
            **os.environ,
            **({} if "UP_PYTHON" in os.environ else {"PYTHONPATH": str(Path(__file__).parents[2])}),
            "ADMIN_SOCKET": str(folder / "host.sock"),
            "LEASE_S": str(LEASE_S),
            "PORT": "0",
            **(environment or {}),
        },
    )
    up = Up(process, folder, mark)
    async with trio.open_nursery() as nursery:
        await nursery.start(up.read)
        nursery.start_soon(up.read_errors)
        nursery.start_soon(up.watch)
        try:
            yield up
            if process.returncode is None:
                await up.end(signal.SIGKILL)
            else:
                await up.leaves_nothing()
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            nursery.cancel_scope.cancel()
        await up.leaves_nothing()
    if (
        "cpg_trio" in up.errors
    ):  # and not of the interpreter alone, which was ended before it ran anything of this
        assert_no_traceback(up.errors, "the host")
