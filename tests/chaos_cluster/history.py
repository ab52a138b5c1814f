"""What is written to a store and what a follower sees of it, while faults come and go.

Each commit has keys of its own, so that each has to be seen: of several changes of a key the last one may be
all that is told.
"""

from __future__ import annotations

import attrs
import trio

from cpg_trio.store import Changed, Commit, CompactedError, ConflictError, Entry, Store, StoreError


@attrs.define(eq=False)
class Writer:
    """Counts in an entry by compare-and-set, and notes what was acknowledged."""

    name: str
    store: Store
    acknowledged: dict[str, int] = attrs.field(factory=dict)
    """The revisions of commits, by the key that is theirs."""
    uncertain: set[str] = attrs.field(factory=set)
    """The keys of commits that may have been done."""
    conflicts: int = 0
    failures: int = 0
    longest_s: float = 0.0
    """That passed between two acknowledged commits."""

    async def run(self) -> None:
        number, last = 0, trio.current_time()
        while True:
            number += 1
            key = f"writes/{self.name}/{number}"
            try:
                entries = {entry.key: entry for entry in (await self.store.load()).entries}
                counter = entries.get("counter")
                count = int(counter.value) if counter else 0
                commit = Commit(
                    puts={"counter": b"%d" % (count + 1), key: b""},
                    expected={"counter": counter.revision if counter else 0, key: 0},
                )
                self.uncertain.add(key)  # also if it is cancelled
                self.acknowledged[key] = await self.store.commit(commit)
                self.uncertain.discard(key)
                self.longest_s = max(self.longest_s, trio.current_time() - last)
                last = trio.current_time()
            except ConflictError:
                self.uncertain.discard(key)
                self.conflicts += 1
            except StoreError:
                self.failures += 1
                await trio.sleep(0.05)
            await trio.sleep(0.005)


@attrs.define(eq=False)
class Follower:
    """Follows a store, and checks that each revision comes once, and in order."""

    store: Store
    entries: dict[str, Entry] = attrs.field(factory=dict)
    revision: int = 0
    seen: dict[str, int] = attrs.field(factory=dict)
    """The revisions at which keys of commits were seen."""
    failures: list[str] = attrs.field(factory=list)
    longest_s: float = 0.0
    """That passed between two changes, or signs of life."""

    async def begin(self) -> None:
        snapshot = await self.store.load()
        self.revision = snapshot.revision
        self.entries = {entry.key: entry for entry in snapshot.entries}

    async def run(self) -> None:
        last = trio.current_time()
        while True:
            try:
                async with self.store.changes(self.revision) as changes:
                    async for change in changes:
                        self.longest_s = max(self.longest_s, trio.current_time() - last)
                        last = trio.current_time()
                        self._take(change)
            except CompactedError:
                raise
            except StoreError as error:
                self.failures.append(str(error))
                await trio.sleep(0.05)

    def _take(self, change: Changed) -> None:
        if not change.values:
            assert change.revision >= self.revision
        for key, entry in change.values.items():
            if entry is None:
                self.entries.pop(key, None)
                continue
            assert self.revision < entry.revision <= change.revision, (self.revision, entry, change.revision)
            self.entries[key] = entry
            if key.startswith("writes/"):
                assert key not in self.seen
                self.seen[key] = entry.revision
        self.revision = change.revision

    async def reached(self, revision: int) -> None:
        while self.revision < revision:  # noqa: ASYNC110 - a test may poll
            await trio.sleep(0.01)


async def check(writers: list[Writer], follower: Follower, store: Store) -> None:
    """Wait until the follower has seen all; check that nothing is lost, and nothing is there twice."""
    with trio.fail_after(20):
        await follower.reached(await store.revision())
        snapshot = await store.load()
        await follower.reached(snapshot.revision)
    there = {entry.key: entry for entry in snapshot.entries}
    assert there == follower.entries
    acknowledged = {key: revision for writer in writers for key, revision in writer.acknowledged.items()}
    uncertain = set[str]().union(*(writer.uncertain for writer in writers))
    assert {key: there[key].revision for key in acknowledged} == acknowledged
    assert {key: follower.seen[key] for key in acknowledged} == acknowledged
    written = {key for key in there if key.startswith("writes/")}
    assert written <= set(acknowledged) | uncertain
    assert int(there["counter"].value) == len(written)  # each has counted once
