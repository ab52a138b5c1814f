"""The machine, and the versions of all programs."""

from __future__ import annotations

import os
import platform
import re
import subprocess
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
        "disk": _file_system(bench.folder),
        "Python": f"{build}; " + ", ".join(f"{name} {version(name)}" for name in libraries),
        "cpg_trio": version("cpg-trio"),
        "others": ", ".join(f"{name} {found}" for name, found in programs.items()),
        "rounds": f"{bench.rounds}, of {bench.seconds} s for each load",
    }


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return f"{found[1]} ({platform.machine()})" if found else platform.machine()


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
