"""The schema of a store's SQLite file, and how files of earlier releases are taken over.

Up to version 4 the state of a host had tables of its own. Version 5 keeps entries, in which the documents of
plugins are what `host/directory/documents.py` reads.
"""

from __future__ import annotations

import sqlite3

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
ALTER TABLE host ADD COLUMN not_before REAL NOT NULL DEFAULT 0;
""",
    """
ALTER TABLE identities ADD COLUMN answers INTEGER NOT NULL DEFAULT 0;
""",
    """
CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) STRICT;
CREATE TABLE store (id TEXT NOT NULL, revision INTEGER NOT NULL) STRICT;
INSERT INTO store SELECT id, 1 FROM host;
INSERT INTO entries SELECT 'plugins/' || runtime_id, CAST(json_object(
    'self_id', self_id, 'provides', json(coalesce(provides, 'null')),
    'requires', json(coalesce(requires, 'null')), 'address', address,
    'answers', json(iif(answers, 'true', 'false')), 'digest', lower(hex(digest)),
    'expires_at', expires_at, 'saved_at', saved_at,
    'registrations', json((SELECT json_group_array(json_object(
        'id', id, 'service_type', service_type, 'version', version, 'endpoint_path', endpoint_path,
        'metadata', json(metadata), 'sequence', sequence, 'address', registrations.address
    )) FROM registrations WHERE registrations.runtime_id = identities.runtime_id))
) AS BLOB), 1 FROM identities;
INSERT INTO entries SELECT 'ended/' || runtime_id,
    CAST(json_object('self_id', self_id, 'why', why, 'until', until) AS BLOB), 1 FROM ended;
INSERT INTO entries SELECT 'not_before', CAST(json_quote(not_before) AS BLOB), 1 FROM host
    WHERE not_before > 0;
DROP TABLE registrations; DROP TABLE identities; DROP TABLE ended; DROP TABLE host;
""",
)


def prepare(connection: sqlite3.Connection) -> None:
    """Bring a file to the latest version, in one transaction; no other process can open it from now on.

    Raises: ValueError for what is no state file, or one of a later release; sqlite3.Error.
    """
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # to a second host the file is locked
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    is_empty = connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None
    is_new = is_empty and application == version == 0
    if not is_new and (application != _APPLICATION_ID or version < 1):
        raise ValueError("it is not a state file")
    if version > len(_VERSIONS):
        raise ValueError(
            f"it is of a later release (version {version}), and this one reads versions 1 to {len(_VERSIONS)}"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk, not on its way there
    if scripts := "".join(_VERSIONS[version:]):
        connection.executescript(f"BEGIN; {scripts} PRAGMA user_version = {len(_VERSIONS)}; COMMIT;")
