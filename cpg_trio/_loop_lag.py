"""How late the event loop runs a task that is due: what a task that does not yield costs all others."""

from __future__ import annotations

from collections import deque
from statistics import median

import trio

from cpg_trio._listeners import Listeners

_EVERY_S = 0.5
_KEPT = 120  # samples: a minute


class LoopLag:
    """Measures the lag of the loop, twice a second. The task `run` has to run."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=_KEPT)
        self.measured: Listeners[float] = Listeners[float]("the lag of the event loop")
        """Told of each measurement, in seconds."""

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = trio.current_time() + _EVERY_S
            await trio.sleep_until(due)
            lag_s = trio.current_time() - due
            self._samples.append(lag_s)
            self.measured.tell(lag_s)

    @property
    def median_s(self) -> float:
        """The median of the last minute, in seconds; 0 before the first measurement."""
        return median(self._samples) if self._samples else 0.0

    @property
    def most_s(self) -> float:
        """The most of the last minute, in seconds."""
        return max(self._samples, default=0.0)
