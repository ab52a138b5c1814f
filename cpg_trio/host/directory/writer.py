"""Writes what has changed to a store: in few commits all that has come while the last one was under way.

The names of the plugins that have changed are kept until they are written. When they are too many (the disk
is full, say), all that there is will be compared with what the store is known to have.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping

import trio

from cpg_trio.host.access import RefusedError
from cpg_trio.host.directory.commits import Commits
from cpg_trio.host.directory.known_entries import KnownEntries
from cpg_trio.host.directory.plugin_changes import PluginChanges
from cpg_trio.host.directory.plugin_records import PluginRecords
from cpg_trio.host.directory.registration_policy import RegistrationPolicy
from cpg_trio.host.directory.saving import Batch, Undo, Waiter, undo
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.store import Store, StoreError

_log = logging.getLogger("cpg_trio.host")

_RETRY_S = 1.0
_MAX_CHANGED = 5000  # plugins that are remembered to have changed
_MAX_AT_ONCE = 100  # plugins that are compared with the store, before they are written


class Writer:
    """Writes to a store. What cannot be written is undone, and tried again until it can be.

    `fence` and `policy` are those of the journal.
    """

    def __init__(
        self,
        store: Store,
        records: PluginRecords,
        known: KnownEntries,
        changes: PluginChanges,
        fence: Callable[[], Mapping[str, int]],
        policy: RegistrationPolicy | None,
    ) -> None:
        self._store = store
        self._records = records
        self._known = known
        self._changes = changes
        self._fence = fence
        self._policy = policy
        self._commits = Commits(store, records, known, changes, fence, self._refuse, self._refuse_service)
        self._changed: dict[str, None] = {}  # runtime ids
        self._compare = False  # with all that is known, as there were too many of them
        self._batch = self._writing = Batch()
        self._told = False  # that it cannot be written
        self.why_unsaved = ""
        """Why the host is not ready, while the store cannot be written; empty if it can be."""

    def note(self, changed: Iterable[str]) -> None:
        """Note plugins that have changed, to be compared with the store soon."""
        self._add(changed)
        self._batch.begun.set()

    async def written(self, runtime_id: str, undo_it: Undo) -> None:
        """Wait until the change of a plugin that has been noted is written. See `Saved`."""
        if self._records.shared and self._may_not_write():
            undo_it()
            raise _unavailable()
        batch, waiter = self._batch, Waiter(runtime_id, undo_it)
        batch.waiters.append(waiter)
        batch.begun.set()
        await batch.done.wait()
        if waiter.error is not None:
            raise waiter.error

    async def flushed(self) -> None:
        """Wait until all that has changed by now is written, or cannot be."""
        batch = self._batch
        batch.begun.set()
        await batch.done.wait()

    async def run(self) -> None:
        """Write what changes until cancelled; a commit that has begun is waited for."""
        while True:
            if self._records.shared and self.why_unsaved:
                await trio.sleep(_RETRY_S)  # changes are refused meanwhile
            else:
                with trio.move_on_after(_RETRY_S if self.why_unsaved else math.inf):
                    await self._batch.begun.wait()
            await self._write()

    async def finish(self) -> None:
        """Write what is left, in one try."""
        if self._changed or self._compare or self._batch.waiters:  # a caller may wait
            await self._write()

    def _add(self, changed: Iterable[str]) -> None:
        if not self._compare:
            self._changed.update(dict.fromkeys(changed))
        if len(self._changed) > _MAX_CHANGED:
            self._changed.clear()
            self._compare = True

    async def _write(self) -> None:
        changed, self._changed = self._changed, {}
        compare, self._compare = self._compare, False
        batch, self._batch = self._batch, Batch()
        self._writing = batch
        with trio.CancelScope(shield=True):
            try:
                await self._commits.look_again()
                if compare:
                    identities = self._records.identities.known()
                    changed.update(dict.fromkeys([*identities, *self._known.plugins()]))
                await self._write_plugins(list(changed))
            except StoreError as error:
                self._undo(batch)
                self._compare = self._compare or compare
                self._add(changed)
                self._tell(error)
            else:
                self._tell(None)
        self._writing = self._batch  # what is written is not held until there is something else to write
        batch.done.set()

    async def _write_plugins(self, plugins: list[str]) -> None:
        for begin in range(0, max(1, len(plugins)), _MAX_AT_ONCE):
            some = plugins[begin : begin + _MAX_AT_ONCE]
            changes = [change for runtime_id in some for change in self._changes.of(runtime_id)]
            is_try = bool(self.why_unsaved)  # something has to be written, to know that it is possible
            await self._commits.write([*self._changes.of_not_before(always=is_try), *changes])

    def _undo(self, batch: Batch) -> None:
        """Undo what could not be written; before it, what has come since."""
        later, self._batch = self._batch, Batch()
        undo([batch, later], _unavailable())
        later.done.set()

    def _refuse(self, about: str, error: Exception) -> None:
        """Undo the changes of one plugin."""
        undo([self._writing, self._batch], error, about)

    def _refuse_service(self, runtime_id: str, service_type: str, names: list[str]) -> None:
        """Undo the changes of a plugin that has registered a service which is another's at another host."""
        entry = self._records.identities.entry(runtime_id)
        error: Exception = _unavailable()
        if self._policy is not None and entry is not None:
            try:
                self._policy.check_among(entry.identity, service_type, names)
            except RefusedError as refused:
                error = refused
        self._refuse(runtime_id, error)
        registry = self._records.registry
        registration = registry.provider(service_type, runtime_id)
        if registration is not None and service_type not in self._known.types(runtime_id):
            _log.warning("%s: %s is provided by %s", runtime_id, service_type, ", ".join(names))
            registry.unregister(runtime_id, registration.id)  # nobody has waited for it

    def _may_not_write(self) -> bool:
        """Whether it is known without a try that nothing can be written now."""
        return bool(self.why_unsaved) or self._is_shut_out()

    def _is_shut_out(self) -> bool:
        """Whether this host may not write, and has said so."""
        try:
            self._fence()
        except StoreError:
            return True
        return False

    def _tell(self, error: StoreError | None) -> None:
        """Log that the store cannot be written, or can be again: once each."""
        if error is None and self._told:
            self._told = False
            _log.warning("the host's state is written to %s again", self._store)
        elif error is not None and not self._told and not self._is_shut_out():
            self._told = True
            _log.error("cannot write the host's state to %s, and tries on: %s", self._store, error)
        self.why_unsaved = f"its state cannot be written: {error}" if error is not None else ""


def _unavailable() -> ConnectError:
    return ConnectError(Code.UNAVAILABLE, "the host cannot write its state; nothing has changed")
