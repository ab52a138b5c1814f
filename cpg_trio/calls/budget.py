"""The retry budget: retries are a share of the calls, so that an outage is not multiplied.

The words and the numbers are those of Finagle (https://finagle.github.io/blog/2016/02/08/retry-budgets) and
of Envoy's `retry_budget`: 20 % of the calls, over 10 s. Both add to it what a client may always do, which
many callers of few calls each make a multiple of the share. Here it is a floor and not a sum, and small.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from cpg_trio.calls._decay import DecayingCount

_KEPT = 0.9  # each second, of the calls that count: those of the last 10 s
_ALMOST_ONE = 1 - 1e-6  # ten times 0.1 are a little less than 1
_FLOOR = 3.0  # retries in about 10 s that are free: a caller of few calls has earned none


class RetryBudget:
    """Says whether a call may be sent again that a provider may have seen.

    Over any 10 s and more of steady calls, the retries are at most `share` of them. Half of that is earned by
    each call, and half is a reserve, which the calls of the last 10 s have filled: a provider that is lost
    fails all of its calls at the same moment.
    """

    __slots__ = ("_calls", "_clock", "_earned", "_reserve", "_retries", "refused")

    def __init__(self, share: float, clock: Callable[[], float] = trio.current_time) -> None:
        self._earned = share / 2
        """By each call."""
        self._clock = clock
        self._calls = DecayingCount(_KEPT)
        self._retries = DecayingCount(_KEPT)
        self._reserve = 0.0
        self.refused: int = 0
        """How often a retry was refused."""

    def note_call(self) -> None:
        """Note that a call begins. Its retries are not calls."""
        self._calls.add(self._clock())
        self._reserve += self._earned

    def take(self) -> bool:
        """Take a retry; return False if there is none."""
        now = self._clock()
        # Bounded when it is used, which is seldom, and not at each call.
        self._reserve = min(self._reserve, self._earned * self._calls.value(now))
        if self._reserve > _ALMOST_ONE:
            self._reserve -= 1
        elif not self._earned or self._retries.value(now) > _FLOOR - 1:
            self.refused += 1
            return False
        self._retries.add(now)
        return True
