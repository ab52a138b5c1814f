"""What the checks of a store are made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import attrs

from cpg_trio.store import Commit, ConflictError, Store

MakeStore: TypeAlias = Callable[[], Store]


@attrs.frozen
class Tested:
    """A store, and the prefix of the keys that a check may use."""

    open_store: MakeStore
    prefix: str

    def key(self, name: str) -> str:
        """Return a key of this check."""
        return self.prefix + name

    async def values(self, store: Store, under: str = "") -> dict[str, bytes]:
        """Return what there is below the prefix, by key without it."""
        found = await store.load(self.prefix + under)
        return {entry.key.removeprefix(self.prefix): entry.value for entry in found.entries}

    async def revision(self, store: Store, name: str) -> int:
        """Return the revision of an entry, 0 for one that is not there."""
        found = (await store.load(self.key(name))).entries
        return next((entry.revision for entry in found if entry.key == self.key(name)), 0)

    async def put(self, store: Store, **values: bytes) -> int:
        """Put entries; return the revision."""
        return await store.commit(Commit(puts={self.key(name): value for name, value in values.items()}))


Check: TypeAlias = Callable[[Tested], Awaitable[None]]


@contextmanager
def conflict(why: str) -> Iterator[None]:
    """Expect that the block raises ConflictError; otherwise AssertionError is raised with the reason."""
    try:
        yield
    except ConflictError:
        return
    raise AssertionError(why)
