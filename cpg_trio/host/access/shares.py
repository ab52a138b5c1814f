"""Shares of a limit: nobody takes all of what is for everybody.

A limit is shared by the addresses that plugins come from. One address may hold at most three times as much
as is left free, so that alone it gets three quarters of the limit at most, and there is always some room for
another one; with the second at work as well both get less, and so on. Where there is but one address (a
proxy, a pod, a Unix socket) three quarters are what there is for all.

Plain state: whoever keeps something here says so, and says when it does not any more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cpg_trio.host.access.limits import LimitError

_TIMES_WHAT_IS_FREE = 3


class Shares:
    """What is held of one limit, by address. `what` is what errors call it."""

    __slots__ = ("_held", "_most", "_what", "total")

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._held: dict[str, int] = {}
        self.total = 0
        """What all of them hold."""

    def check(self, share: str, more: int = 1) -> None:
        """Check that an address may hold so much more. Raises: LimitError."""
        free = self._most - self.total
        if more > free:
            raise LimitError(self._what, self._most)
        if (held := self._held.get(share, 0)) + more > _TIMES_WHAT_IS_FREE * free:
            raise LimitError(f"{self._what} of one address", held)

    def add(self, share: str, more: int = 1) -> None:
        """Note that an address holds so much more, or less."""
        if not more:
            return
        self.total += more
        held = self._held.get(share, 0) + more
        if held:
            self._held[share] = held
        else:
            del self._held[share]

    def remove(self, share: str, less: int = 1) -> None:
        """Note that an address holds so much less."""
        self.add(share, -less)

    def largest(self) -> str | None:
        """Return which address holds most, None if none holds anything."""
        return max(self._held, key=self._held.__getitem__, default=None)


class Budget:
    """Bytes that are held for as long as something is sent, shared by addresses: who finds none free waits.

    What is larger than all of the budget counts as if it were all of it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._shares = Shares("bytes", most)
        self._waiting: dict[str, trio.lowlevel.ParkingLot] = {}

    def take(self, share: str, size: int) -> bool:
        """Take so many bytes of an address's share; return whether there are as many."""
        size = min(size, self._most)
        try:
            self._shares.check(share, size)
        except LimitError:
            return False
        self._shares.add(share, size)
        if share in self._waiting:  # there may be room for another one
            self._waiting[share].unpark()
        return True

    def give_back(self, share: str, size: int) -> None:
        """Give back what was taken."""
        self._shares.remove(share, min(size, self._most))
        for lot in self._waiting.values():
            lot.unpark()

    async def wait(self, share: str) -> None:
        """Wait until it is worth trying again."""
        lot = self._waiting.setdefault(share, trio.lowlevel.ParkingLot())
        try:
            await lot.park()
        finally:
            if not lot and self._waiting.get(share) is lot:
                del self._waiting[share]

    @asynccontextmanager
    async def held(self, share: str, size: int) -> AsyncIterator[None]:
        """Hold so many bytes for as long as the block lasts; wait for them first."""
        while not self.take(share, size):
            await self.wait(share)
        try:
            yield
        finally:
            self.give_back(share, size)
