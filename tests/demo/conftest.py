"""The databases that storage is tested on."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.demo.postgres import Postgres, binaries, postgres_server


@pytest.fixture(scope="package")
def postgres_for_all() -> Iterator[Postgres]:
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (on Debian: apt-get install postgresql)")
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres(postgres_for_all: Postgres) -> Postgres:
    """A server that runs, with an empty database."""
    if not (postgres_for_all.folder / "data" / "postmaster.pid").exists():
        postgres_for_all.start()
    with psycopg.connect(postgres_for_all.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS urls")
    return postgres_for_all
