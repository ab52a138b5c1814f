"""The database of the example's storage, SQLite or PostgreSQL, through SQLAlchemy. It blocks.

`DATABASE_URL` is a secret, and what a driver says may repeat parts of it. So no text of PostgreSQL's driver
leaves this module: an error names the database and its host, and says why in words that are written here.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError

from cpg_trio.serving import StartError

from ._store import CodeTakenError, DatabaseAwayError

_CURRENT = Path.cwd()
_FORM = "postgresql://user:password@host:5432/database"
_SCHEMES = {"postgres", "postgresql", "postgresql+psycopg"}
_POSTGRESQL_CONNECTIONS = 5  # Python runs one thread at a time, and the rest of a call is waiting
# What bounds a call to a database that does not answer; api waits for 5 s. A DATABASE_URL may say otherwise.
_POSTGRESQL_OPTIONS = {
    "application_name": "cpg-storage-plugin",
    "connect_timeout": "3",
    "options": "-c statement_timeout=4s",
    "tcp_user_timeout": "5000",
}
_ON_CONNECT = {
    "sqlite": (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",  # a commit is on the disk, not on its way there
    ),
    "postgresql": (),
}
_REASONS = {
    "password authentication failed": "it refuses the user or the password",
    "no password supplied": "it wants a password",
    "pg_hba.conf": "it lets nobody in from here (pg_hba.conf)",
    "starting up": "it is starting up",
    "shutting down": "it is shutting down",
    "administrator command": "it is shutting down",
    "too many clients": "it has no connection left",
    "remaining connection slots": "it has no connection left",
    "does not exist": "there is no such database, role or table",
    "permission denied": "it denies this user permission",
    "read-only": "it is read-only",
    "resolve host": "its host has no address",
    "translate host": "its host has no address",
    "Connection refused": "nobody listens there",
    "statement timeout": "it did not answer in time",
    "timeout": "it did not answer in time",
    "timed out": "it did not answer in time",
    "closed the connection": "the connection was lost",
    "SSL": "it and this plugin do not agree about TLS",
}

_URLS = sa.Table(
    "urls",
    sa.MetaData(),
    sa.Column("code", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
_INSERT = sa.text("INSERT INTO urls (code, url) VALUES (:code, :url) ON CONFLICT DO NOTHING")
_SELECT = sa.select(_URLS.c.url).where(_URLS.c.code == sa.bindparam("code"))


class Database:
    """Codes and the URLs behind them. Each method may be called from any thread, `connections` at a time."""

    def __init__(self, url: sa.URL, *, name: str, connections: int) -> None:
        self.name = name
        """What it is called where people read of it."""
        self.connections = connections
        self._engine = _engine(url, connections)

    def prepare(self) -> None:
        """See that it is there and of use: make the table, if it is not there. Raises: DatabaseAwayError."""
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.schema.CreateTable(_URLS, if_not_exists=True))
                connection.execute(sa.select(_URLS).limit(0))  # it may be somebody else's
        except DBAPIError as error:
            raise self._away(error) from None

    def put(self, code: str, url: str) -> None:
        """Keep a pair; it is committed when this returns. The same pair again changes nothing.

        Raises: CodeTakenError, and then nothing has changed; DatabaseAwayError, and then it may have.
        """
        with self._or_away(), self._engine.begin() as connection:
            inserted = connection.execute(_INSERT, {"code": code, "url": url}).rowcount
            taken = not inserted and connection.scalar(_SELECT, {"code": code}) != url
        if taken:
            raise CodeTakenError(code)

    def get(self, code: str) -> str | None:
        """Return the URL behind a code, or None. Raises: DatabaseAwayError."""
        with self._or_away(), self._engine.connect() as connection:
            return connection.scalar(_SELECT, {"code": code})

    def close(self) -> None:
        """Close the connections that nobody uses, and the others when they are given back."""
        self._engine.dispose()

    @contextmanager
    def _or_away(self) -> Generator[None]:
        try:
            yield
        except (IntegrityError, DataError):
            raise  # it is there, and will not have this row: which no row of ours is
        except DBAPIError as error:
            raise self._away(error) from None

    def _away(self, error: DBAPIError) -> DatabaseAwayError:
        said = str(error.orig)
        why = said if self._engine.dialect.name == "sqlite" else _in_our_words(said)
        return DatabaseAwayError(self.name, why)


def sqlite(path: Path) -> Database:
    """Return the database in a file. One thread at a time: SQLite has one writer."""
    name = str(_CURRENT / path)
    return Database(sa.URL.create("sqlite", database=str(path)), name=name, connections=1)


def postgresql(database_url: str) -> Database:
    """Return the database that a `DATABASE_URL` names; nothing is sent to it yet.

    Raises: StartError for what is no such URL, without repeating it; ImportError without the driver.
    """
    try:
        url = sa.make_url(database_url)
    except (ArgumentError, ValueError):
        url = sa.URL.create("none")
    if url.drivername not in _SCHEMES or not url.host or not url.database:
        raise StartError(f"DATABASE_URL must be like {_FORM}; it is another (SQLite: STORAGE_PATH)")
    options = {**_POSTGRESQL_OPTIONS, **url.query}
    return Database(
        url.set(drivername="postgresql+psycopg", query=options),
        name=f"{url.database} on {url.host}",
        connections=_POSTGRESQL_CONNECTIONS,
    )


def _engine(url: sa.URL, connections: int) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=True,  # a connection that broke while nobody used it is no reason to fail a call
        hide_parameters=True,
    )
    statements = _ON_CONNECT[engine.dialect.name]

    @sa.event.listens_for(engine, "connect")
    def _set_up(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()

    return engine


def _in_our_words(said: str) -> str:
    return next(
        (ours for theirs, ours in _REASONS.items() if theirs in said), "it does not do what it is told"
    )
