"""A process whose clock and whose resolver are what a test makes of them.

`python -m tests.chaos.shimmed MODULE ARGUMENTS` is `python -m MODULE ARGUMENTS`, except that

    the wall clock differs from the true one by as many seconds as the file SHIM_CLOCK says at each moment,
    a name in `.slow.test` is this machine, and takes SHIM_RESOLVER_S seconds to resolve.
"""

from __future__ import annotations

import mmap
import os
import runpy
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

_OFFSET = struct.Struct("d")


@attrs.frozen
class Clock:
    """A clock that can be set, for all processes that are given its environment."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> Clock:
        """Make a clock that is right."""
        clock = cls(path)
        clock.set(0.0)
        return clock

    @property
    def environment(self) -> dict[str, str]:
        return {"SHIM_CLOCK": str(self.path)}

    def set(self, offset_s: float) -> None:
        """Have it differ from the true time by so much. Nobody sees it half written."""
        if self.path.exists():
            with self.path.open("r+b") as file:
                file.write(_OFFSET.pack(offset_s))
        else:
            self.path.write_bytes(_OFFSET.pack(offset_s))


def _shim_clock(path: Path) -> None:
    with path.open("rb") as file:
        shared = mmap.mmap(file.fileno(), _OFFSET.size, prot=mmap.PROT_READ)
    true, true_ns = time.time, time.time_ns

    def offset_s() -> float:
        return float(_OFFSET.unpack_from(shared)[0])

    time.time = lambda: true() + offset_s()
    time.time_ns = lambda: true_ns() + int(offset_s() * 1e9)


def _shim_resolver(seconds: float) -> None:
    true = socket.getaddrinfo

    def resolve(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002
        name = host.decode() if isinstance(host, bytes) else host
        is_asked = isinstance(name, str) and not flags & socket.AI_NUMERICHOST  # else it is only parsed
        if is_asked and name.endswith(".slow.test"):
            time.sleep(seconds)
            host = "127.0.0.1"
        return true(host, port, family, type, proto, flags)

    socket.getaddrinfo = resolve


def main() -> None:
    """Take on the shims, and be the module."""
    if path := os.environ.get("SHIM_CLOCK"):
        _shim_clock(Path(path))
    if seconds := os.environ.get("SHIM_RESOLVER_S"):
        _shim_resolver(float(seconds))
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
