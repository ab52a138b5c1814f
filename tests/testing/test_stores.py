"""The checks of stores: those that there are pass, and each fault of one is found by name."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from cpg_trio.store import Changed, Commit, Entry, MemoryStore, Presence, Snapshot, SqliteStore, StoreError
from cpg_trio.testing import check_store


async def test_a_store_in_memory_passes(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    await check_store(lambda: store)
    assert (await store.load()).entries == []


async def test_a_store_in_a_file_passes(tmp_path: Path) -> None:
    await check_store(lambda: SqliteStore(tmp_path / "store"))
    async with SqliteStore(tmp_path / "store") as store:
        assert (await store.load()).entries == []


class ForgetsConditions(MemoryStore):
    async def commit(self, commit: Commit) -> int:
        return await super().commit(attrs.evolve(commit, expected={}))


class ForgetsPrefixes(MemoryStore):
    async def commit(self, commit: Commit) -> int:
        return await super().commit(attrs.evolve(commit, uniform={}))


class DoesItInParts(MemoryStore):
    async def commit(self, commit: Commit) -> int:
        if commit.deletes and commit.puts:
            await super().commit(Commit(deletes=commit.deletes))
        return await super().commit(commit)


class TellsInParts(MemoryStore):
    @asynccontextmanager
    async def changes(self, after: int) -> AsyncIterator[AsyncIterator[Changed]]:
        async with super().changes(after) as changes, aclosing(self._parts(changes)) as parts:
            yield parts

    async def _parts(self, changes: AsyncIterator[Changed]) -> AsyncGenerator[Changed, None]:
        async for changed in changes:
            for key, entry in changed.values.items():
                yield Changed(entry.revision if entry else changed.revision, {key: entry})


class MissesDeletions(TellsInParts):
    async def _parts(self, changes: AsyncIterator[Changed]) -> AsyncGenerator[Changed, None]:
        async for changed in changes:
            values = {key: entry for key, entry in changed.values.items() if entry is not None}
            yield Changed(changed.revision, values)


class FoldsCase(MemoryStore):
    async def load(self, prefix: str = "") -> Snapshot:
        snapshot = await super().load()
        found = [e for e in snapshot.entries if e.key.lower().startswith(prefix.lower())]
        return attrs.evolve(snapshot, entries=found)


class LosesLargeValues(MemoryStore):
    async def commit(self, commit: Commit) -> int:
        puts = {key: value[:65536] for key, value in commit.puts.items()}
        return await super().commit(attrs.evolve(commit, puts=puts))


class Unaware:
    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self.lost = trio.Event()
        self.revision = presence.revision

    @property
    def valid_until(self) -> float:
        return self._presence.valid_until


class IsNeverTold(MemoryStore):
    @asynccontextmanager
    async def present(self, key: str, value: bytes, ttl_s: float) -> AsyncIterator[Any]:
        async with super().present(key, value, ttl_s) as presence:
            yield Unaware(presence)


class FailsAtOnce(MemoryStore):
    async def revision(self) -> int:
        raise StoreError("no answer")


class IsHalfDone(MemoryStore):
    """What is cancelled is half done."""

    async def commit(self, commit: Commit) -> int:
        for key, value in list(commit.puts.items())[:1]:
            if not commit.expected and not commit.uniform:
                self._entries[key] = Entry(key, value, self._revision)
        return await super().commit(commit)


class OpensAnotherOne(MemoryStore):
    async def load(self, prefix: str = "") -> Snapshot:
        return attrs.evolve(await super().load(prefix), id=secrets.token_hex(4))


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (ForgetsConditions, "a revision that is expected is that of the entry or 0 for none: an entry"),
        (ForgetsPrefixes, "all entries with a prefix have the value that is expected of them: entries"),
        (DoesItInParts, "all of a commit is done or nothing: a commit in conflict has changed something"),
        (TellsInParts, "all changes are told in order from a load on: "),
        (MissesDeletions, "all changes are told in order from a load on: who follows has"),
        (FoldsCase, "a prefix finds all that begin so and nothing else: 'a' finds"),
        (LosesLargeValues, "a commit is as large as it may be: a large value is another one"),
        (IsNeverTold, "who is deleted or replaced is told and leaves the other alone: no end of it within"),
        (IsHalfDone, "who is cancelled at any step leaves a store that goes on: what was cancelled is done"),
        (OpensAnotherOne, "what was committed is there when the store is opened again: the store was"),
        (FailsAtOnce, "each commit has a later revision which its entries have: StoreError('no answer')"),
    ],
)
async def test_a_fault_is_found_by_name(
    make: Callable[[], MemoryStore],
    check: str,
    autojump_clock: MockClock,
) -> None:
    store = make()
    with pytest.raises(AssertionError) as caught:
        await check_store(lambda: store)
    assert str(caught.value).startswith(check)
