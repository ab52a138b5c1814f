"""Where the example's storage keeps its pairs: a database, which commits before a write is answered."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import trio

from cpg_trio.serving import StartError

if TYPE_CHECKING:
    from ._database import Database

_T = TypeVar("_T")
_log = logging.getLogger("cpg_trio.demo.storage")

_CHECK_S = 5.0  # between looks at a database that is there
_RETRY_S = 0.5  # between looks at one that is away
_PATIENCE_S = 5.0  # with another process that has a file locked
_LOCKED, _LOCKED_RETRY_S = "database is locked", 0.05
_CLOSE_S = 6.0  # for calls that nobody waits for any more to come back


class CodeTakenError(Exception):
    """The code stands for another URL already."""


class DatabaseAwayError(Exception):
    """The database cannot be reached, or does not do what it is told; says which, and why."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"the database {name} is away: {why}")
        self.why = why


class Store:
    """Codes and the URLs behind them.

    Each call runs in a thread, which takes a connection and gives it back by itself. So a call that is
    cancelled is left behind and harms nobody: the thread goes on to its end, which the database's own time
    limits bound, and counts among the threads that there may be until then. Whether it has written, nobody
    has been told.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = trio.CapacityLimiter(database.connections)
        self._suspected = trio.Event()

    async def put(self, code: str, url: str) -> None:
        """Keep a pair; it is committed when this returns. The same pair again changes nothing.

        Raises: CodeTakenError, and then nothing has changed; DatabaseAwayError, and then it may have.
        """
        await self._run(partial(self._database.put, code, url))

    async def get(self, code: str) -> str | None:
        """Return the URL behind a code, or None. Raises: DatabaseAwayError."""
        return await self._run(partial(self._database.get, code))

    async def prepare(self) -> None:
        """See that the database is there and has the table. Raises: DatabaseAwayError."""
        await self._run(self._database.prepare)

    async def follow(self, tell: Callable[[str], None]) -> NoReturn:
        """Look after the database for ever; `tell` why it is away, an empty string once it is there."""
        before: str | None = None
        while True:
            self._suspected = trio.Event()
            away = await self._look()
            if away != before:
                _log.log(*_news(self._database.name, away))
                tell(away)
                before = away
            if away:
                await trio.sleep(_RETRY_S)
            else:
                with trio.move_on_after(_CHECK_S):
                    await self._suspected.wait()

    async def _look(self) -> str:
        try:
            await self.prepare()
        except DatabaseAwayError as error:
            return str(error)
        return ""

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await trio.to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)
        except DatabaseAwayError:
            self._suspected.set()
            raise

    async def close(self) -> None:
        """Wait for the threads, not for ever, and close the connections."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_CLOSE_S):
                for _ in range(self._database.connections):
                    await self._threads.acquire_on_behalf_of(object())
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
        from . import _database  # noqa: PLC0415 - what it needs is an extra of the package

        return _database.sqlite(where) if isinstance(where, Path) else _database.postgresql(where)
    except ImportError as error:
        raise StartError(f"storage needs what is not installed: pip install 'cpg-trio[{extra}]'") from error


async def _must_work(store: Store, path: Path) -> None:
    """Wait while another process makes the file a database, for which SQLite does not wait by itself."""
    give_up_at = trio.current_time() + _PATIENCE_S
    while True:
        try:
            return await store.prepare()
        except DatabaseAwayError as error:
            if error.why != _LOCKED or trio.current_time() > give_up_at:
                raise StartError(
                    f"cannot keep URLs in {Path.cwd() / path}: {error.why}; choose a file that can be"
                    " written, with STORAGE_PATH or --storage"
                ) from error
        await trio.sleep(_LOCKED_RETRY_S)


def _news(name: str, away: str) -> tuple[int, str, str]:
    return (logging.WARNING, "%s", away) if away else (logging.INFO, "the database %s is there", name)
