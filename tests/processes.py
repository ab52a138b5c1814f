"""Real processes of this project, their logs, and their ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cpg_trio._cell import Cell

_STOP_S, _WORK_S = 20, 120
_ADDRESS = re.compile(r'listening on (http://[^\s,"]+)')
_LOG_LINE = re.compile(r"\d{4}/\d\d/\d\d |\{")  # where a traceback is over
_MOST_TRACEBACKS, _MOST_LINES, _MOST_CHARACTERS = 3, 50, 300


class Running:
    """A process, and what it has written so far."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._output = Cell("")

    @property
    def output(self) -> str:
        return self._output.value

    async def read(self) -> None:
        assert self.process.stdout
        async for data in self.process.stdout:
            self._output.set(self._output.value + data.decode("utf-8", "replace"))
        self._output.close()

    async def until(self, pattern: str) -> re.Match[str]:
        """Wait until it has written something that matches."""
        async for text in self._output.reader():
            if (match := re.search(pattern, text)) is not None:
                return match
        raise AssertionError(f"it ended without {pattern!r}:\n{self.output}")

    async def whole_output(self) -> str:
        """Wait until it can write nothing more; return all that it has written."""
        async for _ in self._output.reader():
            pass
        return self.output

    async def url(self) -> str:
        """Wait until it listens; return where, as seen from this machine."""
        return (await self.until(_ADDRESS.pattern))[1].replace("0.0.0.0", "127.0.0.1")

    async def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, if any, wait for the end, and return the exit status.

        Without a signal it has its work to do first, which takes as long as the machine is busy.
        """
        if number is not None:
            self.process.send_signal(number)
        with trio.fail_after(_WORK_S if number is None else _STOP_S):
            return await self.process.wait()

    def peak_memory_bytes(self) -> int:
        """Return the most that it ever held in memory."""
        return self._memory_bytes("VmHWM")

    def memory_bytes(self) -> int:
        """Return what it holds in memory now."""
        return self._memory_bytes("VmRSS")

    def open_files(self) -> int:
        """Return how many file descriptors it has, sockets among them."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def _memory_bytes(self, which: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"{which}:\s+(\d+) kB", status)
        assert match
        return int(match[1]) * 1024


def assert_no_traceback(output: str, name: str = "it") -> None:
    """Check that a process has written no traceback. If it fails, it shows the first ones, cut to a bound."""
    lines = output.splitlines()
    found = [number for number, line in enumerate(lines) if "Traceback" in line]
    shown: list[str] = []
    end = 0
    for number in found:
        if number < end:  # a part of the one before: a cause, or one of a group
            continue
        end = next((n for n in range(number, len(lines)) if _LOG_LINE.match(lines[n])), len(lines))
        shown.append(_excerpt(lines[max(0, number - 2) : end]))
    more = f"\nand {len(shown) - _MOST_TRACEBACKS} more" if len(shown) > _MOST_TRACEBACKS else ""
    assert not shown, f"{name} has written a traceback:\n" + "\n".join(shown[:_MOST_TRACEBACKS]) + more


def _excerpt(lines: list[str]) -> str:
    """Return the first and the last ones of some lines, and of each its beginning."""
    half = _MOST_LINES // 2
    kept = lines if len(lines) <= _MOST_LINES else [*lines[:half], "[...]", *lines[-half:]]
    return "\n".join(line[:_MOST_CHARACTERS] for line in kept)


@asynccontextmanager
async def running(
    *arguments: str, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> AsyncIterator[Running]:
    """Run `python -m` with these arguments; what still runs at the end of the block is killed."""
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **(environment or {})},
        )
        run = Running(process)
        nursery.start_soon(run.read)
        try:
            yield run
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()
