"""Servers as processes of their own, each on the cores it is given, and what the kernel says of them.

Ends what it has started, by its process id, and nothing else. Reads /proc; Linux only.
"""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from cpg_trio._nursery import open_plain_nursery

_START_S = 20.0
_POLL_S = 0.02
_CPUCLOCK_SCHED = 2  # of clock_getcpuclockid(3): nanoseconds, where /proc has hundredths of a second


def free_port() -> int:
    """Return a free port that the kernel uses for no outgoing connection."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(min(10_000, first_given // 2), first_given)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


def which(command: str) -> str:
    """Return where a command is: beside this Python, on PATH, or where servers are. Itself if nowhere."""
    places = [
        str(Path(sys.executable).parent),
        os.environ.get("PATH", os.defpath),
        "/usr/local/sbin",
        "/usr/sbin",
    ]
    return shutil.which(command, path=os.pathsep.join(places)) or command


def installed(command: str) -> bool:
    """Return whether there is such a command."""
    return shutil.which(which(command)) is not None


def pinned(command: Sequence[str], cores: Iterable[int]) -> list[str]:
    """Return a command that runs another one on these cores, in the same process."""
    return [which("taskset"), "--cpu-list", ",".join(map(str, cores)), *command]


@asynccontextmanager
async def server(
    command: Sequence[str],
    port: int,
    *,
    cores: Iterable[int],
    log: Path,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[int]:
    """Run a server whose output goes to a file; yield its process id once it accepts connections.

    Raises: RuntimeError, with the end of its output, if it does not listen or ends too early.
    """
    async with open_plain_nursery() as nursery:
        with log.open("ab") as output:
            running = await nursery.start(
                partial(
                    trio.run_process,
                    pinned(command, cores),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(env or {})},
                    check=False,
                )
            )
        await _wait_listening(running, port, log)
        yield running.pid
        if running.poll() is not None:
            raise _ended(running, log)
        nursery.cancel_scope.cancel()


async def _wait_listening(running: trio.Process, port: int, log: Path) -> None:
    with trio.move_on_after(_START_S):
        while running.poll() is None:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                await trio.sleep(_POLL_S)
            else:
                return
    raise _ended(running, log)


def _ended(running: trio.Process, log: Path) -> RuntimeError:
    how = "does not listen" if running.returncode is None else f"ended with status {running.returncode}"
    said = log.read_text(errors="replace").splitlines()[-20:]
    return RuntimeError("\n".join([f"{running.args!r} {how}; it said:", *said]))


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """Return the time that all threads of a process have run, in user space and in the kernel."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def raise_file_limit() -> int:
    """Let this process and its children open as many files as may be; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
