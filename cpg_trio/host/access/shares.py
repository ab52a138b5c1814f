"""Shares of a limit: no address takes all of it.

The addresses that plugins come from share a limit. One address may hold at most three times as much as is
left free. Alone it gets at most three quarters of the limit, so there is always room for another one; a
second one gets its part of the rest, and so on. If all plugins come from one address (a proxy, a pod, a Unix
socket), they have three quarters of the limit.

Plain state: its user adds what it keeps, and removes what it drops.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from cpg_trio.host.access.limits import LimitError

_TIMES_WHAT_IS_FREE = 3


class Shares:
    """What is held of one limit, by address. Errors call it `what`."""

    __slots__ = ("_held", "_most", "_what", "total")

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._held: dict[str, int] = {}
        self.total = 0
        """What all addresses hold."""

    def check(self, share: str, more: int = 1) -> None:
        """Check that an address may hold so much more. Raises: LimitError."""
        free = self._most - self.total
        if more > free:
            raise LimitError(self._what, self._most)
        if (held := self._held.get(share, 0)) + more > _TIMES_WHAT_IS_FREE * free:
            raise LimitError(f"{self._what} of one address", held)

    def add(self, share: str, more: int = 1) -> None:
        """Note that an address holds more; less, if `more` is negative."""
        if not more:
            return
        self.total += more
        held = self._held.get(share, 0) + more
        if held:
            self._held[share] = held
        else:
            del self._held[share]

    def remove(self, share: str, less: int = 1) -> None:
        """Note that an address holds less."""
        self.add(share, -less)

    @contextmanager
    def held(self, share: str) -> Iterator[None]:
        """Hold one more for as long as the block lasts. Raises: LimitError."""
        self.check(share)
        self.add(share)
        try:
            yield
        finally:
            self.remove(share)

    def largest(self) -> str | None:
        """Return the address that holds most, None if none holds anything."""
        return max(self._held, key=self._held.__getitem__, default=None)


class Budget:
    """Bytes that are held while something is sent, shared by addresses. A sender that finds none free waits.

    What is larger than the budget counts as much as the budget.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._shares = Shares("bytes", most)
        self._waiting: dict[str, trio.lowlevel.ParkingLot] = {}

    def take(self, share: str, size: int) -> bool:
        """Take bytes of an address's share; return False and take none if there are too few."""
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
        """Give back bytes that were taken."""
        self._shares.remove(share, min(size, self._most))
        for lot in self._waiting.values():
            lot.unpark()

    async def wait(self, share: str) -> None:
        """Wait until there may be room."""
        lot = self._waiting.setdefault(share, trio.lowlevel.ParkingLot())
        try:
            await lot.park()
        finally:
            if not lot and self._waiting.get(share) is lot:
                del self._waiting[share]

    @asynccontextmanager
    async def held(self, share: str, size: int) -> AsyncIterator[None]:
        """Wait for bytes, and hold them for as long as the block lasts."""
        while not self.take(share, size):
            await self.wait(share)
        try:
            yield
        finally:
            self.give_back(share, size)
