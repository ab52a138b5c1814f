"""The host's state in a store: identities and registrations, put back at the next start.

What is kept of identities that have ended is that they have, for as long as a token of theirs could be shown.
In a store that hosts do not share, health, leases and turns are not kept; a host that has just begun asks.

The state itself does no I/O. It tells which plugins have changed, and the journal writes what each of them is
now: in few commits all that has come while the last one was under way. The names of those that have changed
are kept until they are written; when they are too many (the disk is full, say), all that there is will be
compared with the store.

In a store that hosts share, somebody else loads and follows it. What comes from there is applied to the
state, and not written again; the journal is told of it, as its commits expect what is there.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio._reload import reason
from cpg_trio.host.access import Identities, RefusedError
from cpg_trio.host.directory import documents
from cpg_trio.host.directory.commits import Commits
from cpg_trio.host.directory.documents import ENDED, NOT_BEFORE, PLUGINS, Document, Seals
from cpg_trio.host.directory.known_entries import KnownEntries
from cpg_trio.host.directory.plugin_changes import PluginChanges
from cpg_trio.host.directory.plugin_records import PluginRecords
from cpg_trio.host.directory.registration import Change as RegistryChange
from cpg_trio.host.directory.registration_policy import RegistrationPolicy
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.saving import Batch, Undo, undo_all, undo_of
from cpg_trio.http import StartError
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.store import Snapshot, Store, StoreError

_log = logging.getLogger("cpg_trio.host")

_RETRY_S = 1.0
_MAX_CHANGED = 5000  # plugins that are remembered to have changed
_MAX_AT_ONCE = 100  # plugins that are compared with the store, before they are written


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
        self._policy = policy
        self._fence = fence
        self._is_shared = store is not None and store.shared
        self.records = PluginRecords(
            identities, registry, owner=owner, shared=self._is_shared, wall_clock=wall_clock
        )
        self._known = KnownEntries(followed=self._is_shared)
        may_join = policy.may_join if policy is not None else lambda _, __: False
        self._changes = PluginChanges(self.records, self._known, owns, may_join)
        self._is_open = False
        self._changed: dict[str, None] = {}  # runtime ids
        self._compare = False  # with the whole store, as there were too many of them
        self._applying = ""
        self._batch = self._writing = Batch()
        self.why_unsaved = ""
        """Why the host is not ready, while the store cannot be written; empty if it can be."""

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
        if self.store is None:
            yield
        elif self._is_shared:
            async with self._running(self.store):
                yield
        else:
            async with self.store:
                try:
                    self._put_back(await self.store.load())
                except StoreError as error:
                    raise StartError(str(error)) from error
                async with self._running(self.store):
                    yield

    async def saved(self, runtime_id: str, undo: Undo) -> None:
        """See `Saved`."""
        if not self._is_open:
            return
        if self._is_shared and self._may_not_write():
            undo()
            raise _unavailable()
        batch = self._batch
        batch.undos.append((runtime_id, undo))
        batch.begun.set()
        await batch.done.wait()
        if (error := batch.error_of(runtime_id)) is not None:
            raise error

    async def flushed(self) -> None:
        """Wait until all that has changed by now is written, or cannot be."""
        if self._is_open:
            batch = self._batch
            batch.begun.set()
            await batch.done.wait()

    def note(self, runtime_id: str) -> None:
        """Note that a plugin has changed, so that what is kept of it will be compared and written."""
        if runtime_id != self._applying:
            self._add([runtime_id])
            self._batch.begun.set()

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

    def document(self, runtime_id: str) -> Document | None:
        """Return the document of a plugin as this host would write it; None if it has no identity."""
        return self.records.document(runtime_id)

    def known(self, runtime_id: str) -> int:
        """Return the revision of a plugin's document in the store, 0 if there is none."""
        return self._known.revision(documents.plugin_key(runtime_id))

    def _apply_not_before(self, value: bytes | None) -> None:
        self._changes.not_before = documents.decode_not_before(value) if value is not None else 0.0
        self.records.put_back_not_before(self._changes.not_before)
        self._batch.begun.set()  # another host may have put an earlier time

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
        self._add([*self.records.put_back(plugins), *self.records.put_back_ended(ends)])

    @asynccontextmanager
    async def _running(self, store: Store) -> AsyncIterator[None]:
        commits = Commits(
            store,
            self.records,
            self._known,
            self._changes,
            self._fence,
            self._refuse,
            self._refuse_service,
        )
        self._is_open = True
        try:
            with (
                self._identities.watched(self.note),
                self._registry.changes.added(self._note_change),
                self._registry.health_changes.added(self._note_health),
            ):
                async with open_plain_nursery() as nursery:
                    nursery.start_soon(self._run, commits)
                    yield
                    nursery.cancel_scope.cancel()
        finally:
            self._is_open = False
            if self._changed or self._compare or self._batch.undos:  # a caller may wait
                await self._write(commits)

    def _note_change(self, change: RegistryChange) -> None:
        if change.of_registration:
            self.note(change.registration.runtime_id)

    def _note_health(self, runtime_id: str) -> None:
        if self._is_shared:
            self.note(runtime_id)

    def _add(self, changed: Iterable[str]) -> None:
        if not self._compare:
            self._changed.update(dict.fromkeys(changed))
        if len(self._changed) > _MAX_CHANGED:
            self._changed.clear()
            self._compare = True

    # Writing

    async def _run(self, commits: Commits) -> None:
        while True:
            if self._is_shared and self.why_unsaved:
                await trio.sleep(_RETRY_S)  # changes are refused meanwhile
            else:
                with trio.move_on_after(_RETRY_S if self.why_unsaved else math.inf):
                    await self._batch.begun.wait()
            await self._write(commits)

    async def _write(self, commits: Commits) -> None:
        """Write all that has changed. A commit that has begun is waited for, even if cancelled."""
        changed, self._changed = self._changed, {}
        compare, self._compare = self._compare, False
        batch, self._batch = self._batch, Batch()
        self._writing = batch
        with trio.CancelScope(shield=True):
            try:
                await commits.look_again()
                if compare:
                    changed.update(dict.fromkeys([*self._identities.known(), *self._known.plugins()]))
                await self._write_plugins(commits, list(changed))
            except StoreError as error:
                self._compare = self._compare or compare
                self._add(changed)
                self._undo(batch, _unavailable())
                self._tell(error)
            else:
                self._tell(None)
        batch.done.set()

    async def _write_plugins(self, commits: Commits, plugins: list[str]) -> None:
        for begin in range(0, max(1, len(plugins)), _MAX_AT_ONCE):
            some = plugins[begin : begin + _MAX_AT_ONCE]
            changes = [change for runtime_id in some for change in self._changes.of(runtime_id)]
            is_try = bool(self.why_unsaved)  # something has to be written, to know that it is possible
            await commits.write([*self._changes.of_not_before(always=is_try), *changes])

    def _undo(self, batch: Batch, error: Exception) -> None:
        """Undo what could not be written; before it, what has come since."""
        later, self._batch = self._batch, Batch()
        undo_all([batch, later], error)
        later.done.set()

    def _refuse(self, about: str, error: Exception) -> None:
        """Undo the changes of one plugin."""
        undo_of(about, [self._writing, self._batch], error)

    def _refuse_service(self, runtime_id: str, service_type: str, names: list[str]) -> None:
        """Undo the changes of a plugin that has registered a service which is another's at another host."""
        entry = self._identities.entry(runtime_id)
        error: Exception = _unavailable()
        if self._policy is not None and entry is not None:
            try:
                self._policy.check_among(entry.identity, service_type, names)
            except RefusedError as refused:
                error = refused
        self._refuse(runtime_id, error)
        registration = self._registry.provider(service_type, runtime_id)
        if registration is not None and service_type not in self._known.types(runtime_id):
            _log.warning("%s: %s is provided by %s", runtime_id, service_type, ", ".join(names))
            self._registry.unregister(runtime_id, registration.id)  # nobody has waited for it

    def _may_not_write(self) -> bool:
        """Whether it is known without a try that nothing can be written now."""
        try:
            self._fence()
        except StoreError:
            return True
        return bool(self.why_unsaved)

    def _tell(self, error: StoreError | None) -> None:
        """Log that the store cannot be written, or can be again: once each."""
        if error is not None and not self.why_unsaved:
            _log.error("cannot write the host's state to %s, and tries on: %s", self.store, error)
        elif error is None and self.why_unsaved:
            _log.warning("the host's state is written to %s again", self.store)
        self.why_unsaved = f"its state cannot be written: {error}" if error is not None else ""


def _unavailable() -> ConnectError:
    return ConnectError(Code.UNAVAILABLE, "the host cannot write its state; nothing has changed")
