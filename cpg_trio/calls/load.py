"""How busy, how slow and how reliable a provider is, as far as its caller has seen: what a choice goes by.

The latency is an exponentially weighted moving average (EWMA, the peak-sensitive one of Finagle) with four
properties that calls between plugins need:

- It goes by time and by calls, whichever says more: with two calls a second each one counts, and with a
  thousand a second it is a mean.
- It rises faster than it falls, but a single call raises it to no more than a multiple: one pause of a
  garbage collector is not a slow provider.
- It counts a call that has no answer yet, as soon as that takes longer than usual: a provider that hangs is
  known before its calls time out.
- Without calls it falls: what was slow is looked at again.

The first call to a provider does not count: it had to connect.
"""

from __future__ import annotations

from math import exp, inf

from cpg_trio.calls.outcome import Outcome

SLOW_START_S = 5.0
"""For how long the share of a new provider grows."""
SMALLEST_SHARE = 0.1
"""Where the share of a new provider begins: a part of its later one."""

_MEMORY_S = 2.0  # a call counts by how much of this has passed since the one before it
_SMALLEST_PART = 0.05  # of one call in the mean, however many there are: it is of some twenty calls at least
_RISE = 4.0  # how much more a slower call counts than a faster one
_LARGEST_RISE = 4.0  # what one call can raise the mean to, as a multiple of it
_FORGOTTEN_S = 20.0  # the time constant with which the latency falls while there are no calls
_LEAST_S = 1e-4  # differences of latency below this do not count
_FAILURE = 9.0  # how much each failure since the last success adds to the cost, as a multiple of it
_MOST_FAILURES = 100
_FAILURE_FORGOTTEN_S = 60.0


class Load:
    """What is known of one provider. Times are those of one clock, in seconds."""

    __slots__ = (
        *("_failed_at", "_failures", "_is_warm", "_observed_at", "_unanswered", "_waiting_since"),
        *("in_flight", "joined_at", "latency_s"),
    )

    def __init__(self, joined_at: float = -inf) -> None:
        self.joined_at = joined_at
        """Since when there is this provider. Its share grows from then on, for `SLOW_START_S`."""
        self.in_flight: int = 0
        """Calls that have begun and not ended."""
        self.latency_s: float = 0.0
        """The mean latency of the last calls, in seconds; 0 while it is not known."""
        self._unanswered = 0
        self._waiting_since = 0.0  # when the first call without an answer began, or the last answer came
        self._is_warm = False
        self._observed_at = 0.0
        self._failures = 0  # since the last success
        self._failed_at = 0.0

    def begin(self, now: float) -> None:
        """Note that a call begins."""
        if not self._unanswered:
            self._waiting_since = now
        self._unanswered += 1
        self.in_flight += 1

    def answered(self, latency_s: float, now: float) -> None:
        """Note that the first message of an answer has come, of a call that goes on. At most once a call."""
        self._unanswered -= 1
        self._waiting_since = now
        self._observe(latency_s, now)

    def end(self, outcome: Outcome, latency_s: float | None, now: float) -> None:
        """Note that a call has ended. `latency_s` is None if `answered` was told it.

        Of a call that was cancelled or has failed, the latency is not known, but that it is no less.
        """
        self.in_flight -= 1
        if latency_s is not None:
            self._unanswered -= 1
            self._waiting_since = now
            if outcome is Outcome.SUCCESS or latency_s > self.latency_s > 0:
                self._observe(latency_s, now)
        if outcome is Outcome.SUCCESS:
            self._failures = 0
        elif outcome is Outcome.FAILURE:
            self._failures = min(self._failures + 1, _MOST_FAILURES)
            self._failed_at = now

    def weight(self, calls: int, now: float, *, by_latency: bool) -> float:
        """Return the weight of a provider with so many calls in flight, for a choice between two.

        It falls with the square of (calls + 1) x latency. A provider that is 20 times slower gets one call of
        400, and one that has a call in flight one of five: few calls wait, all are looked at now and then,
        and callers that see the same do not all do the same. `by_latency` is false where the latency of one
        of the two is not known.
        """
        cost = calls + 1.0
        if by_latency:
            latency_s = self.latency_s * exp((self._observed_at - now) / _FORGOTTEN_S)
            if self._unanswered and now - self._waiting_since > latency_s:
                latency_s = now - self._waiting_since
            cost *= latency_s + _LEAST_S
        if self._failures:
            cost *= 1 + _FAILURE * self._failures * exp((self._failed_at - now) / _FAILURE_FORGOTTEN_S)
        weight = 1 / (cost * cost)
        if now - self.joined_at < SLOW_START_S:
            weight *= max(SMALLEST_SHARE, (now - self.joined_at) / SLOW_START_S)
        return weight

    def _observe(self, latency_s: float, now: float) -> None:
        if not self._is_warm:
            self._is_warm = True
            return
        before, passed = self.latency_s, (now - self._observed_at) / _MEMORY_S
        self._observed_at = now
        if not before:
            self.latency_s = max(latency_s, 1e-9)
        elif latency_s > before:
            rise = min(latency_s, _LARGEST_RISE * max(before, _LEAST_S)) - before
            self.latency_s += rise * max(_RISE * _SMALLEST_PART, 1 - exp(-_RISE * passed))
        else:
            self.latency_s += (latency_s - before) * max(_SMALLEST_PART, 1 - exp(-passed))
