"""What storage promises, on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Never

import httpx
import psycopg
import pytest
import sqlalchemy
import trio
import trio.testing

from cpg_trio.demo import _database, api, storage
from cpg_trio.demo._store import MAX_CODE_BYTES, CodeTakenError, DatabaseAwayError, Store, open_store
from cpg_trio.demo.logger import logger_plugin
from cpg_trio.demo.storage import storage_plugin
from cpg_trio.host import Host
from cpg_trio.http import StartError
from cpg_trio.protos.storage.v1.storage_pb2 import GetRequest, StoreRequest
from cpg_trio.protos.storage.v1.storage_trio import StorageClient
from cpg_trio.rpc import Code, ConnectError
from tests.demo.postgres import PASSWORD, QUOTED, Postgres
from tests.demo.shortener import shortener
from tests.plugin.running import (
    DEGRADED,
    UNHEALTHY,
    eventually,
    hosting,
    is_healthy,
    plugged,
    state_of,
    until,
    unused_port,
)
from tests.processes import assert_no_traceback, running

RETRY_S = 0.05


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpg_trio.demo._store._RETRY_S", RETRY_S)


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "sqlite":
        return tmp_path / "urls"
    return str(request.getfixturevalue("postgres").url)


async def test_a_taken_code_keeps_its_url_and_the_same_pair_again_is_no_conflict(where: Path | str) -> None:
    async with open_store(where) as store:
        await store.prepare()
        await store.put("c", "first")
        await store.put("c", "first")
        with pytest.raises(CodeTakenError):
            await store.put("c", "second")
        assert await store.get("c") == "first"
        assert await store.get("C") is None


async def test_a_hundred_stores_at_once_all_last(where: Path | str) -> None:
    async with open_store(where) as store:
        await store.prepare()
        async with trio.open_nursery() as nursery:
            for index in range(100):
                nursery.start_soon(store.put, f"c{index}", f"u{index}")
    async with open_store(where) as store:
        assert [await store.get(f"c{index}") for index in range(100)] == [f"u{index}" for index in range(100)]


async def test_of_many_replicas_that_want_one_code_one_gets_it(where: Path | str) -> None:
    won: list[str] = []

    async def want(store: Store, url: str) -> None:
        try:
            await store.put("contested", url)
        except CodeTakenError:
            return
        won.append(url)

    async with open_store(where) as one, open_store(where) as other:
        await one.prepare()
        async with trio.open_nursery() as nursery:
            for index in range(20):
                nursery.start_soon(want, (one, other)[index % 2], f"u{index}")
        assert won == [await one.get("contested")] == [await other.get("contested")]


async def test_replicas_that_begin_at_once_on_an_empty_database_all_come_up(where: Path | str) -> None:
    async def begin(number: int) -> None:
        async with (
            hosting() as (host, url),
            storage_plugin(where) as storage,
            plugged(logger_plugin(), url),
            plugged(storage, url),
        ):
            await until(host, lambda: is_healthy(host, "storage"))

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(begin, number)


async def test_any_url_round_trips_through_the_whole_shortener(where: Path | str) -> None:
    async with shortener(where) as system:
        for url in (
            "https://e.x/?q=\"quoted\"&r='single'",
            "https://e.x/grüße/日本語/🦊",
            "https://e.x/%00%zz",
        ):
            code = (await system.shorten(url)).json()["short_code"]
            assert (await system.resolve(code)).json() == {"url": url}


async def test_what_one_of_the_databases_could_not_keep_is_an_invalid_argument_on_both(
    where: Path | str,
) -> None:
    async with shortener(where) as system:
        storage = StorageClient(system.storage, system.http)
        for code, url in (("a\0b", "u"), ("c", "u\0"), ("c" * (MAX_CODE_BYTES + 1), "u")):
            with pytest.raises(ConnectError) as caught:
                await storage.store(StoreRequest(code=code, url=url))
            assert caught.value.code == Code.INVALID_ARGUMENT
            with pytest.raises(ConnectError) as caught:
                await storage.get(GetRequest(code=code))
            assert caught.value.code == Code.NOT_FOUND
        longest = StoreRequest(code="ü" * (MAX_CODE_BYTES // 2), url="u")
        assert (await storage.store(longest)).success


@contextmanager
def writes_held_up(where: Path | str) -> Iterator[None]:
    """Have somebody else at work on the database: others can read, and wait when they write."""
    if isinstance(where, Path):
        with being_made(where):
            yield
    else:
        with psycopg.connect(where) as other, other.transaction():
            other.execute("LOCK TABLE urls IN SHARE MODE")
            yield


@asynccontextmanager
async def one_put_held_up(where: Path | str, store: Store) -> AsyncIterator[trio.Nursery]:
    """Begin a put, and let it go on at the end of the block; yield a nursery that all are waited for in."""
    async with trio.open_nursery() as nursery:
        with writes_held_up(where):
            nursery.start_soon(store.put, "held up", "u")
            await eventually(lambda: store._writer.busy)
            yield nursery
            await trio.testing.wait_all_tasks_blocked()


@contextmanager
def transactions(where: Path | str, store: Store) -> Iterator[list[str]]:
    """Note each transaction that writes in the block; in SQLite each statement is one of its own."""
    if isinstance(where, str):
        with psycopg.connect(where, autocommit=True) as other:
            begun: list[str] = []
            yield begun
            begun += [str(row) for row in other.execute("SELECT DISTINCT xmin::text FROM urls")]
        return
    commits: list[str] = []

    def note(statement: str) -> None:
        if statement.startswith(("INSERT", "BEGIN")):
            commits.append(statement)

    def trace(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_trace_callback(note)

    sqlalchemy.event.listen(store._database._engine, "checkout", trace)
    yield commits


async def test_what_comes_while_a_transaction_is_under_way_goes_into_the_next_one(where: Path | str) -> None:
    async with open_store(where) as store:
        await store.prepare()
        with transactions(where, store) as committed:
            async with one_put_held_up(where, store) as nursery:
                for index in range(50):
                    nursery.start_soon(store.put, f"c{index}", f"u{index}")
        assert len(committed) == 2
        assert [await store.get(f"c{index}") for index in range(50)] == [f"u{index}" for index in range(50)]


async def test_calls_that_come_one_at_a_time_use_one_connection_and_what_it_has_in_its_cache(
    tmp_path: Path,
) -> None:
    used: list[object] = []
    async with open_store(tmp_path / "urls") as store:
        async with trio.open_nursery() as nursery:  # so that there are several
            nursery.start_soon(store.prepare)
            nursery.start_soon(store.put, "c", "u")
            nursery.start_soon(store.get, "c")
        sqlalchemy.event.listen(
            store._database._engine, "checkout", lambda connection, *_: used.append(connection)
        )
        for index in range(6):
            await store.put(f"c{index}", "u")
            await store.get(f"c{index}")
    assert len(used) == 12
    assert len(set(map(id, used))) == 1


async def test_reads_wait_for_no_write(where: Path | str) -> None:
    async with open_store(where) as store:
        await store.prepare()
        await store.put("c", "u")
        async with one_put_held_up(where, store):
            with trio.fail_after(2):
                assert await store.get("c") == "u"
                assert await store.get("held up") is None
            assert store._writer.busy


async def test_what_one_of_a_group_cannot_have_keeps_no_other_from_what_it_wants(where: Path | str) -> None:
    outcomes: dict[tuple[str, str], str] = {}

    async def put(code: str, url: str) -> None:
        try:
            await store.put(code, url)
        except (CodeTakenError, ValueError) as error:
            outcomes[code, url] = type(error).__name__
        else:
            outcomes[code, url] = "kept"

    async with open_store(where) as store:
        await store.prepare()
        await store.put("taken", "u")
        expected = {
            ("a", "u"): "kept",
            ("taken", "another"): "CodeTakenError",
            ("taken", "u"): "kept",
            ("new", "u"): "kept",
            ("new", "another"): "CodeTakenError",
            ("z", "u"): "kept",
        }
        async with one_put_held_up(where, store) as nursery:
            for pair in expected:
                nursery.start_soon(put, *pair)
                await trio.testing.wait_all_tasks_blocked()  # which of two is first matters here
        assert outcomes == expected
        assert [await store.get(code) for code in ("a", "taken", "new", "z")] == ["u"] * 4


async def test_what_is_no_text_at_all_fails_alone(where: Path | str) -> None:
    failed: list[UnicodeEncodeError] = []

    async def put_what_is_none() -> None:
        try:
            await store.put("\ud800", "u")
        except UnicodeEncodeError as error:
            failed.append(error)

    async with open_store(where) as store:
        await store.prepare()
        with pytest.raises(ValueError, match="NUL"):
            await store.put("c\0", "u")
        async with one_put_held_up(where, store) as nursery:
            nursery.start_soon(store.put, "before", "u")
            nursery.start_soon(put_what_is_none)
            nursery.start_soon(store.put, "after", "u")
        assert len(failed) == 1
        assert [await store.get(code) for code in ("before", "after", "c")] == ["u", "u", None]


async def test_a_caller_who_is_cancelled_leaves_at_once_and_nobody_else_notices(where: Path | str) -> None:
    left: list[str] = []

    async def put_and_leave(code: str) -> None:
        try:
            await store.put(code, "u")
        finally:
            left.append(code)

    async with open_store(where) as store:
        await store.prepare()
        async with one_put_held_up(where, store) as nursery:
            async with trio.open_nursery() as leaving:
                for index in range(10):
                    nursery.start_soon(store.put, f"c{index}", "u")
                    leaving.start_soon(put_and_leave, f"left{index}")
                await trio.testing.wait_all_tasks_blocked()
                leaving.cancel_scope.cancel()
            assert (len(left), store._writer.busy) == (10, True)
        assert [await store.get(f"c{index}") for index in range(10)] == ["u"] * 10
        assert [await store.get(code) for code in left] == [None] * 10  # none of them had been begun


async def test_replicas_that_want_the_same_codes_in_opposite_order_do_not_wait_for_each_other_in_a_ring(
    postgres: Postgres,
) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    wanted = [("a", "u"), ("m", "u"), ("z", "u")]
    async with open_store(postgres.url) as one, open_store(postgres.url) as other:
        await one.prepare()
        with psycopg.connect(postgres.url, autocommit=True) as looker, psycopg.connect(postgres.url) as third:
            async with trio.open_nursery() as nursery:
                third.execute("INSERT INTO urls VALUES ('m', 'another')")  # each has one code, and waits here
                nursery.start_soon(trio.to_thread.run_sync, one._database.put, wanted)
                nursery.start_soon(trio.to_thread.run_sync, other._database.put, wanted[::-1])
                await eventually(lambda: looker.execute(waiting).fetchone() == (2,))
                third.rollback()
        assert [await one.get(code) for code, _ in wanted] == ["u"] * 3


@pytest.mark.parametrize(
    ("begin", "end", "why"),
    [
        ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000", "database or disk is full"),
        ("PRAGMA query_only = ON", "PRAGMA query_only = OFF", "attempt to write a readonly database"),
    ],
)
async def test_a_file_that_cannot_be_written_to_fails_all_that_wait_for_it_and_can_be_read(
    tmp_path: Path, begin: str, end: str, why: str
) -> None:
    told: list[str] = []
    now = end

    def set_up(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(now)

    async def put(code: str) -> None:
        try:
            await store.put(code, "u" * 10_000)
        except DatabaseAwayError as error:
            told.append(error.why)

    async with open_store(tmp_path / "urls") as store:
        sqlalchemy.event.listen(store._database._engine, "checkout", set_up)
        await store.put("c", "u")
        now = begin
        async with trio.open_nursery() as nursery:
            for index in range(5):
                nursery.start_soon(put, f"c{index}")
        assert told == [why] * 5
        assert await store.get("c") == "u"
        assert [await store.get(f"c{index}") for index in range(5)] == [None] * 5
        now = end
        await put("c1")
        assert await store.get("c1") == "u" * 10_000


async def test_what_was_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    path = tmp_path / "urls"
    async with running("tests.demo.put_on", str(path)) as run:
        await run.until("3-100 u100\n")
        await run.end(signal.SIGKILL)
        acknowledged = (await run.whole_output()).split()
    async with open_store(path) as store:
        for code, url in zip(acknowledged[::2], acknowledged[1::2], strict=False):  # the last may be cut off
            assert (await store.get(code) or "").startswith(url)


def is_unhealthy(host: Host, service_type: str) -> bool:
    states = [host.registry.health(p.runtime_id).state for p in host.registry.providers(service_type)]
    return states == [UNHEALTHY]


async def test_storage_starts_before_its_database_and_is_healthy_once_that_is_there(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cpg_trio.demo.storage")
    postgres.stop()
    async with (
        httpx.AsyncClient() as http,
        hosting() as (host, url),
        plugged(logger_plugin(), url),
        storage_plugin(postgres.url) as plugin,
        plugged(plugin, url, accept_unsigned=True) as storage_url,
    ):
        await until(host, lambda: is_unhealthy(host, "storage"))
        with pytest.raises(ConnectError) as caught:
            await StorageClient(storage_url, http).store(StoreRequest(code="c", url="u"))
        assert caught.value.code == Code.UNAVAILABLE
        postgres.start()
        await until(host, lambda: is_healthy(host, "storage"))
        await StorageClient(storage_url, http).store(StoreRequest(code="c", url="u"))
    assert [record.getMessage() for record in caplog.records if record.name == "cpg_trio.demo.storage"] == [
        "the database postgres on 127.0.0.1 is away: nothing listens there",
        "the database postgres on 127.0.0.1 is there",
        "[STORAGE] STORE c → u",
    ]


async def test_nothing_acknowledged_is_lost_when_the_database_crashes_and_storage_finds_it_again(
    postgres: Postgres,
) -> None:
    async with shortener(postgres.url) as system:
        kept = {f"https://e.x/{n}": (await system.shorten(f"https://e.x/{n}")).json() for n in range(20)}
        postgres.stop("immediate")
        answer = await system.shorten("https://e.x/meanwhile")
        assert (answer.status_code, answer.text) == (503, "Storage failed: storage is not available\n")
        await until(system.host, lambda: is_unhealthy(system.host, "storage"))
        await until(system.host, lambda: state_of(system.host, "api") == DEGRADED)
        postgres.start()
        await until(system.host, lambda: is_healthy(system.host, "api"))
        for url, shortened in kept.items():
            assert (await system.resolve(shortened["short_code"])).json() == {"url": url}


@contextmanager
def read_only_sessions(postgres: Postgres) -> Iterator[None]:
    """Have each session that begins in the block be read-only until it ends, and all others end now."""
    with psycopg.connect(f"{postgres.url}?options=-c%20default_transaction_read_only%3Doff") as admin:
        admin.autocommit = True
        admin.execute("ALTER ROLE shortener SET default_transaction_read_only = on")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        try:
            yield
        finally:
            admin.execute("ALTER ROLE shortener RESET default_transaction_read_only")


async def test_storage_that_reconnected_to_a_read_only_server_is_back_by_itself_once_it_can_write(
    postgres: Postgres,
) -> None:
    async with (
        httpx.AsyncClient() as http,
        hosting() as (host, url),
        plugged(logger_plugin(), url),
        storage_plugin(postgres.url) as plugin,
        plugged(plugin, url, accept_unsigned=True) as storage_url,
    ):
        await until(host, lambda: is_healthy(host, "storage"))
        with read_only_sessions(postgres):
            with pytest.raises(ConnectError):
                await StorageClient(storage_url, http).store(StoreRequest(code="c", url="u"))
            await until(host, lambda: is_unhealthy(host, "storage"))
            (provider,) = host.registry.providers("storage")
            assert "it is read-only" in host.registry.health(provider.runtime_id).reason
        await until(host, lambda: is_healthy(host, "storage"))
        await StorageClient(storage_url, http).store(StoreRequest(code="c", url="u"))


async def test_storage_whose_database_hangs_is_unhealthy_until_it_goes_on(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpg_trio.demo._store._CHECK_S", 0.2)
    monkeypatch.setattr("cpg_trio.demo._store._CHECK_TIMEOUT_S", 0.5)
    patient = f"{postgres.url}?options=-c%20statement_timeout%3D0"
    async with (
        hosting() as (host, url),
        plugged(logger_plugin(), url),
        storage_plugin(patient) as plugin,
        plugged(plugin, url),
    ):
        await until(host, lambda: is_healthy(host, "storage"))
        with psycopg.connect(postgres.url) as other, other.transaction():
            other.execute("LOCK TABLE urls")
            await until(host, lambda: is_unhealthy(host, "storage"))
            (provider,) = host.registry.providers("storage")
            assert "it did not answer in time" in host.registry.health(provider.runtime_id).reason
        await until(host, lambda: is_healthy(host, "storage"))


def test_what_the_database_may_take_is_less_than_what_callers_wait_for() -> None:
    statement_s = 3.0
    assert f"statement_timeout={statement_s:g}s" in _database._POSTGRESQL_OPTIONS["options"]
    assert statement_s + storage._LOG_TIMEOUT_S < api._STORAGE_TIMEOUT_S
    assert _database._BUSY_S + storage._LOG_TIMEOUT_S < api._STORAGE_TIMEOUT_S


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB at a folder; skip the test where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_storage_on_a_full_disk_is_unhealthy_also_without_calls_and_back_by_itself_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpg_trio.demo._store._CHECK_S", 0.2)
    with small_disk(tmp_path / "disk") as disk:
        async with (
            httpx.AsyncClient() as http,
            hosting() as (host, url),
            plugged(logger_plugin(), url),
            storage_plugin(disk / "urls") as plugin,
            plugged(plugin, url, accept_unsigned=True) as storage_url,
        ):
            await until(host, lambda: is_healthy(host, "storage"))
            fill(disk / "filler")
            await until(host, lambda: is_unhealthy(host, "storage"))
            (disk / "filler").unlink()
            await until(host, lambda: is_healthy(host, "storage"))
            await StorageClient(storage_url, http).store(StoreRequest(code="c", url="u"))


async def test_storage_that_starts_on_a_full_disk_waits_for_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with open_store(disk / "urls") as store:
            await store.put("c", "u")
        fill(disk / "filler")
        async with (
            hosting() as (host, url),
            plugged(logger_plugin(), url),
            storage_plugin(disk / "urls") as plugin,
            plugged(plugin, url),
        ):
            await until(host, lambda: is_unhealthy(host, "storage"))
            (disk / "filler").unlink()
            await until(host, lambda: is_healthy(host, "storage"))


def fill(path: Path) -> None:
    """Fill the disk to its last byte."""
    with path.open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(b"x" * 4096):
            pass


async def test_looks_at_a_database_that_fails_each_write_are_not_made_without_a_pause(tmp_path: Path) -> None:
    checks: list[float] = []

    async def keep_asking() -> None:
        while True:
            with suppress(DatabaseAwayError):
                await store.put("c", "u")

    async with open_store(tmp_path / "urls") as store, trio.open_nursery() as nursery:
        check = store._check

        async def counted() -> str:
            checks.append(trio.current_time())
            return await check()

        def fail(*_: object) -> Never:
            raise DatabaseAwayError("x", "y")

        store._check = counted  # type: ignore[method-assign]
        store._writer._work = fail
        nursery.start_soon(store.follow, lambda _: None)
        nursery.start_soon(keep_asking)
        await eventually(lambda: len(checks) >= 3)
        nursery.cancel_scope.cancel()
    assert all(later - earlier >= 0.9 * RETRY_S for earlier, later in pairwise(checks))


@pytest.mark.parametrize("begin", ["PRAGMA max_page_count = 1", "PRAGMA query_only = ON"])
async def test_a_file_that_cannot_be_written_to_is_away(tmp_path: Path, begin: str) -> None:
    async with open_store(tmp_path / "urls") as store:
        await store.put("c", "u" * 10_000)  # which leaves no page free in the file
        sqlalchemy.event.listen(
            store._database._engine, "checkout", lambda connection, *_: connection.execute(begin)
        )
        with pytest.raises(DatabaseAwayError):
            await store.prepare()
        assert await store.get("c") == "u" * 10_000


async def test_a_look_at_the_database_leaves_nothing_in_it(where: Path | str) -> None:
    async with open_store(where) as store, open_store(where) as other:
        await store.prepare()
        async with trio.open_nursery() as nursery:
            for each in (store, other) * 5:
                nursery.start_soon(each.prepare)
        with store._database._cursor() as cursor:
            cursor.execute("SELECT count(*) FROM urls")
            assert cursor.fetchone() == (0,)


async def test_a_connection_that_broke_unused_fails_no_call(postgres: Postgres) -> None:
    async with open_store(postgres.url) as store:
        await store.prepare()
        await store.put("c", "u")
        postgres.stop()
        postgres.start()
        assert await store.get("c") == "u"


async def test_calls_that_are_cancelled_end_at_once_and_leave_no_connection_behind(
    postgres: Postgres,
) -> None:
    async with open_store(postgres.url) as store:
        await store.prepare()
        with psycopg.connect(postgres.url) as other, other.transaction():
            other.execute("LOCK TABLE urls")
            began = trio.current_time()
            with trio.move_on_after(0.2):
                async with trio.open_nursery() as nursery:
                    for index in range(20):
                        nursery.start_soon(store.put, f"c{index}", "u")
            assert trio.current_time() - began < 2  # the lock is still held, and the database waits for 4 s
            assert store._writer.busy
        await eventually(lambda: not store._writer.busy)
        pool = store._database._engine.pool
        assert "Current Checked out connections: 0" in pool.status()
        async with trio.open_nursery() as nursery:
            for index in range(20):
                nursery.start_soon(store.put, f"c{index}", "u")


async def test_a_closed_store_leaves_no_connection_even_if_a_call_was_left_behind(postgres: Postgres) -> None:
    held, release = trio.Event(), trio.Event()

    async def hold() -> None:
        with psycopg.connect(postgres.url) as other, other.transaction():
            other.execute("LOCK TABLE urls")
            held.set()
            await release.wait()

    async with trio.open_nursery() as nursery, open_store(postgres.url) as store:
        await store.prepare()
        nursery.start_soon(hold)
        await held.wait()
        with trio.move_on_after(0.1):
            await store.put("c", "u")
        assert store._writer.busy
        release.set()
    with psycopg.connect(postgres.url, autocommit=True) as other:
        ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cpg-storage-plugin'"
        await eventually(lambda: other.execute(ours).fetchone() == (0,))


async def test_a_database_that_does_not_answer_is_away_in_time(postgres: Postgres) -> None:
    hurried = f"{postgres.url}?options=-c%20statement_timeout%3D100ms"
    async with open_store(hurried) as store:
        await store.prepare()
        with psycopg.connect(postgres.url) as other, other.transaction():
            other.execute("LOCK TABLE urls")
            with pytest.raises(DatabaseAwayError, match="it did not answer in time"):
                await store.put("c", "u")
        await store.put("c", "u")


async def test_a_call_to_a_database_that_has_gone_says_so_and_so_does_each_after_it(
    postgres: Postgres,
) -> None:
    async with open_store(postgres.url) as store:
        await store.prepare()
        postgres.stop()
        for _ in range(3):
            with pytest.raises(DatabaseAwayError):
                await store.put("c", "u")
        postgres.start()
        await store.put("c", "u")


async def test_no_secret_of_the_database_url_is_told_to_anybody(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = postgres.url.replace(QUOTED, "wr0ng-s3cret")
    told: list[str] = []
    async with open_store(wrong) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.follow, told.append)
        await eventually(lambda: told)
        with pytest.raises(DatabaseAwayError) as caught:
            await store.get("c")
        nursery.cancel_scope.cancel()
    assert (
        str(caught.value) == "the database postgres on 127.0.0.1 is away: it refuses the user or the password"
    )
    assert told == [str(caught.value)]
    everything = caplog.text + str(told) + "".join(traceback.format_exception(caught.value))
    for secret in ("wr0ng", "shortener", PASSWORD, QUOTED):
        assert secret not in everything


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "mysql://me:hunter2@host/database",
        "sqlite:///hunter2",
        "postgresql://me:hunter2@host",
        "postgresql:///hunter2",
        "postgresql://me:hunter2@host:port/database",
    ],
)
async def test_an_invalid_url_is_refused_with_what_to_write_and_not_repeated(url: str) -> None:
    with pytest.raises(StartError, match="DATABASE_URL must be like postgresql://user:password@") as caught:
        async with open_store(url):
            pytest.fail("it opened")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_storage_with_an_invalid_url_does_not_start_and_says_why(tmp_path: Path) -> None:
    environment = {"DATABASE_URL": "hunter2"}
    async with running("cpg_trio.demo.storage", environment=environment, cwd=tmp_path) as run:
        assert await run.end() == 1
        await run.until("DATABASE_URL must be like postgresql://user:password@host:5432/database")
    assert "hunter2" not in run.output
    assert_no_traceback(run.output)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
async def test_each_usual_spelling_of_the_scheme_is_taken(scheme: str) -> None:
    async with open_store(f"{scheme}://me@127.0.0.1:{unused_port()}/urls") as store:
        with pytest.raises(
            DatabaseAwayError, match=r"the database urls on 127.0.0.1 is away: nothing listens"
        ):
            await store.prepare()


@pytest.mark.parametrize(
    ("missing", "where", "extra"),
    [("psycopg", "postgresql://me@host/database", "postgres"), ("sqlalchemy", Path("urls"), "demo")],
)
async def test_what_is_not_installed_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, missing: str, where: Path | str, extra: str
) -> None:
    monkeypatch.delitem(sys.modules, "cpg_trio.demo._database", raising=False)
    monkeypatch.delattr("cpg_trio.demo._database", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(StartError, match=rf"pip install 'cpg-trio\[{extra}\]'"):
        async with open_store(where):
            pytest.fail("it opened")


@contextmanager
def being_made(path: Path) -> Iterator[None]:
    """A file of which another process makes a database, for as long as the block lasts."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_replicas_that_begin_at_once_wait_for_the_one_that_makes_the_file(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        with being_made(tmp_path / "urls"):
            nursery.start_soon(_keep_one, tmp_path / "urls")
            await trio.sleep(0.2)  # time enough to fail in
    async with open_store(tmp_path / "urls") as store:
        assert await store.get("c") == "u"


async def test_a_file_that_stays_locked_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpg_trio.demo._store._LOCK_TIMEOUT_S", 0.1)
    with being_made(tmp_path / "urls"), pytest.raises(StartError, match="database is locked"):
        async with open_store(tmp_path / "urls"):
            pytest.fail("it opened")


async def _keep_one(path: Path) -> None:
    async with open_store(path) as store:
        await store.put("c", "u")


async def test_replicas_share_a_database_and_a_code_that_one_has_given_is_taken_for_all(
    where: Path | str,
) -> None:
    async with open_store(where) as one, open_store(where) as other:
        await one.prepare()
        async with trio.open_nursery() as nursery:
            for index in range(50):
                nursery.start_soon(one.put, f"one{index}", "u")
                nursery.start_soon(other.put, f"other{index}", "u")
        assert [await other.get(f"one{index}") for index in range(50)] == ["u"] * 50
        assert [await one.get(f"other{index}") for index in range(50)] == ["u"] * 50
        with pytest.raises(CodeTakenError):
            await other.put("one0", "another")


async def test_a_place_that_cannot_be_written_to_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot keep URLs in"):
        async with open_store(tmp_path / "no" / "such" / "folder"):
            pytest.fail("it opened")
    (tmp_path / "text").write_text("this is no database, and much longer than the header of one would be" * 9)
    with pytest.raises(StartError, match="not a database"):
        async with open_store(tmp_path / "text"):
            pytest.fail("it opened")
    with closing(sqlite3.connect(tmp_path / "another")) as connection, connection:
        connection.execute("CREATE TABLE urls (a TEXT)")
    with pytest.raises(StartError, match="cannot keep URLs in"):
        async with open_store(tmp_path / "another"):
            pytest.fail("it opened")
