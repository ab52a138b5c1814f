"""A process that may have so much memory, as a container may.

By a memory cgroup, of either version, where one can be made here: then the kernel kills what takes more.
Elsewhere by RLIMIT_DATA, and by looking afterwards at the most that the process had.

`python -m tests.abuse.confinement MODULE ARGUMENTS` becomes `python -m MODULE ARGUMENTS` with the bounds that
the environment gives: CONFINED_TO names a cgroup, CONFINED_DATA is a size in bytes, CONFINED_FILES a number
of file descriptors, or two of them, a soft and a hard limit.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import attrs

_ROOTS = (
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.max_usage_in_bytes",
        "memory.oom_control",
    ),
    (Path("/sys/fs/cgroup"), "memory.max", "memory.peak", "memory.events"),
)
_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_GONE_S = 5.0  # for the kernel to let go of the last process of a cgroup


@attrs.frozen
class Confinement:
    """Where a process is started, and what it has used there."""

    environment: dict[str, str]
    _folder: Path | None = None
    _peak: str = ""
    _events: str = ""

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for their memory; 0 where that cannot be known."""
        if self._folder is None:
            return 0
        found = _KILLS.search((self._folder / self._events).read_text())
        return int(found[1]) if found else 0


@contextmanager
def confinement(memory_bytes: int | None = None, files: int | None = None) -> Iterator[Confinement]:
    """Bound what a process has that is started with this environment, until the block ends."""
    environment = {} if files is None else {"CONFINED_FILES": str(files)}
    if memory_bytes is None:
        yield Confinement(environment)
        return
    for root, limit, peak, events in _ROOTS:
        folder = root / f"cpg-{uuid4().hex}"
        try:
            folder.mkdir()
            (folder / limit).write_text(str(memory_bytes))
        except OSError:
            if folder.exists():
                folder.rmdir()
            continue
        try:
            yield Confinement({**environment, "CONFINED_TO": str(folder)}, folder, peak, events)
        finally:
            _remove(folder)
        return
    yield Confinement({**environment, "CONFINED_DATA": str(2 * memory_bytes)})


def _remove(folder: Path) -> None:
    give_up = time.monotonic() + _GONE_S
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)
        else:
            return


def main() -> None:
    """Take on the bounds, and become the module."""
    if folder := os.environ.pop("CONFINED_TO", ""):
        (Path(folder) / "cgroup.procs").write_text(str(os.getpid()))
    for name, which in (("CONFINED_DATA", resource.RLIMIT_DATA), ("CONFINED_FILES", resource.RLIMIT_NOFILE)):
        if value := os.environ.pop(name, ""):
            soft, _, hard = value.partition(":")
            resource.setrlimit(which, (int(soft), int(hard or soft)))
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])


if __name__ == "__main__":
    main()
