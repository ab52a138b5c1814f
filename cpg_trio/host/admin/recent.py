"""How often something has happened in the last minute. No I/O."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_SLOT_S = 5.0
_SLOTS = 12


class RecentCount:
    """Counts, and forgets what is more than a minute old. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots: deque[list[int]] = deque(maxlen=_SLOTS)  # each its number, and a count

    def add(self) -> None:
        """Count one more."""
        now = self._number()
        if not self._slots or self._slots[-1][0] != now:
            self._slots.append([now, 0])
        self._slots[-1][1] += 1

    def total(self) -> int:
        """Return how many there were."""
        since = self._number() - _SLOTS
        return sum(count for number, count in self._slots if number > since)

    def _number(self) -> int:
        return int(self._clock() // _SLOT_S)
