"""Follows a shared store: loads it, and applies what is changed, so that discovery asks nobody."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping

import trio

from cpg_trio.host.cluster.applier import Applier
from cpg_trio.host.cluster.owners import HOSTS
from cpg_trio.host.directory.documents import DRAINED, ENDED, NOT_BEFORE, PLUGINS
from cpg_trio.store import CompactedError, Entry, ReplacedError, Snapshot, Store, StoreError

_log = logging.getLogger("cpg_trio.host")

_RETRY_S = 0.2
_LONGEST_RETRY_S = 2.0
_SLICE_S = 0.002  # for which entries are applied at a time
# In which order keys are applied. An end comes before all else of its plugin, and a host before its plugins.
_ORDER = (NOT_BEFORE, ENDED, HOSTS, DRAINED, PLUGINS)


class Follower:
    """Follows a store. `members_changed` is called when hosts may have come or gone."""

    def __init__(self, store: Store, applier: Applier, members_changed: Callable[[], object]) -> None:
        self._store = store
        self._applier = applier
        self._members_changed = members_changed
        self.revision = 0
        """All that was changed until this revision of the store is applied."""
        self.failing_since: float | None = None
        """Since when the store cannot be followed, on Trio's clock; None while it can be."""
        self.why_failing = ""
        self._moved = trio.Event()
        self._turn = trio.CancelScope()
        self._wanted = self._loaded = 0  # how many times to load, and how many loads are done

    async def load(self, snapshot: Snapshot) -> None:
        """Apply all that is in a store, and forget what is not."""
        await self._apply_all(snapshot)
        self._reached(snapshot.revision)

    async def run(self) -> None:
        """Follow the store, from the revision that has been loaded, until cancelled.

        What cannot be reached is tried again. Raises: ReplacedError if it is not the store any more.
        """
        while True:
            with trio.CancelScope() as self._turn:
                try:
                    if self._loaded != self._wanted:
                        await self._load_again()
                    await self._follow()
                except CompactedError:
                    self._wanted += 1
                except ReplacedError:
                    raise
                except StoreError as error:
                    await self._failed(error)

    async def reached(self, revision: int) -> None:
        """Wait until what was changed until a revision has been applied."""
        while self.revision < revision:
            await self._moved.wait()

    async def compared(self) -> None:
        """Load the store anew, and wait until that is applied."""
        self._wanted = wanted = self._wanted + 1
        self._turn.cancel()
        while self._loaded < wanted:
            await self._moved.wait()

    async def _load_again(self) -> None:
        wanted = self._wanted
        snapshot = await self._store.load()
        self._works()
        await self._apply_all(snapshot)
        self._loaded = wanted
        self._reached(snapshot.revision)

    async def _follow(self) -> None:
        async with self._store.changes(self.revision) as changes:
            self._works()
            async for changed in changes:
                await self._apply(changed.values, changed.revision)
                self._reached(changed.revision)

    async def _apply_all(self, snapshot: Snapshot) -> None:
        entries = {entry.key: entry for entry in snapshot.entries}
        gone = dict.fromkeys(self._applier.missing(entries))
        await self._apply({**gone, **entries}, snapshot.revision, anew=True)

    async def _failed(self, error: StoreError) -> None:
        now = trio.current_time()
        if self.failing_since is None:
            self.failing_since = now
        self.why_failing = str(error)
        retry_s = min(_LONGEST_RETRY_S, max(_RETRY_S, (now - self.failing_since) / 2))
        await trio.sleep(retry_s * random.uniform(0.5, 1.0))  # noqa: S311 - hosts take turns

    async def _apply(self, values: Mapping[str, Entry | None], revision: int, *, anew: bool = False) -> None:
        """Apply entries, and let others work every now and then."""
        began = time.perf_counter()
        for key in _in_order(values):
            self._applier.apply(key, values[key], revision, anew=anew)
            if time.perf_counter() - began > _SLICE_S:
                await trio.lowlevel.checkpoint()
                began = time.perf_counter()
        if any(key.startswith(HOSTS) for key in values):
            self._members_changed()

    def _works(self) -> None:
        if self.failing_since is not None:
            _log.info("the store is followed again, after %.1f s", trio.current_time() - self.failing_since)
            self.failing_since = None

    def _reached(self, revision: int) -> None:
        """Note that all until a revision is applied; for watchers that is never less than it was."""
        self.revision = revision
        registry = self._applier.registry
        registry.revision = max(registry.revision, revision)
        self._moved.set()
        self._moved = trio.Event()


def _in_order(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=_place)


def _place(key: str) -> int:
    return next((place for place, prefix in enumerate(_ORDER) if key.startswith(prefix)), len(_ORDER))
