"""Lines of the log that others can cause: one in a while, with how many were left out since."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio


class LogThrottle:
    """Lets one line in `interval_s` seconds be written. `clock` gives seconds."""

    def __init__(self, interval_s: float = 10.0, clock: Callable[[], float] = trio.current_time) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._next_at = -math.inf
        self._left_out = 0

    def suffix(self) -> str | None:
        """Return what to write at the end of the line, None if the line is not to be written.

        That is how many lines have been left out since the last one; nothing, if none has been.
        """
        now = self._clock()
        if now < self._next_at:
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        self._next_at = now + self._interval_s
        return f" (and {left_out} more since the last time)" if left_out else ""
