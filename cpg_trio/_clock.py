"""The clock by which a process measures how old something is, in seconds.

Trio's clock stands still while the machine is suspended, and the time of day may be set, so neither is enough
for what is good until some time: a token, a grant, a statement that was verified. This clock is Trio's plus
the time that the machine has been suspended since the process began. What is measured in this way may end
during a suspend; what is a matter of the loop itself (timeouts, leases) goes by Trio's clock.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

import trio

_LOOK_S = 1.0
_LEAST_S = 0.1  # what is shorter is the time between two looks at clocks


class Clock:
    """Trio's clock, plus what `since_boot` says of how long the machine has been suspended.

    That is looked at once a second: a call costs little more than Trio's own clock does.
    """

    def __init__(self, since_boot: Callable[[], float]) -> None:
        self._since_boot = since_boot
        self._at_start = self._seen = since_boot()
        self._looked_at = -math.inf

    def __call__(self) -> float:
        """Return the time, in a Trio task."""
        now = trio.current_time()
        if not self._looked_at <= now < self._looked_at + _LOOK_S:  # each run of Trio has a time of its own
            self._looked_at = now
            if (seen := self._since_boot()) - self._seen > _LEAST_S:
                self._seen = seen
        return now + (self._seen - self._at_start)


if sys.platform == "linux":

    def _suspended() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)

else:

    def _suspended() -> float:
        return 0.0


current_time = Clock(_suspended)
