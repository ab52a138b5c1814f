"""A store in an SQLite file. Tokens are not in it, only their digests."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cpg_trio._files import check_writable
from cpg_trio._reload import reason
from cpg_trio.host.directory.store import Rows, StoreError
from cpg_trio.http import StartError

_APPLICATION_ID = 0x63706774  # "cpgt", in the header of each state file
# What each version of the schema adds to the one before. Times are in seconds since 1970. A new file goes
# through all of them, so that it is the same as an old one that has been taken over.
_VERSIONS = (
    f"""
CREATE TABLE identities (
    runtime_id TEXT PRIMARY KEY, self_id TEXT NOT NULL, expires_at REAL NOT NULL, digest BLOB NOT NULL
) STRICT;
CREATE TABLE registrations (
    id TEXT NOT NULL, runtime_id TEXT NOT NULL REFERENCES identities ON DELETE CASCADE,
    service_type TEXT NOT NULL, version TEXT NOT NULL, endpoint_path TEXT NOT NULL,
    metadata TEXT NOT NULL, -- JSON
    sequence INTEGER NOT NULL, address TEXT NOT NULL, PRIMARY KEY (runtime_id, service_type)
) STRICT;
PRAGMA application_id = {_APPLICATION_ID};
""",
    """
ALTER TABLE identities ADD COLUMN provides TEXT; -- JSON
ALTER TABLE identities ADD COLUMN requires TEXT; -- JSON
ALTER TABLE identities ADD COLUMN address TEXT NOT NULL DEFAULT 'unknown';
CREATE TABLE ended (
    runtime_id TEXT PRIMARY KEY, self_id TEXT NOT NULL, why TEXT NOT NULL, until REAL NOT NULL
) STRICT;
CREATE TABLE host (id TEXT NOT NULL) STRICT;
INSERT INTO host VALUES (lower(hex(randomblob(8))));
""",
    """
ALTER TABLE identities ADD COLUMN saved_at REAL NOT NULL DEFAULT 0; -- by the clock of expires_at
ALTER TABLE host ADD COLUMN not_before REAL NOT NULL DEFAULT 0; -- see Identities
""",
    """
ALTER TABLE identities ADD COLUMN answers INTEGER NOT NULL DEFAULT 0; -- see Identity
""",
)
_JSON = frozenset({"metadata", "provides", "requires"})
_ADVICE = {
    sqlite3.SQLITE_BUSY: "stop the host that uses it, or ",
    sqlite3.SQLITE_CORRUPT: "move it away, and plugins will register anew, or ",
}

_MAGIC = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html


class SqliteStore:
    """A `Store`. While it is open no other process can open the file."""

    def __init__(self, path: Path) -> None:
        """Open a file, made if there is none. Raises: StartError, which says what to do."""
        self._path = path = path.resolve()
        with _start_errors(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with suppress(FileExistsError):  # SQLite would let others read it
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
            self.connection = sqlite3.connect(path, timeout=0, check_same_thread=False)
            try:
                _prepare(self.connection)
            except BaseException:
                self.connection.close()
                raise

    @classmethod
    def check(cls, path: Path) -> None:
        """Check that a file can be used, or made if there is none; change nothing. Raises: StartError."""
        path = path.resolve()
        with _start_errors(path):
            if not path.exists():
                check_writable(path.parent)
                return
            with path.open("r+b") as file:
                if (begin := file.read(len(_MAGIC))) and begin != _MAGIC:
                    raise ValueError("it is not a state file, or that of another version")

    def __str__(self) -> str:
        """Return where it is."""
        return str(self._path)

    def load(self, now: float) -> tuple[str, Rows]:
        """See `Store`."""
        with _start_errors(self._path), self.connection as connection:
            connection.execute("DELETE FROM identities WHERE expires_at <= ?", (now,))
            connection.execute("DELETE FROM ended WHERE until <= ?", (now,))
            host = connection.execute("SELECT id, not_before FROM host").fetchone()
            return host["id"], Rows(
                identities=_loaded(connection.execute("SELECT * FROM identities")),
                ended=_loaded(connection.execute("SELECT * FROM ended ORDER BY until")),
                registrations=_loaded(connection.execute("SELECT * FROM registrations ORDER BY sequence")),
                not_before=host["not_before"],
            )

    def plugins(self) -> list[str]:
        """See `Store`."""
        with _store_errors():
            found = self.connection.execute(
                "SELECT runtime_id FROM identities UNION SELECT runtime_id FROM ended"
            )
            return [row["runtime_id"] for row in found]

    def replace(self, plugins: Sequence[str], rows: Rows) -> None:
        """See `Store`."""
        keys = [(runtime_id,) for runtime_id in plugins]
        with _store_errors(), self.connection as connection:
            connection.executemany("DELETE FROM identities WHERE runtime_id = ?", keys)
            connection.executemany("DELETE FROM ended WHERE runtime_id = ?", keys)
            connection.executemany(
                "INSERT INTO identities VALUES (:runtime_id, :self_id, :expires_at, :digest, :provides,"
                " :requires, :address, :saved_at, :answers)",
                map(_dumped, rows.identities),
            )
            connection.executemany(
                "INSERT INTO ended VALUES (:runtime_id, :self_id, :why, :until)", rows.ended
            )
            connection.executemany(
                "INSERT INTO registrations VALUES (:id, :runtime_id, :service_type, :version,"
                " :endpoint_path, :metadata, :sequence, :address)",
                map(_dumped, rows.registrations),
            )
            connection.execute("UPDATE host SET not_before = ?", (rows.not_before,))

    def close(self) -> None:
        """See `Store`."""
        self.connection.close()


@contextmanager
def _start_errors(path: Path) -> Iterator[None]:
    """Raise what goes wrong with the file as a StartError."""
    try:
        yield
    except (OSError, sqlite3.Error, ValueError) as error:
        advice = _ADVICE.get(getattr(error, "sqlite_errorcode", 0), "")
        raise StartError(
            f"cannot keep the host's state in {path}: {reason(error)};"
            f" {advice}choose another file with STATE_PATH"
        ) from error


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(str(error)) from error


def _loaded(rows: Iterable[sqlite3.Row]) -> list[dict[str, Any]]:
    """Return rows with what was JSON. Raises: ValueError for what is none."""
    return [
        {name: _from_json(row[name]) if name in _JSON else row[name] for name in row.keys()}  # noqa: SIM118 - a Row iterates over values
        for row in rows
    ]


def _from_json(text: str | None) -> object:
    value = json.loads(text or "null")
    return tuple(value) if isinstance(value, list) else value


def _dumped(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if name in _JSON else value for name, value in row.items()}


def _prepare(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # to a second host the file is locked
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    is_empty = connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None
    is_new = is_empty and application == version == 0
    if not is_new and not (application == _APPLICATION_ID and 1 <= version <= len(_VERSIONS)):
        raise ValueError("it is not a state file, or that of another version")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk, not on its way there
    connection.execute("PRAGMA foreign_keys = ON")
    for number, script in list(enumerate(_VERSIONS, 1))[version:]:
        connection.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")
