"""A store in the memory of this process. Several hosts in one process may share it.

It behaves as one that is far away does, but for what cannot happen to it: it always answers.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import takewhile
from typing import Self

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.store._store import Changed, Commit, CompactedError, ConflictError, Entry, Snapshot

_KEPT = 10_000  # changes, for those that follow
_SILENT_S = 4.0  # until those that follow are told that nothing has changed


@attrs.define(eq=False)
class _Presence:
    revision: int
    valid_until: float
    lost: trio.Event = attrs.field(factory=trio.Event)


class MemoryStore:
    """A `Store` that lasts as long as this object. It may be entered several times."""

    shared = True

    def __init__(self) -> None:
        self.id: str = secrets.token_hex(8)
        self._entries: dict[str, Entry] = {}
        self._revision = 1
        self._log: deque[tuple[int, str, Entry | None]] = deque()
        self._compacted = 0
        self._changed = trio.Event()
        self._present: dict[str, _Presence] = {}

    def __str__(self) -> str:
        """Return what it is."""
        return "memory"

    async def __aenter__(self) -> Self:
        """Do nothing."""
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""

    async def check(self) -> bool:
        """See `Store`. It can always be opened."""
        await trio.lowlevel.checkpoint()
        return bool(self._entries)

    async def load(self, prefix: str = "") -> Snapshot:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        found = [self._entries[key] for key in sorted(self._entries) if key.startswith(prefix)]
        return Snapshot(self.id, self._revision, found)

    async def commit(self, commit: Commit) -> int:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        self._expect(commit)
        return self._change(commit)

    async def revision(self) -> int:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        return self._revision

    @asynccontextmanager
    async def changes(self, after: int) -> AsyncIterator[AsyncIterator[Changed]]:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        self._check_kept(after)
        async with aclosing(self._follow(after)) as changes:
            yield changes

    @asynccontextmanager
    async def present(self, key: str, value: bytes, ttl_s: float) -> AsyncIterator[_Presence]:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        revision = self._change(Commit(puts={key: value}))
        presence = self._present[key] = _Presence(revision, trio.current_time() + ttl_s)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._renew, key, presence, ttl_s)
            try:
                yield presence
            finally:
                nursery.cancel_scope.cancel()
                if not presence.lost.is_set():
                    self._change(Commit(deletes=[key]))

    async def _renew(self, key: str, presence: _Presence, ttl_s: float) -> None:
        while not presence.lost.is_set() and (now := trio.current_time()) <= presence.valid_until:
            presence.valid_until = now + ttl_s
            with trio.move_on_after(ttl_s / 3):
                await presence.lost.wait()
        if not presence.lost.is_set():
            self._change(Commit(deletes=[key]))

    def _expect(self, commit: Commit) -> None:
        for key, revision in commit.expected.items():
            entry = self._entries.get(key)
            if (entry.revision if entry is not None else 0) != revision:
                raise ConflictError(f"{key} has changed")
        for prefix, value in commit.uniform.items():
            for key, entry in self._entries.items():
                if key.startswith(prefix) and entry.value != value:
                    raise ConflictError(f"{key} has another value")

    def _change(self, commit: Commit) -> int:
        deletes = {key for key in commit.deletes if key in self._entries} - commit.puts.keys()
        if not (deletes or commit.puts):
            return self._revision
        self._revision += 1
        for key in deletes:
            del self._entries[key]
            self._log.append((self._revision, key, None))
        for key, value in commit.puts.items():
            entry = self._entries[key] = Entry(key, value, self._revision)
            self._log.append((self._revision, key, entry))
        while len(self._log) > _KEPT:
            self._compacted, _, _ = self._log.popleft()
        for key in self._present.keys() & {*deletes, *commit.puts}:
            self._present.pop(key).lost.set()
        self._changed.set()
        self._changed = trio.Event()
        return self._revision

    async def _follow(self, after: int) -> AsyncGenerator[Changed, None]:
        while True:
            with trio.move_on_after(_SILENT_S):
                while self._revision <= after:
                    await self._changed.wait()
            self._check_kept(after)
            values = self._since(after)
            after = self._revision
            yield Changed(after, values)

    def _since(self, revision: int) -> dict[str, Entry | None]:
        """Return what has changed after a revision; a look at the last changes, however many are kept."""
        latest = takewhile(lambda change: change[0] > revision, reversed(self._log))
        return {key: entry for _, key, entry in reversed(list(latest))}

    def _check_kept(self, after: int) -> None:
        if after < self._compacted:
            raise CompactedError(f"what was changed before revision {self._compacted} is not there any more")
