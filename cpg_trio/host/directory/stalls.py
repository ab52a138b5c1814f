"""How long the host itself was held up: stopped, starved of the processor, busy with something else.

In such a time nothing is read, so that nobody can be said to have been silent. A tick that comes late tells
how long it was.
"""

from __future__ import annotations

import logging
import math

import trio

_log = logging.getLogger("cpg_trio.host")


class Stalls:
    """Measures for how long the event loop does not run. `run` has to run beside it.

    What is shorter than `tick_s` seconds counts for nothing; what is longer than `told_s` is logged.
    """

    def __init__(self, tick_s: float, told_s: float) -> None:
        self._tick_s = tick_s
        self._told_s = told_s
        self._due = trio.current_time() + tick_s
        self._total_s = 0.0
        self.last_end = -math.inf
        """When the last one ended, on Trio's clock; long ago if there was none."""

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            await trio.sleep_until(self._due)
            self._look()
            self._due = trio.current_time() + self._tick_s

    def total_s(self) -> float:
        """Return how many seconds all have lasted together, the one included that has just ended."""
        self._look()
        return self._total_s

    def _look(self) -> None:
        now = trio.current_time()
        late_s = now - self._due
        if late_s <= self._tick_s:
            return
        # What wakes up with the tick may ask before it.
        self._due = now + self._tick_s
        self._total_s += late_s
        self.last_end = now
        if late_s > self._told_s:
            _log.warning("this host was held up for %.1f s, in which it could hear no plugin", late_s)
