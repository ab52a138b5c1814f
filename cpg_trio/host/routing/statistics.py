"""What the router has done so far, in numbers. Plain state; to count a call costs a few additions."""

from __future__ import annotations

import attrs

_MOST_BITS = 40  # of a duration in microseconds: twelve days


@attrs.frozen
class RouterStatistics:
    """The router's numbers since the host began.

    `calls` were let through, of which `in_flight` have not ended, and `failed` have ended without the whole
    answer of a provider; `refused` went nowhere. Of the calls that have ended, `durations[i]` took less than
    2 to the i-th microseconds, and not less than half of that.
    """

    calls: int
    in_flight: int
    failed: int
    refused: int
    durations: tuple[int, ...]


class Tally:
    """Counts calls. To be told of each that begins, that ends, and that is refused."""

    __slots__ = ("_begun", "_durations", "_ended", "_failed", "_refused")

    def __init__(self) -> None:
        self._begun = self._ended = self._failed = self._refused = 0
        self._durations = [0] * (_MOST_BITS + 1)

    def refused(self) -> None:
        self._refused += 1

    def begun(self) -> None:
        self._begun += 1

    def ended(self, seconds: float, *, failed: bool) -> None:
        self._ended += 1
        self._failed += failed
        self._durations[min(int(seconds * 1e6).bit_length(), _MOST_BITS)] += 1

    def statistics(self) -> RouterStatistics:
        """Return the numbers of this moment."""
        in_flight = self._begun - self._ended
        return RouterStatistics(self._begun, in_flight, self._failed, self._refused, tuple(self._durations))
