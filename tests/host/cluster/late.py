"""A store whose changes come late to one of the hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import trio

from cpg_trio.store import Changed, MemoryStore


class Late:
    """A way to a store on which changes come late, for as long as `let_go` is not set."""

    shared = True

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.load, self.check, self.commit = store.load, store.check, store.commit
        self.revision, self.present = store.revision, store.present
        self.let_go = trio.Event()
        self.let_go.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing: it is another's to close."""

    def hold(self) -> None:
        """Let no change come from now on."""
        self.let_go = trio.Event()

    @asynccontextmanager
    async def changes(self, after: int) -> AsyncIterator[AsyncIterator[Changed]]:
        async with self._store.changes(after) as changes:
            yield self._late(changes)

    async def _late(self, changes: AsyncIterator[Changed]) -> AsyncIterator[Changed]:
        async for changed in changes:
            await self.let_go.wait()
            yield changed
