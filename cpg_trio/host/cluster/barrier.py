"""The barrier: a task waits until its host knows all that was in the store when the task came."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from cpg_trio.store import StoreError

_MOST_S = 2.0


class BehindError(Exception):
    """This host does not know a revision that a watcher has been told of by another host."""


class Barrier:
    """Asks a store for its revision, and waits until that has been reached.

    `ask` returns the revision of the store, and `reached` waits until changes up to one have been applied.
    """

    def __init__(self, ask: Callable[[], Awaitable[int]], reached: Callable[[int], Awaitable[None]]) -> None:
        self._ask = ask
        self._reached = reached
        self._turn = trio.Lock()
        self._begun = 0  # questions to the store
        self._answered = 0  # the number of the last one that has been answered
        self._revision = 0  # what it was answered

    async def caught_up(self) -> None:
        """Wait until all is known that the store had when this was called.

        Those that come while the store is asked share the next question. Raises: StoreError if it is not
        reached within two seconds.
        """
        try:
            with trio.fail_after(_MOST_S):
                await self._reached(await self._revision_now())
        except trio.TooSlowError:
            raise StoreError(f"this host has not caught up with the store within {_MOST_S:g} s") from None

    async def passed(self, revision: int) -> None:
        """Wait until a revision is known. Raises: BehindError if it is not within two seconds."""
        with trio.move_on_after(_MOST_S) as limit:
            await self._reached(revision)
        if limit.cancelled_caught:
            raise BehindError(f"this host does not know revision {revision} yet: try another one")

    async def _revision_now(self) -> int:
        """Return a revision that the store had after this was called."""
        earlier = self._begun  # the store may have read its revision before
        async with self._turn:
            if self._answered <= earlier:
                self._begun += 1
                number = self._begun
                self._revision = await self._ask()
                self._answered = number
            return self._revision
