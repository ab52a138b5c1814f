"""Where the example's storage keeps its pairs: an SQLite file, written before a write is answered.

Replicas on one machine may share a file: whoever writes waits for the others.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from cpg_trio.serving import StartError

_CURRENT = Path.cwd()
_PATIENCE_S = 5.0  # with another process that has the file locked
_RETRY_S = 0.05
_SCHEMA = "CREATE TABLE IF NOT EXISTS urls (code TEXT PRIMARY KEY, url TEXT NOT NULL) STRICT, WITHOUT ROWID"


class CodeTakenError(Exception):
    """The code stands for another URL already."""


class Store:
    """Codes and the URLs behind them. Each method runs in a thread, one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._one_at_a_time = trio.CapacityLimiter(1)

    async def put(self, code: str, url: str) -> None:
        """Keep a pair; it is on the disk when this returns. The same pair again changes nothing.

        Raises: CodeTakenError, and then nothing has changed.
        """
        await trio.to_thread.run_sync(partial(self._put, code, url), limiter=self._one_at_a_time)

    async def get(self, code: str) -> str | None:
        """Return the URL behind a code, or None."""
        return await trio.to_thread.run_sync(partial(self._get, code), limiter=self._one_at_a_time)

    def _put(self, code: str, url: str) -> None:
        with self._connection:
            self._connection.execute("INSERT INTO urls VALUES (?, ?) ON CONFLICT DO NOTHING", (code, url))
        if self._get(code) != url:
            raise CodeTakenError(code)

    def _get(self, code: str) -> str | None:
        row = self._connection.execute("SELECT url FROM urls WHERE code = ?", (code,)).fetchone()
        return None if row is None else str(row[0])


@asynccontextmanager
async def open_store(path: Path) -> AsyncIterator[Store]:
    """Open the file at `path`, made if it is not there. Raises: StartError if that cannot be done."""
    try:
        connection = await _opened(path)
    except sqlite3.Error as error:
        raise StartError(
            f"cannot keep URLs in {_CURRENT / path}: {error}; choose a file that can be written,"
            " with STORAGE_PATH or --storage"
        ) from error
    try:
        yield Store(connection)
    finally:
        connection.close()


async def _opened(path: Path) -> sqlite3.Connection:
    """Open a file; wait while another process makes it what it is to be, for which SQLite does not wait."""
    give_up_at = trio.current_time() + _PATIENCE_S
    while True:
        try:
            return await trio.to_thread.run_sync(_connect, path)
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or trio.current_time() > give_up_at:
                raise
        await trio.sleep(_RETRY_S)


def _connect(path: Path) -> sqlite3.Connection:
    # The limiter keeps threads apart, the timeout is for other processes.
    connection = sqlite3.connect(path, timeout=_PATIENCE_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk, not on its way there
        connection.execute(_SCHEMA)
        connection.execute("SELECT code, url FROM urls LIMIT 0")  # it may be somebody else's file
    except BaseException:
        connection.close()
        raise
    return connection
