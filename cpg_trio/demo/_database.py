"""The database of the example's storage, SQLite or PostgreSQL, through SQLAlchemy. Its calls block.

`DATABASE_URL` is a secret, and messages of PostgreSQL's driver may repeat parts of it. So none of them leaves
this module: an error names the database and its host, and gives a reason that is written here.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError, DBAPIError

from cpg_trio.demo._store import MAX_CODE_BYTES, DatabaseAwayError
from cpg_trio.http import StartError

_CURRENT = Path.cwd()
_FORM = "postgresql://user:password@host:5432/database"
_SCHEMES = {"postgres", "postgresql", "postgresql+psycopg"}
_MOVED = "the pairs have been moved to PostgreSQL"  # error of the trigger that chart/move.py creates
_CONNECTIONS = 3  # one each for writes, reads and checks
# Limits of a call to a database that does not answer; api waits for 5 s. A DATABASE_URL may set others.
_POSTGRESQL_OPTIONS = {
    "application_name": "cpg-storage-plugin",
    "connect_timeout": "2",
    "options": "-c statement_timeout=3s",
    # statement_timeout works only while the server runs: these notice that its machine is gone.
    "tcp_user_timeout": "3000",
    "keepalives_idle": "2",
    "keepalives_interval": "1",
    "keepalives_count": "2",
}
_BUSY_S = 3.0  # how long SQLite waits for another process that has locked the file
_ON_CONNECT = {
    "sqlite": (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",  # a commit returns once it is on the disk
    ),
    "postgresql": (),
}
_REASONS = {
    "password authentication failed": "it refuses the user or the password",
    "no password supplied": "it requires a password",
    "pg_hba.conf": "it accepts no connection from here (pg_hba.conf)",
    "starting up": "it is starting up",
    "shutting down": "it is shutting down",
    "administrator command": "it is shutting down",
    "too many clients": "it has no connection left",
    "remaining connection slots": "it has no connection left",
    "does not exist": "there is no such database, role or table",
    "permission denied": "it denies this user permission",
    "read-only": "it is read-only",
    "No space left": "its disk is full",
    "resolve host": "its host has no address",
    "translate host": "its host has no address",
    "Connection refused": "nothing listens there",
    "statement timeout": "it did not answer in time",
    "timeout": "it did not answer in time",
    "timed out": "it did not answer in time",
    "closed the connection": "the connection was lost",
    "SSL": "it and this plugin do not agree about TLS",
}

_to_json = json.JSONEncoder(ensure_ascii=False).encode  # `dumps` would make one for each call

_URLS = sa.Table(
    "urls",
    sa.MetaData(),
    sa.Column("code", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)


@attrs.frozen
class _Sql:
    """Statements for one row, and for many at once; the parameter is a JSON array then.

    Each is one statement and its own transaction. Each further step of SQLite's driver would wait once more
    for the interpreter's lock, and each further statement to PostgreSQL would be another round trip.
    """

    insert_one: str  # code, url
    insert: str  # [[code, url], ...]
    select: str  # [code, ...]
    begin: str
    """Begins a transaction that writes."""


_SQL = {
    "sqlite": _Sql(
        "INSERT INTO urls (code, url) VALUES (?, ?) ON CONFLICT DO NOTHING",
        "INSERT INTO urls (code, url) SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]')"
        " FROM json_each(?) WHERE true ON CONFLICT DO NOTHING",
        "SELECT code, url FROM urls WHERE code IN (SELECT value FROM json_each(?))",
        "BEGIN IMMEDIATE",
    ),
    "postgresql": _Sql(
        "INSERT INTO urls (code, url) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        "INSERT INTO urls (code, url) SELECT pair ->> 0, pair ->> 1"
        " FROM json_array_elements(CAST(%s AS json)) AS pair ON CONFLICT DO NOTHING",
        "SELECT code, url FROM urls WHERE code IN (SELECT json_array_elements_text(CAST(%s AS json)))",
        "BEGIN",
    ),
}
# A row that no caller can store, since its code is too long. It exists within a transaction only.
_TRIAL_CODE = "-" * (MAX_CODE_BYTES + 1)
_WRITE_TRIAL = f"INSERT INTO urls (code, url) VALUES ('{_TRIAL_CODE}', '') ON CONFLICT DO NOTHING"  # noqa: S608 - ours
_REMOVE_TRIAL = f"DELETE FROM urls WHERE code = '{_TRIAL_CODE}'"  # noqa: S608 - ours


class Database:
    """Codes and URLs. Each method takes many items and returns a result for each, in the same order.

    A method is called from one thread at a time; different methods may run in different threads.
    """

    def __init__(self, url: sa.URL, *, name: str) -> None:
        self.name = name
        """The name for messages."""
        self._engine = _engine(url)
        self.system_name = self._engine.dialect.name
        """Which kind it is: `sqlite` or `postgresql`."""
        self._driver = self._engine.dialect.loaded_dbapi
        self._sql = _SQL[self._engine.dialect.name]

    def prepare(self, askers: Sequence[None]) -> Sequence[None]:
        """Create the table, if there is none, and check that it can be written. Raises: DatabaseAwayError.

        After a failure, the connections to a server are replaced: a session may stay read-only until it ends,
        or lead to a server that is no longer the primary.
        """
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.schema.CreateTable(_URLS, if_not_exists=True))
                connection.execute(sa.select(_URLS).limit(0))  # it may be another program's table
            self._try_writing()
        except (DBAPIError, self._driver.Error, DatabaseAwayError) as error:
            if self._engine.dialect.name != "sqlite":
                self._engine.dispose()
            raise self._away(error.orig if isinstance(error, DBAPIError) else error) from None
        return askers

    def _try_writing(self) -> None:
        """Write a row and commit it, so that a full disk is noticed here as well."""
        with self._cursor() as cursor:
            try:
                for statement in (self._sql.begin, _WRITE_TRIAL, _REMOVE_TRIAL, "COMMIT"):
                    cursor.execute(statement)
            except self._driver.IntegrityError as error:
                if not _has_moved(error):
                    raise
                cursor.execute("ROLLBACK")  # the pairs can still be read

    def put(self, pairs: Sequence[tuple[str, str]]) -> Sequence[bool]:
        """Keep pairs of a code and a URL in one transaction, which is committed when this returns.

        Return for each pair whether it is kept: False if the code stands for another URL. Raises:
        DatabaseAwayError, and then either all pairs are kept or none.
        """
        with self._cursor() as cursor:
            if len(pairs) == 1:
                cursor.execute(self._sql.insert_one, pairs[0])
            else:
                # Replicas that write the same codes lock rows in the same order, so they cannot deadlock.
                in_order = sorted(pairs, key=lambda pair: pair[0])
                cursor.execute(self._sql.insert, (_to_json(in_order),))
            if cursor.rowcount == len(pairs):
                return [True] * len(pairs)
            urls = self._urls(cursor, [code for code, _ in pairs])
        return [urls.get(code) == url for code, url in pairs]

    def get(self, codes: Sequence[str]) -> Sequence[str | None]:
        """Return the URL of each code, or None. Raises: DatabaseAwayError."""
        with self._cursor() as cursor:
            urls = self._urls(cursor, codes)
        return [urls.get(code) for code in codes]

    def _urls(self, cursor: DBAPICursor, codes: Sequence[str]) -> dict[str, str]:
        cursor.execute(self._sql.select, (_to_json(codes),))
        return dict(cursor.fetchall())

    def close(self) -> None:
        """Close idle connections now, and the others when they are returned to the pool."""
        self._engine.dispose()

    @contextmanager
    def _cursor(self) -> Generator[DBAPICursor]:
        """Yield a cursor on a connection of SQLAlchemy's pool; each statement is its own transaction.

        It is the driver's own cursor: SQLAlchemy's work around a statement takes half as long as a commit.
        """
        try:
            connection = self._engine.raw_connection()
            try:
                yield connection.cursor()
            except self._driver.Error as error:
                if not self._is_about_a_row(error):
                    connection.invalidate()
                raise
            finally:
                connection.close()
        except self._driver.Error as error:
            if self._is_about_a_row(error):
                raise
            raise self._away(error) from None

    def _is_about_a_row(self, error: Exception) -> bool:
        """Whether an error concerns one row, and not the database."""
        is_about_data = isinstance(error, (self._driver.IntegrityError, self._driver.DataError))
        return is_about_data and not _has_moved(error)

    def _away(self, error: BaseException | None) -> DatabaseAwayError:
        if isinstance(error, DatabaseAwayError):
            return error
        message = str(error)
        why = message if self._engine.dialect.name == "sqlite" else _reason(message)
        return DatabaseAwayError(self.name, why)


def _has_moved(error: Exception) -> bool:
    """Whether a file refuses all rows because chart/move.py has moved its pairs to PostgreSQL."""
    return _MOVED in str(error)


def sqlite(path: Path) -> Database:
    """Return the database in a file."""
    return Database(sa.URL.create("sqlite", database=str(path)), name=str(_CURRENT / path))


def postgresql(database_url: str) -> Database:
    """Return the database of a `DATABASE_URL`, without connecting.

    Raises: StartError for an invalid URL, without repeating it; ImportError without the driver.
    """
    try:
        url = sa.make_url(database_url)
    except (ArgumentError, ValueError):
        url = sa.URL.create("none")
    if url.drivername not in _SCHEMES or not url.host or not url.database:
        raise StartError(f"DATABASE_URL must be like {_FORM} (for SQLite, set STORAGE_PATH)")
    options = {**_POSTGRESQL_OPTIONS, **url.query}
    return Database(
        url.set(drivername="postgresql+psycopg", query=options),
        name=f"{url.database} on {url.host}",
    )


def _engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_use_lifo=True,  # the next call finds the pages of the last one in its connection's cache
        # A connection to a server may break while it is idle; the check at each use replaces it.
        pool_pre_ping=url.get_backend_name() != "sqlite",
        isolation_level="AUTOCOMMIT",  # see _Sql
        hide_parameters=True,
        connect_args={"timeout": _BUSY_S} if url.get_backend_name() == "sqlite" else {},
    )
    statements = _ON_CONNECT[engine.dialect.name]

    @sa.event.listens_for(engine, "connect")
    def _set_up(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()

    return engine


def _reason(message: str) -> str:
    """Return the reason for a message of PostgreSQL's driver, which may contain secrets."""
    return next((reason for part, reason in _REASONS.items() if part in message), "it does not work")
