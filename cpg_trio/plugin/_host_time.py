"""The time by the clock of a plugin's host.

What a host signs is valid until a time of the host's clock. The plugin's clock may differ from it, and may be
set, so it is not used to check that. Each answer of the host has its time in `date` (RFC 9110, section
6.6.1), to the second; between two answers the time is measured by a clock that nobody sets.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from cpg_trio import _clock

_HALF_S = 0.5  # a date is cut to the second


class HostTime:
    """The time of a host, in seconds since 1970; that of this machine before the first answer."""

    def __init__(self) -> None:
        self._received = 0.0
        self._received_at = 0.0
        self.known: bool = False

    def update(self, date: str, asked_at: float) -> None:
        """Take the `date` of an answer to a request sent at `asked_at`, a time of `_clock.current_time`."""
        try:
            received = parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return
        self._received = received + _HALF_S
        self._received_at = (asked_at + _clock.current_time()) / 2
        self.known = True

    def now(self) -> float:
        """Return the time of now."""
        if not self.known:
            return time.time()
        return self._received + _clock.current_time() - self._received_at

    @property
    def ahead_s(self) -> float:
        """By how many seconds the clock of this machine is ahead of the host's; negative if it is behind."""
        return time.time() - self.now()
