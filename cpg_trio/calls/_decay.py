"""A count that forgets: what happened lately weighs most, and nothing has to be kept of each event."""

from __future__ import annotations


class DecayingCount:
    """A count of events, of which each second that passes keeps a part.

    A steady rate of `r` a second has it at most at `r / (1 - kept)`: with 0.9, at the events of 10 s.
    """

    __slots__ = ("_count", "_kept", "_second")

    def __init__(self, kept: float) -> None:
        self._kept = kept
        self._count = 0.0
        self._second = 0

    def add(self, now: float) -> None:
        """Count an event at `now`, in seconds. Times do not go back."""
        second = int(now)
        if second != self._second:
            self._age(second)
        self._count += 1.0

    def value(self, now: float) -> float:
        """Return the count at `now`."""
        self._age(int(now))
        return self._count

    def clear(self) -> None:
        """Forget all."""
        self._count = 0.0

    def _age(self, second: int) -> None:
        self._count *= self._kept ** (second - self._second)
        self._second = second
