"""How much memory this process may have, and has: what its container, its limits and its machine leave it."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import attrs

_NO_LIMIT = 2**60  # bytes; control groups of version 1 say "none" by a number that is about as large
_V2, _V1 = ("memory.max", ""), ("memory.limit_in_bytes", "memory")  # files, and where they are mounted
_RESOURCES = (
    (resource.RLIMIT_AS, "RLIMIT_AS", "VmSize"),
    (resource.RLIMIT_DATA, "RLIMIT_DATA", "VmData"),
)


@attrs.frozen
class Memory:
    """What a process may have, in bytes, and who says so."""

    limit: int
    source: str

    @property
    def mebibytes(self) -> int:
        """The limit, for people to read."""
        return self.limit // 2**20


def memory_of_process(root: Path = Path("/")) -> Memory:
    """Return how much memory this process may have; `root` is where the file systems of the kernel are."""
    return min(_limits(root), key=lambda memory: memory.limit)


def resident_bytes(root: Path = Path("/")) -> int:
    """Return how much memory this process has; 0 if the system does not tell."""
    return _status(root).get("VmRSS", 0)


def _limits(root: Path) -> Iterator[Memory]:
    yield from _control_groups(root)
    status = _status(root)
    for kind, name, counted in _RESOURCES:
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            # It counts what is reserved, too; that is not to be had any more.
            unused = max(0, status.get(counted, 0) - status.get("VmRSS", 0))
            yield Memory(soft - unused, name)
    with suppress(ValueError, OSError):
        yield Memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the machine")
    yield Memory(_NO_LIMIT, "nobody")


def _control_groups(root: Path) -> Iterator[Memory]:
    """Yield the limits of the control groups that this process is in, and of those that they are in."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" or "memory" in controllers.split(","):
            name, mount = _V2 if number == "0" else _V1
            for group in _group_and_parents(PurePosixPath(path)):
                file = root / "sys/fs/cgroup" / mount / group / name
                with suppress(ValueError):  # there is none, or it says "max"
                    if (limit := int(_text(file))) < _NO_LIMIT:
                        yield Memory(limit, "the container's control group")


def _group_and_parents(path: PurePosixPath) -> Iterator[PurePosixPath]:
    # In a container the path may be that of the machine, and what is mounted the container's own group.
    relative = PurePosixPath(*path.parts[1:])
    yield relative
    yield from relative.parents


def _status(root: Path) -> dict[str, int]:
    """Return the sizes that the kernel tells of this process, in bytes."""
    lines = (line.split() for line in _text(root / "proc/self/status").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeError):
        return ""
