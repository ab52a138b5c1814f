"""Measures how long the host itself was held up: stopped, suspended, or without a processor.

While it is, nothing is read, so that no plugin can count as silent. A timer that fires late shows how long it
was.
"""

from __future__ import annotations

import logging
import math

import trio

_log = logging.getLogger("cpg_trio.host")


class Stalls:
    """Measures how long the event loop did not run. The task `run` has to run.

    Stalls of less than `tick_s` seconds do not count; those of more than `told_s` are logged.
    """

    def __init__(self, tick_s: float, told_s: float) -> None:
        self._tick_s = tick_s
        self._told_s = told_s
        self._due = trio.current_time() + tick_s
        self._total_s = 0.0
        self.last_end = -math.inf
        """When the last stall ended, on Trio's clock; minus infinity if there was none."""

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            await trio.sleep_until(self._due)
            self._look()
            self._due = trio.current_time() + self._tick_s

    def total_s(self) -> float:
        """Return the seconds that all stalls have lasted together, with one that has just ended."""
        self._look()
        return self._total_s

    def _look(self) -> None:
        now = trio.current_time()
        late_s = now - self._due
        if late_s <= self._tick_s:
            return
        # Another task that wakes up at the same time may look first.
        self._due = now + self._tick_s
        self._total_s += late_s
        self.last_end = now
        if late_s > self._told_s:
            _log.warning("this host was held up for %.1f s, in which it could hear no plugin", late_s)
