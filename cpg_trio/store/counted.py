"""A store, and how often something was asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Self

from cpg_trio.store._store import Changed, Commit, ConflictError, Presence, Snapshot, Store, StoreError


class CountedStore:
    """See `Store`. Does all by another one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.shared: bool = store.shared
        self.commits: int = 0
        """How many were done."""
        self.conflicts: int = 0
        """How many expected something else than there was."""
        self.failures: int = 0
        """How many failed otherwise, and may have been done."""

    def __str__(self) -> str:
        """Return where it is."""
        return str(self._store)

    async def check(self) -> bool:
        """See `Store`."""
        return await self._store.check()

    async def __aenter__(self) -> Self:
        """See `Store`."""
        await self._store.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """See `Store`."""
        await self._store.__aexit__(None, None, None)

    async def load(self, prefix: str = "") -> Snapshot:
        """See `Store`."""
        return await self._store.load(prefix)

    async def commit(self, commit: Commit) -> int:
        """See `Store`."""
        try:
            revision = await self._store.commit(commit)
        except ConflictError:
            self.conflicts += 1
            raise
        except StoreError:
            self.failures += 1
            raise
        self.commits += 1
        return revision

    async def revision(self) -> int:
        """See `Store`."""
        return await self._store.revision()

    def changes(self, after: int) -> AbstractAsyncContextManager[AsyncIterator[Changed]]:
        """See `Store`."""
        return self._store.changes(after)

    def present(self, key: str, value: bytes, ttl_s: float) -> AbstractAsyncContextManager[Presence]:
        """See `Store`."""
        return self._store.present(key, value, ttl_s)
