"""The demo, run as a newcomer runs it."""

from __future__ import annotations

import io
import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import trio

from cpg_trio.demo import __main__ as demo, client
from cpg_trio.demo._narrator import Narrator
from cpg_trio.http import StartError
from tests.processes import assert_no_traceback, running

ID = r"[0-9a-f]{4}…"


@pytest.mark.measured_processes
async def test_the_demo_tells_its_story_and_ends_with_status_0(tmp_path: Path) -> None:
    async with running("cpg_trio.demo", "--once", cwd=tmp_path) as run:
        assert await run.end() == 0
        await run.until("host stopping")
    told = run.output
    for line in (
        rf"host    api-plugin-{ID} reports DEGRADED: waiting for storage",
        rf"host    storage-plugin-{ID} reports HEALTHY",
        rf"router  api-plugin-{ID} → storage-plugin-{ID} /Store \(service: storage\)",
        rf"router  storage-plugin-{ID} → logger-plugin-{ID} /Log 200 \(duration: .+\)",
        r"logger  \[LOG\] STORE [0-9a-f]{8} → " + re.escape(demo.EXAMPLE_URL),
        r"✓ " + re.escape(demo.EXAMPLE_URL) + r" ⇄ [0-9a-f]{8}",
        r"plugin  storage-plugin has stopped",
    ):
        assert re.search(line, told), told
    assert_no_traceback(told)
    assert "[AUDIT]" not in told
    assert (tmp_path / "url-shortener.sqlite3").exists()


async def test_the_demo_does_its_work_when_nobody_reads_its_story(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "cpg_trio.demo", "--once"]
    with trio.fail_after(120):
        done = await trio.run_process(command, cwd=tmp_path, stdout=writer, capture_stderr=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


async def test_a_demo_that_cannot_keep_urls_says_so(tmp_path: Path) -> None:
    async with running("cpg_trio.demo", "--once", "--storage", str(tmp_path / "no" / "urls")) as run:
        assert await run.end() == 1
        await run.until("cannot keep URLs in")
    assert_no_traceback(run.output)


async def _entered(address: str) -> httpx.Response:
    """Open a one-time address as a browser does, and then the page that it leads to."""
    async with httpx.AsyncClient(trust_env=False) as browser:
        let_in = await browser.get(address)
        assert "set-cookie" in let_in.headers
        return await browser.get(httpx.URL(address).copy_with(query=None))


async def test_two_demos_at_once_each_serve_where_they_say_until_they_are_interrupted(
    tmp_path: Path,
) -> None:
    async with (
        running("cpg_trio.demo", "--storage", str(tmp_path / "1")) as first,
        running("cpg_trio.demo", "--storage", str(tmp_path / "2")) as second,
    ):
        with trio.fail_after(120):
            for run in (first, second):
                api = (await run.until(r"api-plugin listening on (http://\S+)"))[1]
                code = (await run.until(r'curl "\S+/Resolve\?code=([0-9a-f]{8})"'))[1]
                dashboard = (await run.until(r"(http://127\.0\.0\.1:\d+/\?once=\S+)"))[1]
                await run.until("Ctrl-C stops")
                assert (await _entered(dashboard)).status_code == 200
                assert (await client.resolve(api, code)).endswith(f"URL: {demo.EXAMPLE_URL}")
        assert re.search(r"port \d+ is taken: \w+ is at http://127.0.0.1:\d+", first.output + second.output)
        assert [await first.end(signal.SIGINT), await second.end(signal.SIGTERM)] == [0, 0]
    assert_no_traceback(first.output + second.output)


async def test_a_check_that_fails_is_told_and_ends_with_status_1(tmp_path: Path) -> None:
    path = tmp_path / "urls"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE urls (code TEXT PRIMARY KEY, url TEXT) WITHOUT ROWID")
        connection.execute(
            "CREATE TRIGGER no BEFORE INSERT ON urls WHEN length(NEW.code) = 8"  # as long as a code of api's
            " BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    failed = (
        "✗ The check failed: /api.v1.API/Shorten answered 500: Storage failed: storage has an internal error"
    )
    async with running("cpg_trio.demo", "--once", "--storage", str(path)) as run:
        assert await run.end() == 1
        await run.until("host stopping")
    assert failed in run.output
    told = io.StringIO()
    serving = demo.Demo(Narrator(told), once=False, storage_path=path)
    await serving.run(trio.Event())
    assert serving.failed
    assert failed in told.getvalue()


async def test_the_demo_serves_with_the_engine_of_http_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_SERVER", "hypercorn")
    told = io.StringIO()
    chosen = demo.Demo(Narrator(told), once=True, storage_path=tmp_path / "urls")
    await chosen.run(trio.Event())
    assert not chosen.failed, told.getvalue()
    assert "✓ https://example.com" in told.getvalue()


async def test_a_demo_with_an_unknown_engine_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_SERVER", "apache")
    unknown = demo.Demo(Narrator(io.StringIO()), once=True, storage_path=tmp_path / "urls")
    with pytest.raises(StartError, match="HTTP_SERVER must be 'hypercorn'"):
        await unknown.run(trio.Event())
