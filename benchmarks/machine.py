"""The machine, and the versions of all programs."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import trio

from .bench import Bench, Report
from .processes import installed, which
from .report import table

_VERSIONS = {
    "envoy": ["--version"],
    "nginx": ["-v"],
    "haproxy": ["-v"],
    "wrk": ["-v"],
    "etcd": ["--version"],
    "py-spy": ["--version"],
}
_ECHO = """
import os
os.sched_setaffinity(0, {%d})
while data := os.read(0, 1):
    os.write(1, data)
"""
_ECHOES = 1000
_VERSION = re.compile(r"\d+\.\d+\.\d+")


async def measure(bench: Bench) -> Report:
    """Ask the machine, and each program for its version."""
    facts = await trio.to_thread.run_sync(_facts, bench)
    rows = [[name, value] for name, value in facts.items()]
    return Report("machine", table("", ["on which this was measured"], rows).replace("---:", "---"), facts)


def _facts(bench: Bench) -> Mapping[str, str]:
    build = f"{platform.python_implementation()} {platform.python_version()}"
    libraries = ("trio", "hypercorn", "h11", "connectrpc", "websockets")
    programs = {name: _version(name, words) for name, words in _VERSIONS.items()}
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores, of which two are used",
        "kernel": f"{platform.system()} {platform.release()}",
        "to the other core and back": f"{_echo_us(*bench.cores):.0f} µs, between processes that sleep",
        "disk": _file_system(bench.folder),
        "Python": f"{build}; " + ", ".join(f"{name} {version(name)}" for name in libraries),
        "cpg_trio": version("cpg-trio"),
        "others": ", ".join(f"{name} {found}" for name, found in programs.items()),
        "rounds": f"{bench.rounds}, of {bench.seconds} s for each load",
    }


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return f"{found[1]} ({platform.machine()})" if found else platform.machine()


def _echo_us(ours: int, other: int) -> float:
    """Return how long a byte takes to a process on another core and back, in microseconds.

    That is two wake-ups of a process that sleeps, which cost ten times as much on some virtual machines.
    """
    times = []
    with subprocess.Popen(
        [sys.executable, "-c", _ECHO % other], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as echo:
        assert echo.stdin
        assert echo.stdout
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {ours})  # this thread alone
        try:
            for _ in range(_ECHOES):
                began = time.perf_counter_ns()
                echo.stdin.write(b".")
                echo.stdout.read(1)
                times.append(time.perf_counter_ns() - began)
        finally:
            os.sched_setaffinity(0, before)
        echo.stdin.close()
    return statistics.median(times) / 1000


def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2]


def _version(name: str, words: list[str]) -> str:
    if not installed(name):
        return "not installed"
    done = subprocess.run([which(name), *words], capture_output=True, text=True, check=False)
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found else "of an unknown version"
