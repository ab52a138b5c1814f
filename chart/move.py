"""Moves the pairs of an SQLite file into PostgreSQL, in the container that has the file.

`STORAGE_PATH` names the file; the URL of the database comes from standard input. One transaction locks the
file while its pairs are copied, and adds a trigger that refuses new pairs: after the move, the file
acknowledges no pair that the database does not have. The database commits first. A kill at any moment loses
nothing, and the script can be run again.
"""

import json
import os
import sqlite3
import sys
import time

import psycopg

BATCH = 1000
TABLE = "CREATE TABLE IF NOT EXISTS urls (code text PRIMARY KEY, url text NOT NULL)"
TRIGGER = """
CREATE TRIGGER IF NOT EXISTS moved BEFORE INSERT ON urls
BEGIN SELECT RAISE(ABORT, 'the pairs have been moved to PostgreSQL'); END
"""
COPY = """
INSERT INTO urls (code, url) SELECT pair ->> 0, pair ->> 1 FROM json_array_elements(%s::json) AS pair
ON CONFLICT DO NOTHING
"""
THERE = """
SELECT count(*) FROM json_array_elements(%s::json) AS pair JOIN urls ON code = pair ->> 0 AND url = pair ->> 1
"""


def move(source: sqlite3.Connection, target: psycopg.Connection) -> int:
    """Move all pairs; return how many there are. Exits if a code stands for another URL in the database."""
    source.execute("BEGIN IMMEDIATE")
    source.execute(TRIGGER)
    target.execute(TABLE)
    rows, count = source.execute("SELECT code, url FROM urls"), 0
    while batch := rows.fetchmany(BATCH):
        pairs = json.dumps(batch)
        target.execute(COPY, (pairs,))
        there = target.execute(THERE, (pairs,)).fetchone()[0]
        if there != len(batch):
            sys.exit(
                f"{len(batch) - there} codes stand for another URL in the database: nothing has been moved"
            )
        count += there
    target.commit()
    source.commit()
    return count


def connected(url: str) -> psycopg.Connection:
    """Return a connection. Try for PATIENCE_S seconds: a new database's name does not resolve at once."""
    give_up_at = time.monotonic() + float(os.environ.get("PATIENCE_S", "60"))
    while True:
        try:
            return psycopg.connect(url, connect_timeout=10)
        except psycopg.OperationalError as error:
            if time.monotonic() > give_up_at:
                sys.exit(f"cannot connect to the database: {type(error).__name__}")
        time.sleep(1)


if __name__ == "__main__":
    path = os.environ["STORAGE_PATH"]
    with connected(sys.stdin.read().strip()) as database:
        file = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=30, isolation_level=None)
        try:
            file.execute("PRAGMA synchronous = FULL")
            print(f"{move(file, database)} pairs are in PostgreSQL")  # noqa: T201 - what the script shows
        finally:
            file.close()
