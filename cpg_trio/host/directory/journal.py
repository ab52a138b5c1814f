"""The host's state in a store: identities and registrations, put back at the next start.

What is kept of identities that have ended is that they have, for as long as a token of theirs could be shown.
In a store that hosts do not share, health, leases and turns are not kept; a host that has just begun asks.

The state itself does no I/O. It tells which plugins have changed, and what each of them is now is compared
with what the store is known to have, and written.

In a store that hosts share, somebody else loads and follows it. What comes from there is applied to the
state, and not written again; the journal is told of it, as its commits expect what is there.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager

from cpg_trio._nursery import open_plain_nursery
from cpg_trio._reload import reason
from cpg_trio.host.access import Identities
from cpg_trio.host.directory import documents
from cpg_trio.host.directory.documents import ENDED, NOT_BEFORE, PLUGINS, Document, Seals
from cpg_trio.host.directory.known_entries import KnownEntries
from cpg_trio.host.directory.plugin_changes import PluginChanges
from cpg_trio.host.directory.plugin_records import PluginRecords
from cpg_trio.host.directory.registration import Change
from cpg_trio.host.directory.registration_policy import RegistrationPolicy
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.saving import Undo
from cpg_trio.host.directory.writer import Writer
from cpg_trio.http import StartError
from cpg_trio.store import Snapshot, Store, StoreError


class Journal:
    """Keeps the state in a store. What cannot be written is tried again until it can be.

    Without a store nothing is kept. `policy` decides who may provide a service that plugins of other names
    provide at other hosts. `owner` is the id of this host in a store that hosts share, `owns` tells which
    plugins it owns, and `fence` returns what its commits expect in addition; that raises StoreError, with the
    reason, while this host may not write.
    """

    def __init__(
        self,
        store: Store | None,
        identities: Identities,
        registry: Registry,
        policy: RegistrationPolicy | None = None,
        *,
        owner: str = "",
        owns: Callable[[str], bool] = lambda _: True,
        fence: Callable[[], Mapping[str, int]] = dict,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self._identities = identities
        self._registry = registry
        self._is_shared = store is not None and store.shared
        self.records = PluginRecords(
            identities, registry, owner=owner, shared=self._is_shared, wall_clock=wall_clock
        )
        self._known = KnownEntries(followed=self._is_shared)
        may_join = policy.may_join if policy is not None else lambda _, __: False
        self._changes = PluginChanges(self.records, self._known, owns, may_join)
        self._writer: Writer | None = None
        if store is not None:
            self._writer = Writer(store, self.records, self._known, self._changes, fence, policy)
        self._is_open = False
        self._applying = ""

    @property
    def why_unsaved(self) -> str:
        """Why the host is not ready, while the store cannot be written; empty if it can be."""
        return self._writer.why_unsaved if self._writer is not None else ""

    @property
    def seals(self) -> Seals:
        """Seals what is secret. May be set before something is written."""
        return self.records.seals

    @seals.setter
    def seals(self, seals: Seals) -> None:
        self.records.seals = seals

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep the state in the store for as long as the block lasts.

        A store that hosts do not share is opened, and the state is put back: plugins have lapsed until they
        are heard of. Raises: StartError for a store that cannot be used.
        """
        if self.store is None or self._writer is None:
            yield
        elif self._is_shared:
            async with self._running(self._writer):
                yield
        else:
            async with self.store:
                try:
                    self._put_back(await self.store.load())
                except StoreError as error:
                    raise StartError(str(error)) from error
                async with self._running(self._writer):
                    yield

    async def saved(self, runtime_id: str, undo: Undo) -> None:
        """See `Saved`."""
        if self._is_open and self._writer is not None:
            await self._writer.written(runtime_id, undo)

    async def flushed(self) -> None:
        """Wait until all that has changed by now is written, or cannot be."""
        if self._is_open and self._writer is not None:
            await self._writer.flushed()

    def note(self, *runtime_ids: str) -> None:
        """Note that plugins have changed, so that what is kept of them is compared and written."""
        if self._writer is not None:
            self._writer.note(each for each in runtime_ids if each != self._applying)

    # What is followed

    @contextmanager
    def applying(self, runtime_id: str) -> Iterator[None]:
        """Apply what the store has of a plugin: its changes within the block are not written."""
        self._applying = runtime_id
        try:
            yield
        finally:
            self._applying = ""

    def applied(self, key: str, revision: int, value: bytes | None) -> bool:
        """Note what the store has under a key (None: nothing); return whether it is to be applied.

        Not so for what this host has written itself, or has written since. Raises: ValueError for what cannot
        be read.
        """
        is_news = self._known.applied(key, revision, value)
        if key == NOT_BEFORE:
            self._apply_not_before(value)
        elif self._known.leaves_something(runtime_id := documents.runtime_id_of(key)):
            self.note(runtime_id)
        return is_news

    def reading(self, key: str) -> AbstractContextManager[None]:
        """Apply what the store has under a key within the block; whether that was possible is remembered."""
        return self._known.reading(key)

    def is_applied(self, runtime_id: str) -> bool:
        """Whether memory has the document of a plugin as the store does."""
        return not self._known.is_unread(documents.plugin_key(runtime_id))

    def has_unapplied(self) -> bool:
        """Whether the store has something that could not be read."""
        return self._known.has_unread()

    def known_keys(self) -> Collection[str]:
        """Return the keys of all that the store is known to have."""
        return self._known.all()

    def document(self, runtime_id: str) -> Document | None:
        """Return the document of a plugin as this host would write it; None if it has no identity."""
        return self.records.document(runtime_id)

    def known(self, runtime_id: str) -> int:
        """Return the revision of a plugin's document in the store, 0 if there is none."""
        return self._known.revision(documents.plugin_key(runtime_id))

    def _apply_not_before(self, value: bytes | None) -> None:
        self._changes.not_before = documents.decode_not_before(value) if value is not None else 0.0
        self.records.put_back_not_before(self._changes.not_before)
        self.note()  # another host may have put an earlier time

    # The start, and the end

    def _put_back(self, snapshot: Snapshot) -> None:
        self._registry.id = snapshot.id
        plugins, ends, key = [], [], ""
        try:
            for entry in snapshot.entries:
                key, runtime_id = entry.key, documents.runtime_id_of(entry.key)
                self._known.applied(key, entry.revision, entry.value)
                if key.startswith(PLUGINS):
                    plugins.append(documents.decode(runtime_id, entry.value, self.records.seals))
                elif key.startswith(ENDED):
                    ends.append(documents.decode_ended(runtime_id, entry.value))
                elif key == NOT_BEFORE:
                    self._apply_not_before(entry.value)
        except ValueError as error:
            raise StartError(
                f"cannot keep the host's state in {self.store}: its entry {key} is not valid: {reason(error)}"
            ) from error
        self.note(*self.records.put_back(plugins), *self.records.put_back_ended(ends))

    @asynccontextmanager
    async def _running(self, writer: Writer) -> AsyncIterator[None]:
        self._is_open = True
        try:
            with (
                self._identities.watched(self.note),
                self._registry.changes.added(self._note_change),
                self._registry.health_changes.added(self._note_health),
            ):
                async with open_plain_nursery() as nursery:
                    nursery.start_soon(writer.run)
                    yield
                    nursery.cancel_scope.cancel()
        finally:
            self._is_open = False
            await writer.finish()

    def _note_change(self, change: Change) -> None:
        if change.of_registration:
            self.note(change.registration.runtime_id)

    def _note_health(self, runtime_id: str) -> None:
        if self._is_shared:
            self.note(runtime_id)
