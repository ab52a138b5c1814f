"""When the garbage collector looks: also when memory has grown, and not only when objects have.

Python's collector counts objects. A few of them may hold megabytes: a message, in a frame that an error has
kept. What a service of somebody else leaves behind is not ours to know, so no threshold of the collector's is
changed here, and memory is looked at beside it.
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


@contextmanager
def collecting_garbage() -> Iterator[None]:
    """Within the block have garbage collected when memory has grown.

    What has been imported is not looked through: it stays until the end.
    """
    gc.collect()
    gc.freeze()
    instrument = _MemoryWatch() if os.path.exists(_STATM) else None  # noqa: PTH110 - once, and no path
    if instrument is not None:
        trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        if instrument is not None:
            trio.lowlevel.remove_instrument(instrument)
        gc.unfreeze()


class _MemoryWatch(trio.abc.Instrument):
    """Looks at the memory of the process now and then, while the loop runs; an idle process is left alone."""

    def __init__(self) -> None:
        self._next = 0.0
        self._most = self._bound()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - Trio's to say
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL_S
        if resident_bytes() > self._most:
            gc.collect()
            self._most = self._bound()

    def _bound(self) -> int:
        resident = resident_bytes()
        return resident + max(_GROWTH_BYTES, int(resident * _GROWTH))


def resident_bytes() -> int:
    """Return how much memory the process has now. Linux only."""
    with open(_STATM, "rb") as file:  # noqa: PTH123 - at once, and often
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
