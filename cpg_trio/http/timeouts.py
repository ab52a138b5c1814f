"""Timeouts shared by many connections.

A cancel scope for each wait costs several microseconds, and is right where the limits differ. Here all
waiters of a queue have the same limit, so the oldest expires first, and one task serves them all.
"""

from __future__ import annotations

import math
from typing import Protocol

import trio

_HELD_UP_S = 1.0  # by which this process is late itself: it was stopped, say, or had no processor
_MOMENT_S = 1.0


class Late(Protocol):
    """Who may be late. Compared by identity."""

    def give_up(self) -> None:
        """Hear that the time is over."""


class TimeoutQueue:
    """A queue of waiters with one limit. `run` has to run beside it."""

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

    async def run(self) -> None:
        """Give up who is late, until cancelled."""
        while True:
            if not self._since or self._limit_s == math.inf:
                self._arrival = trio.Event()
                await self._arrival.wait()
                self._arrival = None
                continue  # they may have left already
            who, since = next(iter(self._since.items()))
            due = since + self._limit_s
            if trio.current_time() < due:
                await trio.sleep_until(due)
                if trio.current_time() > due + _HELD_UP_S:
                    self._wait_a_moment_more()
            else:
                del self._since[who]
                who.give_up()

    def _wait_a_moment_more(self) -> None:
        """Give everybody the time in which what they have sent is read: it was this process that was late."""
        at_least = trio.current_time() - self._limit_s + min(_MOMENT_S, self._limit_s)
        self._since = {who: max(since, at_least) for who, since in self._since.items()}
