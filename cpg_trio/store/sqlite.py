"""A store in an SQLite file, for one host."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

import trio

from cpg_trio._files import check_writable
from cpg_trio._reload import reason
from cpg_trio.http import StartError
from cpg_trio.store._store import Changed, Commit, ConflictError, Entry, Presence, Snapshot, StoreError
from cpg_trio.store.sqlite_schema import prepare

_T = TypeVar("_T")

_ADVICE = {
    sqlite3.SQLITE_BUSY: "stop the host that uses it, or ",
    sqlite3.SQLITE_CORRUPT: "move it away, and plugins will register anew, or ",
}
_MAGIC = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html
_FOREIGN = "it is not a state file"


class SqliteStore:
    """A `Store` in a file, made if there is none. While it is open no other process can open the file.

    What blocks is done in a thread, one call at a time; it is waited for, even if cancelled. Others may not
    read the file. A commit is on the disk when it returns.
    """

    shared = False
    connection: sqlite3.Connection
    """While it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._id = ""
        self._revision = 0
        self._own_thread = trio.CapacityLimiter(1)  # others may all be busy, looking up names

    def __str__(self) -> str:
        """Return where it is."""
        return str(self._path)

    async def __aenter__(self) -> Self:
        """Open the file. Raises: StartError, which says what to do."""
        await self._in_thread(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it; to the end, even if cancelled."""
        with trio.CancelScope(shield=True):
            await self._in_thread(self.connection.close)

    async def check(self) -> bool:
        """See `Store`."""
        return await self._in_thread(self._check)

    async def load(self, prefix: str = "") -> Snapshot:
        """See `Store`."""
        return await self._in_thread(lambda: self._load(prefix))

    async def commit(self, commit: Commit) -> int:
        """See `Store`."""
        return await self._in_thread(lambda: self._commit(commit))

    async def revision(self) -> int:
        """See `Store`."""
        await trio.lowlevel.checkpoint()
        return self._revision

    def changes(self, after: int) -> AbstractAsyncContextManager[AsyncIterator[Changed]]:
        """See `Store`: nobody else changes it."""
        raise StoreError(f"{self} has no changes of others to follow from {after}: hosts do not share it")

    def present(self, key: str, value: bytes, ttl_s: float) -> AbstractAsyncContextManager[Presence]:  # noqa: ARG002 - see `Store`
        """See `Store`: there is one host at most."""
        raise StoreError(f"nobody can be present in {self} as {key}: hosts do not share it")

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(function, limiter=self._own_thread)

    def _open(self) -> None:
        with self._start_errors():
            if self._path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with suppress(FileExistsError):  # SQLite would let others read it
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL, 0o600))
            connection = sqlite3.connect(self._path, timeout=0, check_same_thread=False)
            try:
                prepare(connection)
                self._id, self._revision = connection.execute("SELECT id, revision FROM store").fetchone()
            except BaseException:
                connection.close()
                raise
            self.connection = connection

    def _check(self) -> bool:
        with self._start_errors():
            if not self._path.exists():
                check_writable(self._path.parent)
                return False
            with self._path.open("r+b") as file:
                if (begin := file.read(len(_MAGIC))) and begin != _MAGIC:
                    raise ValueError(_FOREIGN)
        return bool(begin)

    def _load(self, prefix: str) -> Snapshot:
        try:
            found = self.connection.execute(
                "SELECT key, value, revision FROM entries"
                " WHERE key >= ? AND key < coalesce(?, x'') ORDER BY key",
                _range(prefix),
            )
            return Snapshot(self._id, self._revision, [Entry(*row) for row in found])
        except sqlite3.Error as error:
            raise StoreError(self._why_unusable(error)) from error

    def _commit(self, commit: Commit) -> int:
        connection = self.connection
        try:
            self._expect(commit)
            keys = [key for key in commit.deletes if self._revision_of(key)]
            if not (keys or commit.puts):
                return self._revision
            revision = self._revision + 1
            with connection:
                connection.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in keys])
                connection.executemany(
                    "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)",
                    [(key, value, revision) for key, value in commit.puts.items()],
                )
                connection.execute("UPDATE store SET revision = ?", (revision,))
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error
        self._revision = revision
        return revision

    def _expect(self, commit: Commit) -> None:
        for key, revision in commit.expected.items():
            if self._revision_of(key) != revision:
                raise ConflictError(f"{key} has changed")
        for prefix, value in commit.uniform.items():
            other = self.connection.execute(
                "SELECT key FROM entries WHERE key >= ? AND key < coalesce(?, x'') AND value != ?",
                (*_range(prefix), value),
            ).fetchone()
            if other is not None:
                raise ConflictError(f"{other[0]} has another value")

    def _revision_of(self, key: str) -> int:
        row = self.connection.execute("SELECT revision FROM entries WHERE key = ?", (key,)).fetchone()
        return row[0] if row is not None else 0

    @contextmanager
    def _start_errors(self) -> Iterator[None]:
        """Raise what goes wrong with the file as a StartError."""
        try:
            yield
        except (OSError, sqlite3.Error, ValueError) as error:
            raise StartError(self._why_unusable(error)) from error

    def _why_unusable(self, error: Exception) -> str:
        advice = _ADVICE.get(getattr(error, "sqlite_errorcode", 0), "")
        return (
            f"cannot keep the host's state in {self._path}: {reason(error)};"
            f" {advice}choose another file with STATE_PATH"
        )


def _range(prefix: str) -> tuple[str, str | None]:
    """Return a prefix, and what follows all keys that begin so; None if nothing does.

    To SQLite, all texts come before all blobs: before `x''` when there is no text that follows.
    """
    rest = prefix.rstrip("\U0010ffff")
    following = chr(ord(rest[-1]) + 1) if rest else ""
    if following == "\ud800":  # UTF-8 has no surrogates
        following = "\ue000"
    return prefix, rest[:-1] + following if rest else None
