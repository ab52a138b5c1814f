"""The store of the storage plugin: codes and URLs in a database that commits before a write is answered."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import trio
from opentelemetry.trace import SpanKind, get_tracer

from cpg_trio.call_context import current
from cpg_trio.demo._batching import Answer, Batcher, Item
from cpg_trio.http import StartError

if TYPE_CHECKING:
    from cpg_trio.demo._database import Database

_log = logging.getLogger("cpg_trio.demo.storage")
_tracer = get_tracer("cpg_trio.demo.storage")
_NO_SPAN = nullcontext()  # one for all calls, as it has no state

MAX_CODE_BYTES = 1024  # PostgreSQL keeps no key longer than about 2,700 bytes

_CHECK_S = 5.0  # between checks of a database that works
_RETRY_S = 0.5  # between checks of one that is away
_CHECK_TIMEOUT_S = 5.0  # more than the database's own time limits
_LOCK_TIMEOUT_S = 5.0  # for another process that has locked the file
_LOCKED, _LOCKED_RETRY_S = "database is locked", 0.05
_NO_ROOM = "database or disk is full", "disk I/O error"  # SQLite's errors that may pass by themselves
_CHOICE = "STORAGE_PATH or --storage"
_CLOSE_S = 6.0  # for calls whose callers have been cancelled


class CodeTakenError(Exception):
    """The code stands for another URL already."""


class InvalidPairError(ValueError):
    """No database can keep this code or URL."""


class DatabaseAwayError(Exception):
    """The database cannot be reached or does not work; the message says which one and why."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"the database {self.name} is away: {self.why}"


class Store:
    """Codes and URLs in a database, with one thread for writes, one for reads and one for checks.

    The threads batch: one commit serves all the writes that arrived during the commit before. Reads do not
    wait for writes. They have a thread, though a read from the page cache would be faster on the loop's own
    thread: a read from a slow disk may take minutes, and would delay the loop's heartbeats for as long.

    A cancelled caller returns at once. Its write may be committed all the same.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = Batcher(database.put, name="store: writer", shared=DatabaseAwayError)
        self._reader = Batcher(database.get, name="store: reader", shared=DatabaseAwayError)
        self._checker = Batcher(database.prepare, name="store: checker", shared=DatabaseAwayError)
        self._suspected = trio.Event()

    async def put(self, code: str, url: str) -> None:
        """Keep a pair; it is committed when this returns. Keeping the same pair again changes nothing.

        Raises: CodeTakenError, and then nothing has changed; DatabaseAwayError, and then it may have;
        InvalidPairError for NUL, and for a code of more than `MAX_CODE_BYTES`.
        """
        if not _can_be_code(code) or "\0" in url:
            raise InvalidPairError(
                f"code and url cannot contain NUL, nor code more than {MAX_CODE_BYTES} bytes"
            )
        with self._span("INSERT"):
            is_kept = await self._call(self._writer, (code, url))
        if not is_kept:
            raise CodeTakenError(code)

    async def get(self, code: str) -> str | None:
        """Return the URL of a code, or None. Raises: DatabaseAwayError."""
        if not _can_be_code(code):
            return None
        with self._span("SELECT"):
            return await self._call(self._reader, code)

    def _span(self, operation: str) -> AbstractContextManager[object]:
        """Make a span of what a call does to the database, with its wait for the batch, if it is traced."""
        if not current().is_sampled:
            return _NO_SPAN  # what OpenTelemetry does without tracing takes half as long as a commit
        attributes = {
            "db.system.name": self._database.system_name,
            "db.operation.name": operation,
            "db.collection.name": "urls",
        }
        return _tracer.start_as_current_span(f"{operation} urls", kind=SpanKind.CLIENT, attributes=attributes)

    async def prepare(self) -> None:
        """Create the table, if there is none, and check that it can be written. Raises: DatabaseAwayError."""
        await self._call(self._checker, None)

    async def follow(self, report: Callable[[str], None]) -> NoReturn:
        """Check the database for ever. Report why it is away, and an empty string once it works again."""
        before: str | None = None
        while True:
            self._suspected, checked_at = trio.Event(), trio.current_time()
            away = await self._check()
            if away != before:
                level = logging.WARNING if away else logging.INFO
                _log.log(level, "%s", away or f"the database {self._database.name} is there")
                report(away)
                before = away
            if not away:
                with trio.move_on_after(_CHECK_S):
                    await self._suspected.wait()
            await trio.sleep_until(checked_at + _RETRY_S)

    async def _check(self) -> str:
        """Return why the database is away; an empty string if it works."""
        try:
            with trio.fail_after(_CHECK_TIMEOUT_S):
                await self.prepare()
        except DatabaseAwayError as error:
            return str(error)
        except trio.TooSlowError:
            return str(DatabaseAwayError(self._database.name, "it did not answer in time"))
        return ""

    async def _call(self, batcher: Batcher[Item, Answer], item: Item) -> Answer:
        try:
            return await batcher.call(item)
        except DatabaseAwayError:
            self._suspected.set()
            raise

    async def close(self) -> None:
        """Wait a limited time for the calls that are running, and close the connections."""
        batchers: tuple[Batcher[Any, Any], ...] = (self._writer, self._reader, self._checker)
        for batcher in batchers:
            batcher.close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_CLOSE_S):
                for batcher in batchers:
                    await batcher.wait_ended()
            await trio.to_thread.run_sync(self._database.close)


@asynccontextmanager
async def open_store(where: Path | str) -> AsyncIterator[Store]:
    """Open the SQLite file at a path, which is created if needed, or the database of a `DATABASE_URL`.

    A file must be usable at once; a server may come later. Raises: StartError for a file that cannot be used,
    an invalid URL, and a missing package.
    """
    store = Store(_database(where))
    try:
        if isinstance(where, Path):
            await _prepare_file(store, where)
        yield store
    finally:
        await store.close()


def _can_be_code(code: str) -> bool:
    """Whether each kind of database can have a code: none is asked for one that another would refuse."""
    return "\0" not in code and len(code.encode()) <= MAX_CODE_BYTES


def _database(where: Path | str) -> Database:
    """Return the database. Raises: StartError."""
    extra = "demo" if isinstance(where, Path) else "postgres"
    try:
        from cpg_trio.demo import _database  # noqa: PLC0415 - it needs an extra of the package

        return _database.sqlite(where) if isinstance(where, Path) else _database.postgresql(where)
    except ImportError as error:
        raise StartError(
            f"storage needs a package that is not installed: pip install 'cpg-trio[{extra}]'"
        ) from error


async def _prepare_file(store: Store, path: Path) -> None:
    """Wait while another process creates the database: SQLite does not wait for that by itself.

    A full disk does not fail the start, since there may be room later. Raises: StartError.
    """
    if path.is_dir():  # noqa: ASYNC240 - before anything is served
        raise StartError(f"cannot keep URLs in {path}: it is a directory; choose a file, with {_CHOICE}")
    give_up_at = trio.current_time() + _LOCK_TIMEOUT_S
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
