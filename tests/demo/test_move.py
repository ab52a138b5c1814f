"""The chart's script that moves the pairs of an SQLite file into PostgreSQL, of which none is lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from cpg_trio.demo._store import DatabaseAwayError, open_store
from tests.demo.postgres import PASSWORD, Postgres

MOVE = Path(__file__).parents[2] / "chart" / "move.py"
PAIRS = {f"code{number}": f"https://example.com/{number}?q=π" for number in range(2500)}


def _move(path: Path, url: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "STORAGE_PATH": str(path), "PATIENCE_S": "0"}
    return subprocess.run(
        [sys.executable, MOVE], input=url, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
async def filled(tmp_path: Path) -> Path:
    path = tmp_path / "urls.sqlite3"
    async with open_store(path) as store:
        await store.prepare()
    with closing(sqlite3.connect(path)) as file, file:
        file.executemany("INSERT INTO urls VALUES (?, ?)", PAIRS.items())
    return path


async def test_all_pairs_are_there_and_to_move_them_again_does_no_harm(
    filled: Path, postgres: Postgres
) -> None:
    for _ in range(2):
        moved = _move(filled, postgres.url)
        assert (moved.returncode, moved.stdout) == (0, f"{len(PAIRS)} pairs are in PostgreSQL\n"), (
            moved.stderr
        )
    with psycopg.connect(postgres.url) as connection:
        assert dict(connection.execute("SELECT code, url FROM urls").fetchall()) == PAIRS
    async with open_store(postgres.url) as store:
        assert await store.get("code7") == PAIRS["code7"]
        await store.put("after", "https://example.com/after")


async def test_a_file_whose_pairs_were_moved_gives_them_out_and_acknowledges_no_other(
    filled: Path, postgres: Postgres
) -> None:
    async with open_store(filled) as store:  # as the storage that goes on until the upgrade
        assert _move(filled, postgres.url).returncode == 0
        assert await store.get("code7") == PAIRS["code7"]
        with pytest.raises(DatabaseAwayError, match="the pairs have been moved to PostgreSQL"):
            await store.put("late", "https://example.com/late")
        await store.prepare()  # it stays ready: codes resolve
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT count(*) FROM urls").fetchone() == (len(PAIRS),)


async def test_where_a_code_stands_for_another_url_nothing_is_moved(filled: Path, postgres: Postgres) -> None:
    async with open_store(postgres.url) as store:
        await store.prepare()
        await store.put("code7", "https://example.com/another")
    refused = _move(filled, postgres.url)
    assert refused.returncode == 1
    assert "1 codes stand for another URL in the database: nothing" in refused.stderr
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT count(*) FROM urls").fetchone() == (1,)
    async with open_store(filled) as store:
        await store.put("goes on", "https://example.com/on")


async def test_a_database_that_is_away_changes_nothing_and_no_password_is_told(filled: Path) -> None:
    refused = _move(filled, f"postgresql://me:{PASSWORD}@127.0.0.1:1/urls")
    assert refused.returncode == 1
    assert PASSWORD not in refused.stdout + refused.stderr
