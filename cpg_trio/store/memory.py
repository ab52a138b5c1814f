"""A store in the memory of this process. Several hosts in one process may share it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.store._store import Changed, Commit, CompactedError, ConflictError, Entry, Snapshot

_KEPT = 10_000  # changes, for those that follow


@attrs.define
class _Presence:
    revision: int
    valid_until: float
    lost: trio.Event = attrs.field(factory=trio.Event)


class MemoryStore:
    """See `Store`."""

    shared = True

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self._entries: dict[str, Entry] = {}
        self._revision = 1
        self._log: list[tuple[int, str, Entry | None]] = []
        self._compacted = 0
        self._changed = trio.Event()

    async def __aenter__(self) -> Self:
        """Do nothing: it lasts as long as this object."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""

    async def check(self) -> None:
        """Do nothing: it can always be opened."""
        await trio.lowlevel.checkpoint()

    async def load(self, prefix: str = "") -> Snapshot:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        found = [self._entries[key] for key in sorted(self._entries) if key.startswith(prefix)]
        return Snapshot(self.id, self._revision, found)

    async def commit(self, commit: Commit) -> int:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        return self._commit(commit)

    async def revision(self) -> int:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        return self._revision

    @asynccontextmanager
    async def changes(self, after: int) -> AsyncIterator[AsyncIterator[Changed]]:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        if after < self._compacted:
            raise CompactedError(f"what was changed before revision {self._compacted} is not there any more")
        yield self._follow(after)

    @asynccontextmanager
    async def present(self, key: str, value: bytes, ttl_s: float) -> AsyncIterator[_Presence]:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        revision = self._commit(Commit(puts={key: value}))
        presence = _Presence(revision, trio.current_time() + ttl_s)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._keep, key, presence, ttl_s)
            try:
                yield presence
            finally:
                nursery.cancel_scope.cancel()
                if (entry := self._entries.get(key)) is not None and entry.revision == revision:
                    self._commit(Commit(deletes=[key]))

    async def _keep(self, key: str, presence: _Presence, ttl_s: float) -> None:
        while (entry := self._entries.get(key)) is not None and entry.revision == presence.revision:
            presence.valid_until = trio.current_time() + ttl_s
            await trio.sleep(ttl_s / 3)
        presence.lost.set()

    def _commit(self, commit: Commit) -> int:
        for key, revision in commit.expected.items():
            entry = self._entries.get(key)
            if (entry.revision if entry is not None else 0) != revision:
                raise ConflictError(f"{key} has changed")
        for prefix, value in commit.uniform.items():
            for key, entry in self._entries.items():
                if key.startswith(prefix) and entry.value != value:
                    raise ConflictError(f"{key} has another value")
        deletes = [key for key in commit.deletes if key in self._entries]
        if not (deletes or commit.puts):
            return self._revision
        self._revision += 1
        for key in deletes:
            del self._entries[key]
            self._log.append((self._revision, key, None))
        for key, value in commit.puts.items():
            entry = self._entries[key] = Entry(key, value, self._revision)
            self._log.append((self._revision, key, entry))
        for number, _, _ in self._log[: max(0, len(self._log) - _KEPT)]:
            self._compacted = number
        del self._log[: max(0, len(self._log) - _KEPT)]
        self._changed.set()
        self._changed = trio.Event()
        return self._revision

    async def _follow(self, after: int) -> AsyncIterator[Changed]:
        while True:
            while self._revision <= after:
                await self._changed.wait()
            if after < self._compacted:
                raise CompactedError(
                    f"what was changed before revision {self._compacted} is not there any more"
                )
            values = {key: entry for revision, key, entry in self._log if revision > after}
            after = self._revision
            yield Changed(after, values)
