"""Assignments for launchers, without a host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import trio

from cpg_trio._cell import Cell
from cpg_trio.host.supervision import Assignment
from cpg_trio.rpc import LocalHost


class Written:
    """The lines that a plugin has written so far."""

    def __init__(self) -> None:
        self._lines = Cell[tuple[str, ...]](())

    @property
    def lines(self) -> tuple[str, ...]:
        return self._lines.value

    def add(self, line: str) -> None:
        self._lines.set((*self.lines, line))

    async def until(self, wanted: Callable[[tuple[str, ...]], object]) -> tuple[str, ...]:
        """Wait for lines of which something is true."""
        with trio.fail_after(20):
            async for lines in self._lines.reader():
                if wanted(lines):
                    return lines
        raise AssertionError

    async def line(self, start: str) -> str:
        """Wait for a line that begins with something, and return the rest of it."""
        lines = await self.until(lambda lines: any(line.startswith(start) for line in lines))
        return next(line for line in lines if line.startswith(start)).removeprefix(start).strip()


def assignment(output: Callable[[str], None] = lambda _: None, **given: Any) -> Assignment:
    return Assignment(
        **{
            "plugin": "thumbs",
            "replica": 1,
            "self_id": "thumbs-plugin",
            "host_url": "http://127.0.0.1:8080",
            "enrolment_token": "the-token",
            "output": output,
            "local": cast("LocalHost", None),
            "stop_s": 5.0,
            **given,
        }
    )


def is_alive(pid: int) -> bool:
    """Whether a process is there, and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def until_gone(*pids: int, within_s: float = 20) -> None:
    with trio.fail_after(within_s):
        while any(map(is_alive, pids)):  # noqa: ASYNC110 - nothing tells it
            await trio.sleep(0.01)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def shown(pid: int) -> bytes:
    """Return what other processes can see of one: its command line and its environment."""
    return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


def children() -> set[int]:
    """Return the children of this process, zombies as well."""
    found: set[int] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        found.update(map(int, listed.read_text().split()))
    return found


def descriptors() -> dict[int, str]:
    """Return what this process has open."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:  # that of the listing itself
            continue
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that the block leaves no child, and no descriptor."""
    before = children(), len(descriptors())
    yield
    assert (children() - before[0], len(descriptors())) == (set(), before[1])


def marked(mark: str) -> set[int]:
    """Return the processes whose environment has `MARK`, and the guardians of plugins of that name."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has ended
                continue
            if f"MARK={mark}".encode() in environment or f"{mark}/1".encode() in command:
                found.add(int(entry.name))
    return found


async def until_none_marked(mark: str, within_s: float = 20) -> None:
    with trio.move_on_after(within_s):
        while marked(mark):  # noqa: ASYNC110 - nothing tells it
            await trio.sleep(0.02)
    assert not marked(mark)
