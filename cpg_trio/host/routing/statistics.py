"""The router's numbers since the host began. Plain state; a call costs a few additions."""

from __future__ import annotations

import attrs

from cpg_trio.calls import Call, CallKind, Calls

_MOST_BITS = 40  # of a duration in microseconds: twelve days


@attrs.frozen
class RouterStatistics:
    """The router's numbers since the host began.

    `calls` were let through, of which `in_flight` have not ended, and `failed` have ended without the whole
    answer of a provider; `refused` were not let through. Of the calls that have ended, `durations[i]` took
    less than 2 to the i-th microseconds, and not less than half of that.
    """

    calls: int
    in_flight: int
    failed: int
    refused: int
    durations: tuple[int, ...]


class RouterCounter:
    """Counts routed calls."""

    def __init__(self, calls: Calls) -> None:
        self._begun = self._ended = self._failed = self._refused = 0
        self._durations = [0] * (_MOST_BITS + 1)
        calls.begun.add(self._count_begun)
        calls.ended.add(self._count_ended)
        calls.refused.add(self._count_refused)

    def _count_begun(self, call: Call) -> None:
        self._begun += call.kind is CallKind.ROUTED

    def _count_ended(self, call: Call) -> None:
        if call.kind is CallKind.ROUTED:
            self._ended += 1
            self._failed += bool(call.failure)
            self._durations[min(int(call.duration_s * 1e6).bit_length(), _MOST_BITS)] += 1

    def _count_refused(self, call: Call) -> None:
        self._refused += call.kind is CallKind.ROUTED

    def statistics(self) -> RouterStatistics:
        """Return the numbers of this moment."""
        in_flight = self._begun - self._ended
        return RouterStatistics(self._begun, in_flight, self._failed, self._refused, tuple(self._durations))
