"""Where the example's storage keeps its pairs: a database, which commits before a write is answered."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from cpg_trio.demo._lane import Answer, Item, Lane
from cpg_trio.http import StartError

if TYPE_CHECKING:
    from cpg_trio.demo._database import Database

_log = logging.getLogger("cpg_trio.demo.storage")

MAX_CODE_BYTES = 1024  # of a caller's; PostgreSQL keeps no key longer than about 2,700

_CHECK_S = 5.0  # between looks at a database that is there
_RETRY_S = 0.5  # between looks at one that is away
_LOOK_S = 5.0  # that a look may take: more than the database's own time limits
_PATIENCE_S = 5.0  # with another process that has a file locked
_LOCKED, _LOCKED_RETRY_S = "database is locked", 0.05
_NO_ROOM = "database or disk is full", "disk I/O error"  # what SQLite says where it cannot write for now
_CHOICE = "STORAGE_PATH or --storage"
_CLOSE_S = 6.0  # for calls that nobody waits for any more to come back


class CodeTakenError(Exception):
    """The code stands for another URL already."""


class DatabaseAwayError(Exception):
    """The database cannot be reached, or does not do what it is told; says which, and why."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"the database {self.name} is away: {self.why}"


class Store:
    """Codes and the URLs behind them.

    One thread writes, one reads, one looks after the database; each takes a connection for what it does and
    gives it back. What has come while the last transaction was being committed goes into the next one, so
    that the disk, or the server, is waited for once for all of them; each call is answered for itself, and
    after its own commit. Reads wait for no write. They are not made on the loop's own thread, though from the
    page cache that would take a fifth of the time: what is not in the cache takes as long as the disk does,
    which on a network's volume may be minutes, and the loop has heartbeats to send.

    A call that is cancelled leaves at once and harms nobody. What it asked for is never begun, or goes on to
    its end, which the database's own time limits bound. Whether it has written, nobody has been told.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = Lane(database.put, name="store: writer", shared=DatabaseAwayError)
        self._reader = Lane(database.get, name="store: reader", shared=DatabaseAwayError)
        self._looker = Lane(database.prepare, name="store: looker", shared=DatabaseAwayError)
        self._suspected = trio.Event()

    async def put(self, code: str, url: str) -> None:
        """Keep a pair; it is committed when this returns. The same pair again changes nothing.

        Raises: CodeTakenError, and then nothing has changed; DatabaseAwayError, and then it may have;
        ValueError for NUL, which SQLite would take for the end of what it is in, and PostgreSQL refuses.
        """
        if "\0" in code or "\0" in url:
            raise ValueError("code and url cannot contain NUL")
        if not await self._do(self._writer, (code, url)):
            raise CodeTakenError(code)

    async def get(self, code: str) -> str | None:
        """Return the URL behind a code, or None. Raises: DatabaseAwayError."""
        return await self._do(self._reader, code)

    async def prepare(self) -> None:
        """See that the database is there, has the table, and can be written to. Raises: DatabaseAwayError."""
        await self._do(self._looker, None)

    async def follow(self, tell: Callable[[str], None]) -> NoReturn:
        """Look after the database for ever; `tell` why it is away, an empty string once it is there."""
        before: str | None = None
        while True:
            self._suspected, looked_at = trio.Event(), trio.current_time()
            away = await self._look()
            if away != before:
                _log.log(*_news(self._database.name, away))
                tell(away)
                before = away
            if not away:
                with trio.move_on_after(_CHECK_S):
                    await self._suspected.wait()
            await trio.sleep_until(looked_at + _RETRY_S)

    async def _look(self) -> str:
        """Return why the database is away, an empty string if it is there."""
        try:
            with trio.fail_after(_LOOK_S):
                await self.prepare()
        except DatabaseAwayError as error:
            return str(error)
        except trio.TooSlowError:
            return str(DatabaseAwayError(self._database.name, "it did not answer in time"))
        return ""

    async def _do(self, lane: Lane[Item, Answer], item: Item) -> Answer:
        try:
            return await lane.do(item)
        except DatabaseAwayError:
            self._suspected.set()
            raise

    async def close(self) -> None:
        """Wait for what is under way, not for ever, and close the connections."""
        lanes: tuple[Lane[Any, Any], ...] = (self._writer, self._reader, self._looker)
        for lane in lanes:
            lane.close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_CLOSE_S):
                for lane in lanes:
                    await lane.wait_ended()
            await trio.to_thread.run_sync(self._database.close)


@asynccontextmanager
async def open_store(where: Path | str) -> AsyncIterator[Store]:
    """Open the SQLite file at a path, made if it is not there, or the database of a `DATABASE_URL`.

    A file must be there when it is opened, a server need not. Raises: StartError for a file that cannot be
    used, a URL that is none, or what is not installed.
    """
    store = Store(_database(where))
    try:
        if isinstance(where, Path):
            await _must_work(store, where)
        yield store
    finally:
        await store.close()


def _database(where: Path | str) -> Database:
    """Return the database. Raises: StartError."""
    extra = "demo" if isinstance(where, Path) else "postgres"
    try:
        from cpg_trio.demo import _database  # noqa: PLC0415 - what it needs is an extra of the package

        return _database.sqlite(where) if isinstance(where, Path) else _database.postgresql(where)
    except ImportError as error:
        raise StartError(f"storage needs what is not installed: pip install 'cpg-trio[{extra}]'") from error


async def _must_work(store: Store, path: Path) -> None:
    """Wait while another process makes the file a database, for which SQLite does not wait by itself.

    A full disk is no reason not to start: there may be room later. Raises: StartError.
    """
    if path.is_dir():  # noqa: ASYNC240 - before anything is served
        raise StartError(f"cannot keep URLs in {path}: it is a directory; choose a file, with {_CHOICE}")
    give_up_at = trio.current_time() + _PATIENCE_S
    while True:
        try:
            return await store.prepare()
        except DatabaseAwayError as error:
            if error.why in _NO_ROOM:
                return None
            if error.why != _LOCKED or trio.current_time() > give_up_at:
                raise StartError(
                    f"cannot keep URLs in {Path.cwd() / path}: {error.why}; choose a file that can be"
                    f" written, with {_CHOICE}"
                ) from error
        await trio.sleep(_LOCKED_RETRY_S)


def _news(name: str, away: str) -> tuple[int, str, str]:
    return (logging.WARNING, "%s", away) if away else (logging.INFO, "the database %s is there", name)
