"""Timeouts shared by many connections.

A cancel scope for each wait costs several microseconds, and is right where the limits differ. Here all
waiters of a queue have the same limit, so the oldest expires first, and one task serves them all.
"""

from __future__ import annotations

import logging
import math
from typing import Protocol

import trio

_HELD_UP_S = 1.0  # a wake-up that is later than this means that the process itself was held up
_MOMENT_S = 1.0  # what waiters get then

_log = logging.getLogger("cpg_trio.http")


class Late(Protocol):
    """A waiter. Compared by identity."""

    def give_up(self) -> None:
        """Give up: the time is over."""


class TimeoutQueue:
    """A queue of waiters with one limit. `run` has to run beside it."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: dict[Late, float] = {}
        self._arrival: trio.Event | None = None

    def __contains__(self, who: Late) -> bool:
        """Return whether a waiter is in the queue."""
        return who in self._since

    def __len__(self) -> int:
        """Return the number of waiters."""
        return len(self._since)

    def begin(self, who: Late) -> None:
        """Add a waiter, or begin its time again."""
        self._since.pop(who, None)
        self._since[who] = trio.current_time()
        if self._arrival is not None:
            self._arrival.set()

    def end(self, who: Late) -> None:
        """Remove a waiter, if it is in the queue."""
        self._since.pop(who, None)

    async def run(self) -> None:
        """Have each waiter give up when its time is over, until cancelled."""
        while True:
            if not self._since or self._limit_s == math.inf:
                self._arrival = trio.Event()
                await self._arrival.wait()
                self._arrival = None
                continue  # the waiter may be gone already
            due = next(iter(self._since.values())) + self._limit_s
            if trio.current_time() < due:
                await trio.sleep_until(due)
                if trio.current_time() > due + _HELD_UP_S:
                    self._wait_a_moment_more()
            else:
                self._give_up_oldest()

    def _give_up_oldest(self) -> None:
        # Not in `run`, whose variable would hold the waiter, and with it a connection, during the next wait.
        who = next(iter(self._since))
        del self._since[who]
        try:
            who.give_up()
        except Exception:  # noqa: BLE001 - the barrier between one waiter and the others
            _log.exception("an error in giving up somebody whose time is over")

    def _wait_a_moment_more(self) -> None:
        """Give every waiter time in which what it has sent is read: this process was late, not its peer."""
        at_least = trio.current_time() - self._limit_s + min(_MOMENT_S, self._limit_s)
        self._since = {who: max(since, at_least) for who, since in self._since.items()}
