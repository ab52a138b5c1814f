"""How long to wait before the next call, after calls that have failed. No tasks, no I/O."""

from __future__ import annotations

import math
import random

import trio

_FIRST_S = 0.05
_LONGEST_S = 5.0


class Pace:
    """The wait after failed calls: twice as long for each in a row, reduced at random (full jitter).

    Calls that fail during a wait began before it, and make it no longer: many calls that fail at once count
    as one.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._until = -math.inf

    def failed(self) -> None:
        """Note that a call has failed."""
        now = trio.current_time()
        if now < self._until:
            return
        longest_s = min(_FIRST_S * 2**self._failures, _LONGEST_S)
        self._failures = min(self._failures + 1, 20)
        self._until = now + longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, no secret

    def answered(self) -> None:
        """Note that a call has been answered."""
        if self._failures:
            self._failures = 0
            self._until = -math.inf

    def wait_s(self) -> float:
        """Return for how many seconds to wait now; none if it is not positive."""
        return self._until - trio.current_time() if self._failures else 0.0
