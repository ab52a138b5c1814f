"""The host's state on the disk: identities and registrations in an SQLite file, put back at the next start.

What is kept of identities that have ended is that they have, for as long as a token of theirs could be shown.

The state itself does no I/O. It announces which plugins have changed, and the journal here writes down what
each of them is now: in a thread, and in few transactions all that has come while the last one was under way.
The names of those that have changed are kept until they are written; when they are too many (the disk is
full, say), all that there is will be compared with the file. Health, leases and turns are not kept; a host
that has just begun asks. Tokens are not, only their digests.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import attrs
import trio

from cpg_trio import _clock
from cpg_trio._nursery import open_plain_nursery
from cpg_trio._reload import reason
from cpg_trio.host.access.ended_identities import Ended
from cpg_trio.host.access.identity import SKEW_S, Entry, Identities, Identity
from cpg_trio.host.directory.leases import NOT_HEARD_OF
from cpg_trio.host.directory.registration import Change, Registration
from cpg_trio.host.directory.registry import Registry
from cpg_trio.http import StartError
from cpg_trio.rpc import Code, ConnectError

_log = logging.getLogger("cpg_trio.host")

_RETRY_S = 1.0
_MOST_CHANGED = 5000  # plugins that are remembered to have changed
_MOST_AT_ONCE = 100  # plugins in a transaction
_APPLICATION_ID = 0x63706774  # "cpgt", in the header of each file of ours
_VERSION = 4  # of the schema
_NEW_IN_2 = """
CREATE TABLE ended (
    runtime_id TEXT PRIMARY KEY, self_id TEXT NOT NULL, why TEXT NOT NULL,
    until REAL NOT NULL -- in seconds since 1970
) STRICT;
CREATE TABLE host (id TEXT NOT NULL) STRICT;
INSERT INTO host VALUES (lower(hex(randomblob(8))));
"""
_FROM_1_TO_2 = f"""
BEGIN;
ALTER TABLE identities ADD COLUMN provides TEXT;
ALTER TABLE identities ADD COLUMN requires TEXT;
ALTER TABLE identities ADD COLUMN address TEXT NOT NULL DEFAULT 'unknown';
{_NEW_IN_2}
PRAGMA user_version = 2;
COMMIT;
"""
_NEW_IN_3 = """
ALTER TABLE host ADD COLUMN not_before REAL NOT NULL DEFAULT 0; -- in seconds since 1970; see Identities
"""
_FROM_2_TO_3 = f"""
BEGIN;
ALTER TABLE identities ADD COLUMN saved_at REAL NOT NULL DEFAULT 0;
{_NEW_IN_3}
PRAGMA user_version = 3;
COMMIT;
"""
_NEW_IN_4 = """
ALTER TABLE identities ADD COLUMN answers INTEGER NOT NULL DEFAULT 0;
"""
_FROM_3_TO_4 = f"""
BEGIN;
{_NEW_IN_4}
PRAGMA user_version = 4;
COMMIT;
"""
_SCHEMA = f"""
BEGIN;
CREATE TABLE identities (
    runtime_id TEXT PRIMARY KEY, self_id TEXT NOT NULL,
    expires_at REAL NOT NULL, -- in seconds since 1970
    digest BLOB NOT NULL,
    provides TEXT, requires TEXT, -- JSON
    address TEXT NOT NULL DEFAULT 'unknown',
    saved_at REAL NOT NULL DEFAULT 0 -- in seconds since 1970, by the clock of expires_at
) STRICT;
{_NEW_IN_2}
{_NEW_IN_3}
{_NEW_IN_4}
CREATE TABLE registrations (
    id TEXT NOT NULL, runtime_id TEXT NOT NULL REFERENCES identities ON DELETE CASCADE,
    service_type TEXT NOT NULL, version TEXT NOT NULL, endpoint_path TEXT NOT NULL,
    metadata TEXT NOT NULL, -- JSON
    sequence INTEGER NOT NULL, address TEXT NOT NULL, PRIMARY KEY (runtime_id, service_type)
) STRICT;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_ADVICE = {
    sqlite3.SQLITE_BUSY: "stop the host that uses it, or ",
    sqlite3.SQLITE_CORRUPT: "move it away, and plugins will register anew, or ",
}

_T = TypeVar("_T")
_Table: TypeAlias = Sequence[Mapping[str, Any]]
Undo: TypeAlias = Callable[[], object]
Saved: TypeAlias = Callable[[Undo], Awaitable[None]]
"""Waits until the change that has just been made is on the disk. If it cannot be written, it is undone with
the function that is given. Raises: ConnectError `unavailable`, and then nothing has changed."""


@attrs.frozen
class _Rows:
    """What is written at once: all that there is of some plugins."""

    plugins: _Table
    identities: _Table
    ended: _Table
    registrations: _Table
    not_before: float
    """See `Identities`."""


@attrs.frozen
class _Kept:
    """What is in a file, in the order in which it is put back."""

    host_id: str
    not_before: float
    identities: _Table
    ended: _Table
    registrations: Sequence[Registration]


@asynccontextmanager
async def journaled(
    path: Path | None,
    identities: Identities,
    registry: Registry,
    wall_clock: Callable[[], float] = time.time,
    tell: Callable[[str], object] = lambda _: None,
) -> AsyncIterator[Saved]:
    """Put back the state that a file has, and keep it there for as long as the block lasts.

    Plugins that are put back have lapsed until they are heard of. Without a path nothing is kept. `tell` is
    called with why the file cannot be written, and with an empty string when it can be again.
    Raises: StartError for a file that cannot be had.
    """
    if path is None:
        yield nothing_to_save
        return
    connection = await trio.to_thread.run_sync(_open, path)
    journal = _Journal(path, connection, identities, registry, wall_clock, tell)
    try:
        await journal.put_back()
        with identities.watched(journal.note), registry.watched(journal.note_change):
            async with open_plain_nursery() as nursery:
                nursery.start_soon(journal.run)
                yield journal.saved
                nursery.cancel_scope.cancel()
    finally:
        await journal.close()


async def nothing_to_save(_: Undo) -> None:
    """Be done: nothing is kept."""


@attrs.define(eq=False)
class _Batch:
    """Changes that are written together."""

    begun: trio.Event = attrs.field(factory=trio.Event)
    undos: list[Undo] = attrs.field(factory=list)
    done: trio.Event = attrs.field(factory=trio.Event)
    failed: bool = False


class _Journal:
    """Writes down what changes. What cannot be written is tried again until it can be."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        identities: Identities,
        registry: Registry,
        wall_clock: Callable[[], float],
        tell: Callable[[str], object],
    ) -> None:
        self._path = path
        self._connection = connection
        self._identities = identities
        self._registry = registry
        self._wall_clock = wall_clock
        self._tell_why = tell
        self._changed: set[str] = set()  # runtime ids
        self._compare = False  # the whole file, as there were too many of them
        self._batch = _Batch()
        self._failing = False
        self._own_thread = trio.CapacityLimiter(1)  # others may all be busy, looking up names

    async def put_back(self) -> None:
        """Put back what is in the file. Raises: StartError."""
        now = self._wall_clock()
        with _start_errors(self._path):
            kept = await trio.to_thread.run_sync(_load, self._connection, now)
        self._registry.id = kept.host_id
        self._identities.not_before = min(kept.not_before, now + SKEW_S)  # the clock may have been ahead
        since_1970 = self._since_1970()
        for row in kept.identities:
            # The clock may have been ahead then: nothing has more time left than when it was saved.
            left_s = row["expires_at"] - max(now, row["saved_at"])
            entry = Entry(_identity(row), row["digest"], _clock.current_time() + left_s)
            self._identities.restore(entry)
        for row in kept.ended:
            self._identities.restore_ended(Ended(**{**row, "until": row["until"] - since_1970}))
        for registration in kept.registrations:
            self._registry.set_lapsed(registration.runtime_id, NOT_HEARD_OF)
            self._registry.restore(registration)

    def note(self, runtime_id: str) -> None:
        """Note that a plugin has changed."""
        self._add([runtime_id])
        self._batch.begun.set()

    def note_change(self, change: Change) -> None:
        """Note that a registration has come or gone. Health is not kept."""
        if change.of_registration:
            self.note(change.registration.runtime_id)

    def _add(self, changed: Iterable[str]) -> None:
        if not self._compare:
            self._changed.update(changed)
        if len(self._changed) > _MOST_CHANGED:
            self._changed.clear()
            self._compare = True

    async def saved(self, undo: Undo) -> None:
        """See `Saved`."""
        batch = self._batch
        batch.undos.append(undo)
        batch.begun.set()
        await batch.done.wait()
        if batch.failed:
            raise ConnectError(Code.UNAVAILABLE, "the host cannot write its state; nothing has changed")

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            with trio.move_on_after(_RETRY_S if self._failing else math.inf):
                await self._batch.begun.wait()
            await self._write()

    async def close(self) -> None:
        """Write what is left, and close the file; to the end, even if cancelled."""
        try:
            if self._changed or self._compare or self._batch.undos:  # somebody may still wait
                await self._write()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._connection.close, limiter=self._own_thread)

    async def _write(self) -> None:
        with trio.CancelScope(shield=True):
            await self._write_changed()

    async def _write_changed(self) -> None:
        changed, self._changed = self._changed, set()
        compare, self._compare = self._compare, False
        batch, self._batch = self._batch, _Batch()
        try:
            if compare:
                changed.update(self._identities.known(), await self._in_thread(_written))
            await self._replace(changed)
        except sqlite3.Error as error:
            self._compare = self._compare or compare
            self._add(changed)
            self._undo(batch)
            self._tell(error)
        else:
            self._tell(None)
        batch.done.set()

    async def _replace(self, changed: set[str]) -> None:
        """Write what there is of some plugins; one transaction may succeed where the next one fails."""
        names = list(changed)
        for begin in range(0, max(1, len(names)), _MOST_AT_ONCE):
            rows = self._rows(names[begin : begin + _MOST_AT_ONCE])
            await self._in_thread(_replace, rows)

    async def _in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call a function with the connection in the thread for it; a thread that has begun is waited for."""
        return await trio.to_thread.run_sync(function, self._connection, *arguments, limiter=self._own_thread)

    def _undo(self, batch: _Batch) -> None:
        """Undo what could not be written; before it, what has come since."""
        later = self._batch
        for undo in reversed([*batch.undos, *later.undos]):
            undo()
        batch.failed = later.failed = True
        later.done.set()
        self._batch = _Batch()

    def _tell(self, error: sqlite3.Error | None) -> None:
        """Log that the file cannot be written, or can be again: once each."""
        if error is not None and not self._failing:
            _log.error("cannot write the host's state to %s, and tries on: %s", self._path, error)
        elif error is None and self._failing:
            _log.warning("the host's state is written to %s again", self._path)
        self._failing = error is not None
        self._tell_why(f"its state cannot be written: {error}" if error is not None else "")

    def _rows(self, changed: Iterable[str]) -> _Rows:
        """Return which plugins have changed, and what there is of them now."""
        since_1970 = self._since_1970()
        entries = [entry for runtime_id in changed if (entry := self._identities.entry(runtime_id))]
        ends = [ended for runtime_id in changed if (ended := self._identities.ended(runtime_id))]
        return _Rows(
            plugins=[{"runtime_id": runtime_id} for runtime_id in changed],
            identities=[_identity_row(entry, since_1970) for entry in entries],
            ended=[{**attrs.asdict(e), "until": e.until + since_1970} for e in ends],
            registrations=[
                {**attrs.asdict(r, recurse=False), "metadata": json.dumps(r.metadata)}
                for entry in entries
                for r in self._registry.registrations(entry.identity.runtime_id)
            ],
            not_before=self._identities.not_before,
        )

    def _since_1970(self) -> float:
        """Return what makes a time of the identities' clock one that holds for other processes."""
        return self._wall_clock() - _clock.current_time()


def _identity(row: Mapping[str, Any]) -> Identity:
    return Identity(
        row["runtime_id"],
        row["self_id"],
        _types(row["provides"]),
        _types(row["requires"]),
        row["address"],
        bool(row["answers"]),
    )


def _identity_row(entry: Entry, since_1970: float) -> Mapping[str, Any]:
    identity = entry.identity
    return {
        **attrs.asdict(identity),
        "provides": json.dumps(identity.provides),
        "requires": json.dumps(identity.requires),
        "digest": entry.digest,
        "expires_at": entry.expires_at + since_1970,
        "saved_at": _clock.current_time() + since_1970,
    }


def _types(kept: str | None) -> tuple[str, ...] | None:
    types = json.loads(kept or "null")
    return None if types is None else tuple(types)


# In a thread


def _open(path: Path) -> sqlite3.Connection:
    """Open a state file, made if there is none, for this host alone. Raises: StartError."""
    path = path.resolve()
    with _start_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with suppress(FileExistsError):  # SQLite would let others read it
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        connection = sqlite3.connect(path, timeout=0, check_same_thread=False)  # one thread at a time
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # to a second host the file is locked
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    is_empty = connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None
    known = application == _APPLICATION_ID and 1 <= version <= _VERSION
    if not known and not (application == 0 and is_empty):
        raise ValueError("it is not a state file, or that of another version")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk, not on its way there
    connection.execute("PRAGMA foreign_keys = ON")
    if is_empty:
        connection.executescript(_SCHEMA)
    else:
        for change in (_FROM_1_TO_2, _FROM_2_TO_3, _FROM_3_TO_4)[version - 1 :]:
            connection.executescript(change)


def _load(connection: sqlite3.Connection, now: float) -> _Kept:
    """Return what is in the file. What has expired is removed."""
    with connection:
        connection.execute("DELETE FROM identities WHERE expires_at <= ?", (now,))
        connection.execute("DELETE FROM ended WHERE until <= ?", (now,))
    registrations = connection.execute("SELECT * FROM registrations ORDER BY sequence")
    host = connection.execute("SELECT id, not_before FROM host").fetchone()
    return _Kept(
        host_id=host["id"],
        not_before=host["not_before"],
        identities=connection.execute("SELECT * FROM identities").fetchall(),
        ended=connection.execute("SELECT * FROM ended ORDER BY until").fetchall(),
        registrations=[
            Registration(**{**row, "metadata": json.loads(row["metadata"])}) for row in registrations
        ],
    )


def _written(connection: sqlite3.Connection) -> list[str]:
    """Return of which plugins there is something in the file."""
    found = connection.execute("SELECT runtime_id FROM identities UNION SELECT runtime_id FROM ended")
    return [row["runtime_id"] for row in found]


def _replace(connection: sqlite3.Connection, rows: _Rows) -> None:
    """Replace all that there is of some plugins, in one transaction."""
    with connection:
        connection.executemany("DELETE FROM identities WHERE runtime_id = :runtime_id", rows.plugins)
        connection.executemany("DELETE FROM ended WHERE runtime_id = :runtime_id", rows.plugins)
        connection.executemany(
            "INSERT INTO identities VALUES (:runtime_id, :self_id, :expires_at, :digest, :provides,"
            " :requires, :address, :saved_at, :answers)",
            rows.identities,
        )
        connection.executemany("INSERT INTO ended VALUES (:runtime_id, :self_id, :why, :until)", rows.ended)
        connection.execute("UPDATE host SET not_before = ?", (rows.not_before,))
        connection.executemany(
            "INSERT INTO registrations VALUES (:id, :runtime_id, :service_type, :version, :endpoint_path,"
            " :metadata, :sequence, :address)",
            rows.registrations,
        )


@contextmanager
def _start_errors(path: Path) -> Iterator[None]:
    """Raise what goes wrong with the file as a StartError that says what to do."""
    try:
        yield
    except (OSError, sqlite3.Error, ValueError) as error:
        advice = _ADVICE.get(getattr(error, "sqlite_errorcode", 0), "")
        raise StartError(
            f"cannot keep the host's state in {path}: {reason(error)};"
            f" {advice}choose another file with STATE_PATH"
        ) from error
