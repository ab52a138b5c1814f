"""How long the other side may take: deadlines for many at the price of one task and two dictionary entries.

A cancel scope a wait costs several microseconds, and is right where the time differs from wait to wait. Here
all who are in one line have the same time, so the first to come is the first to be late.
"""

from __future__ import annotations

import math
from typing import Protocol

import trio


class Late(Protocol):
    """Who may be late. Compared by identity."""

    def give_up(self) -> None:
        """Hear that the time is over."""


class Patience:
    """One line of those who are waited for. `keep` has to run beside it."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: dict[Late, float] = {}
        self._arrival: trio.Event | None = None

    def __contains__(self, who: Late) -> bool:
        """Return whether somebody is waited for."""
        return who in self._since

    def __len__(self) -> int:
        """Return how many are waited for."""
        return len(self._since)

    def begin(self, who: Late) -> None:
        """Wait for somebody, from now on (again)."""
        self._since.pop(who, None)
        self._since[who] = trio.current_time()
        if self._arrival is not None:
            self._arrival.set()

    def end(self, who: Late) -> None:
        """Wait for somebody no more. One who is not waited for is no error."""
        self._since.pop(who, None)

    async def keep(self) -> None:
        """Give up who is late, until cancelled."""
        while True:
            if not self._since or self._limit_s == math.inf:
                self._arrival = trio.Event()
                await self._arrival.wait()
                self._arrival = None
                continue  # they may have left already
            who, since = next(iter(self._since.items()))
            if trio.current_time() < since + self._limit_s:
                await trio.sleep_until(since + self._limit_s)
            else:
                del self._since[who]
                who.give_up()
