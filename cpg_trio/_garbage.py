"""Garbage collection when memory has grown, and not only when the number of objects has.

Python's collector counts objects. A few of them may hold megabytes: a message, in the frame of an exception
that is kept. How many objects other code leaves behind is unknown here, so the thresholds of the collector
stay as they are, and the memory of the process is checked in addition.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

_INTERVAL_S = 0.05
_GROWTH_BYTES = 24 * 1024 * 1024  # of memory, after which garbage is looked for; a quarter of a large process
_GROWTH = 0.25
_STATM = "/proc/self/statm"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@contextmanager
def collecting_garbage() -> Iterator[None]:
    """Within the block have garbage collected when memory has grown, where the system tells of that.

    What has been imported is not looked through: it stays until the end. What is frozen already stays frozen.
    """
    if is_first := not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
    try:
        with _opened(_STATM) as file:
            if file is None:
                yield
                return
            watch = _MemoryWatch(file)
            trio.lowlevel.add_instrument(watch)
            try:
                yield
            finally:
                trio.lowlevel.remove_instrument(watch)
    finally:
        if is_first:
            gc.unfreeze()


@contextmanager
def _opened(path: str) -> Iterator[int | None]:
    """Hold a file open within the block, so that it can be read when no other can be opened any more."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)


class _MemoryWatch(trio.abc.Instrument):
    """Looks at the memory of the process now and then, while the loop runs; an idle process is left alone."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._next = 0.0
        self._most = self._bound()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - Trio's to say
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL_S
        if self._resident_bytes() > self._most:
            gc.collect()
            self._most = self._bound()

    def _bound(self) -> int:
        resident = self._resident_bytes()
        return resident + max(_GROWTH_BYTES, int(resident * _GROWTH))

    def _resident_bytes(self) -> int:
        return int(os.pread(self._file, 100, 0).split()[1]) * _PAGE_BYTES
