"""What time it is by the clock of a plugin's host.

What a host signs is good until a time of its own clock. The plugin's clock may show another time, and may be
set, so it does not judge that. The host tells its time in each of its answers, in `date` (RFC 9110, section
6.6.1), to the second; between two answers the time is measured by a clock that nobody sets.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from cpg_trio import _clock

_HALF_S = 0.5  # a date is cut to the second


class HostTime:
    """The time of a host, in seconds since 1970; that of this machine until the host has told it."""

    def __init__(self) -> None:
        self._told = 0.0
        self._told_at = 0.0
        self.known = False

    def hear(self, date: str, asked_at: float) -> None:
        """Hear the `date` of an answer, to what was asked at a time of `_clock.current_time`."""
        try:
            told = parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return
        self._told = told + _HALF_S
        self._told_at = (asked_at + _clock.current_time()) / 2
        self.known = True

    def now(self) -> float:
        """Return the time of now."""
        if not self.known:
            return time.time()
        return self._told + _clock.current_time() - self._told_at

    @property
    def ahead_s(self) -> float:
        """By how many seconds the clock of this machine is ahead of the host's; negative if it is behind."""
        return time.time() - self.now()
