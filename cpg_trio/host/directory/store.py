"""The host's state in a store: identities and registrations, put back at the next start.

What is kept of identities that have ended is that they have, for as long as a token of theirs could be shown.
Health, leases and turns are not kept; a host that has just begun asks.

The state itself does no I/O. It tells which plugins have changed, and the journal writes what each of them is
now: in a thread, and in few transactions all that has come while the last one was under way. The names of
those that have changed are kept until they are written; when they are too many (the disk is full, say), all
that there is will be compared with the store.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

import attrs
import trio

from cpg_trio import _clock
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host.access import SKEW_S, Ended, Entry, Identities, Identity
from cpg_trio.host.directory.leases import NOT_HEARD_OF
from cpg_trio.host.directory.registration import Change, Registration
from cpg_trio.host.directory.registry import Registry
from cpg_trio.rpc import Code, ConnectError

_log = logging.getLogger("cpg_trio.host")

_RETRY_S = 1.0
_MAX_CHANGED = 5000  # plugins that are remembered to have changed
_MAX_AT_ONCE = 100  # plugins in a transaction

_OF_IDENTITY = [field.name for field in attrs.fields(Identity)]

_T = TypeVar("_T")
_Table: TypeAlias = Sequence[Mapping[str, Any]]
Undo: TypeAlias = Callable[[], object]
Saved: TypeAlias = Callable[[Undo], Awaitable[None]]
"""Waits until the change that has just been made is in the store. If it cannot be written, it is undone with
the function that is given. Raises: ConnectError `unavailable`, and then nothing has changed."""


@attrs.frozen
class Rows:
    """All that is kept of some plugins. Times are in seconds since 1970."""

    identities: _Table
    ended: _Table
    registrations: _Table
    not_before: float
    """See `Identities`."""


class StoreError(Exception):
    """A store cannot be written, or read; the message says why."""


class Store(Protocol):
    """Where rows are kept. Its methods block: they are called in a thread, one at a time."""

    def load(self, now: float) -> tuple[str, Rows]:
        """Return the id of the registry and all rows, in the order in which they are put back.

        What has expired at `now` is removed. Raises: StartError.
        """

    def plugins(self) -> list[str]:
        """Return the runtime ids of the plugins that there are rows of. Raises: StoreError."""

    def replace(self, plugins: Sequence[str], rows: Rows) -> None:
        """Replace all rows of some plugins, in one transaction. Raises: StoreError."""

    def close(self) -> None:
        """Let go of it."""


@attrs.define(eq=False)
class _Batch:
    """Changes that are written together."""

    begun: trio.Event = attrs.field(factory=trio.Event)
    undos: list[Undo] = attrs.field(factory=list)
    done: trio.Event = attrs.field(factory=trio.Event)
    failed: bool = False


class Journal:
    """Keeps the state in a store. What cannot be written is tried again until it can be.

    `open_store` opens the store, in a thread; without it nothing is kept.
    """

    store: Store

    def __init__(
        self,
        open_store: Callable[[], Store] | None,
        identities: Identities,
        registry: Registry,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._open_store = open_store
        self._identities = identities
        self._registry = registry
        self._wall_clock = wall_clock
        self._is_open = False
        self._changed: set[str] = set()  # runtime ids
        self._compare = False  # with the whole store, as there were too many of them
        self._batch = _Batch()
        self._own_thread = trio.CapacityLimiter(1)  # others may all be busy, looking up names
        self.why_unsaved = ""
        """Why the host is not ready, while the store cannot be written; empty if it can be."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Put the state back, and keep it in the store for as long as the block lasts.

        Plugins that are put back have lapsed until they are heard of. Raises: StartError for a store that
        cannot be used.
        """
        if self._open_store is None:
            yield
            return
        self.store = await trio.to_thread.run_sync(self._open_store)
        try:
            self._put_back(*await self._in_thread(self.store.load, self._wall_clock()))
            self._is_open = True
            with self._identities.watched(self._note), self._registry.changes.added(self._note_change):
                async with open_plain_nursery() as nursery:
                    nursery.start_soon(self._run)
                    yield
                    nursery.cancel_scope.cancel()
        finally:
            self._is_open = False
            await self._close()

    async def saved(self, undo: Undo) -> None:
        """See `Saved`."""
        if not self._is_open:
            return
        batch = self._batch
        batch.undos.append(undo)
        batch.begun.set()
        await batch.done.wait()
        if batch.failed:
            raise ConnectError(Code.UNAVAILABLE, "the host cannot write its state; nothing has changed")

    def _put_back(self, registry_id: str, rows: Rows) -> None:
        now, since_1970 = self._wall_clock(), self._since_1970()
        self._registry.id = registry_id
        self._identities.not_before = min(rows.not_before, now + SKEW_S)  # the clock may have been ahead
        for row in rows.identities:
            # The clock may have been ahead then: nothing has more time left than when it was saved.
            left_s = row["expires_at"] - max(now, row["saved_at"])
            entry = Entry(
                Identity(**{name: row[name] for name in _OF_IDENTITY}),
                row["digest"],
                _clock.current_time() + left_s,
            )
            self._identities.restore(entry)
        for row in rows.ended:
            self._identities.restore_ended(Ended(**{**row, "until": row["until"] - since_1970}))
        for row in rows.registrations:
            self._registry.set_lapsed(row["runtime_id"], NOT_HEARD_OF)
            fields = {name: value for name, value in row.items() if name != "address"}
            self._registry.restore(Registration(**fields, addresses=(row["address"],)))

    def _note(self, runtime_id: str) -> None:
        self._add([runtime_id])
        self._batch.begun.set()

    def _note_change(self, change: Change) -> None:
        if change.of_registration:
            self._note(change.registration.runtime_id)

    def _add(self, changed: Iterable[str]) -> None:
        if not self._compare:
            self._changed.update(changed)
        if len(self._changed) > _MAX_CHANGED:
            self._changed.clear()
            self._compare = True

    async def _run(self) -> None:
        while True:
            with trio.move_on_after(_RETRY_S if self.why_unsaved else math.inf):
                await self._batch.begun.wait()
            await self._write()

    async def _close(self) -> None:
        """Write what is left, and close the store; to the end, even if cancelled."""
        try:
            if self._changed or self._compare or self._batch.undos:  # a caller may still wait
                await self._write()
        finally:
            with trio.CancelScope(shield=True):
                await self._in_thread(self.store.close)

    async def _write(self) -> None:
        """Write all that has changed. A transaction that has begun is waited for, even if cancelled."""
        changed, self._changed = self._changed, set()
        compare, self._compare = self._compare, False
        batch, self._batch = self._batch, _Batch()
        with trio.CancelScope(shield=True):
            try:
                if compare:
                    changed.update(self._identities.known(), await self._in_thread(self.store.plugins))
                await self._replace(list(changed))
            except StoreError as error:
                self._compare = self._compare or compare
                self._add(changed)
                self._undo(batch)
                self._tell(error)
            else:
                self._tell(None)
        batch.done.set()

    async def _replace(self, plugins: Sequence[str]) -> None:
        """Write what there is of some plugins; one transaction may succeed where the next one fails."""
        for begin in range(0, max(1, len(plugins)), _MAX_AT_ONCE):
            some = plugins[begin : begin + _MAX_AT_ONCE]
            await self._in_thread(self.store.replace, some, self._rows(some))

    async def _in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await trio.to_thread.run_sync(function, *arguments, limiter=self._own_thread)

    def _undo(self, batch: _Batch) -> None:
        """Undo what could not be written; before it, what has come since."""
        later = self._batch
        for undo in reversed([*batch.undos, *later.undos]):
            undo()
        batch.failed = later.failed = True
        later.done.set()
        self._batch = _Batch()

    def _tell(self, error: StoreError | None) -> None:
        """Log that the store cannot be written, or can be again: once each."""
        if error is not None and not self.why_unsaved:
            _log.error("cannot write the host's state to %s, and tries on: %s", self.store, error)
        elif error is None and self.why_unsaved:
            _log.warning("the host's state is written to %s again", self.store)
        self.why_unsaved = f"its state cannot be written: {error}" if error is not None else ""

    def _rows(self, plugins: Iterable[str]) -> Rows:
        """Return what there is of some plugins now."""
        since_1970 = self._since_1970()
        entries = [entry for runtime_id in plugins if (entry := self._identities.entry(runtime_id))]
        ends = [ended for runtime_id in plugins if (ended := self._identities.ended(runtime_id))]
        return Rows(
            identities=[_identity_row(entry, since_1970) for entry in entries],
            ended=[{**attrs.asdict(e), "until": e.until + since_1970} for e in ends],
            registrations=[
                {**attrs.asdict(r, recurse=False, filter=lambda field, _: field.init), "address": r.address}
                for entry in entries
                for r in self._registry.registrations(entry.identity.runtime_id)
            ],
            not_before=self._identities.not_before,
        )

    def _since_1970(self) -> float:
        """Return what makes a time of the identities' clock one that holds for other processes."""
        return self._wall_clock() - _clock.current_time()


def _identity_row(entry: Entry, since_1970: float) -> Mapping[str, Any]:
    return {
        **attrs.asdict(entry.identity),
        "digest": entry.digest,
        "expires_at": entry.expires_at + since_1970,
        "saved_at": _clock.current_time() + since_1970,
    }
