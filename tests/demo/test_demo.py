"""The demo and the command-line client, run as a newcomer runs them."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import trio

from cpg_trio import rpc
from cpg_trio._gen.api.v1 import api_pb2 as pb
from cpg_trio._gen.api.v1.api_trio import APIService
from cpg_trio.demo import __main__ as demo, client
from cpg_trio.demo._narrator import Narrator
from cpg_trio.http import ServeConfig, StartError
from cpg_trio.process import config_from_environment
from tests.demo.shortener import shortener
from tests.http.apps import served
from tests.plugin.running import unused_port
from tests.processes import running

ID = r"[0-9a-f]{4}…"


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
    assert "Traceback" not in told
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
    assert "Traceback" not in run.output


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
                await run.until("Ctrl-C stops")
                assert (await client.resolve(api, code)).endswith(f"URL: {demo.EXAMPLE_URL}")
        assert re.search(r"port \d+ is taken: \w+ is at http://127.0.0.1:\d+", first.output + second.output)
        assert [await first.end(signal.SIGINT), await second.end(signal.SIGTERM)] == [0, 0]
    assert "Traceback" not in first.output + second.output


async def test_the_client_shortens_and_resolves(tmp_path: Path) -> None:
    async with shortener(tmp_path / "urls") as system:
        told = await client.shorten(system.api, "https://e.x/?a=1&b=2")
        match = re.fullmatch(
            r"✓ Shortened URL\n"
            r"  Original: https://e.x/\?a=1&b=2\n"
            r"  Code:     ([0-9a-f]{8})\n"
            r"  Resolve:  (\S+)",
            told,
        )
        assert match
        assert (await system.http.get(match[2])).json() == {"url": "https://e.x/?a=1&b=2"}
        resolved = await client.resolve(system.api, match[1])
        assert resolved == f"✓ Resolved short code: {match[1]}\n  URL: https://e.x/?a=1&b=2"


async def test_the_client_checks_the_way_to_storage_and_back(tmp_path: Path) -> None:
    async with shortener(tmp_path / "urls") as system:
        told = await client.check(system.api)
    assert re.fullmatch(
        r"✓ Shortened and resolved https://example.com/[0-9a-f]{16} \([0-9a-f]{8}\)\n"
        r"✓ An unknown code is not found",
        told,
    )


@pytest.mark.parametrize(
    "answers", [{}, {"resolve": "https://another.example"}, {"resolve_unknown": "https://example.com"}]
)
async def test_a_check_of_an_api_that_answers_wrongly_fails(answers: dict[str, str]) -> None:
    class Wrong(APIService):
        url = ""

        async def shorten(self, request: pb.ShortenRequest, _ctx: rpc.Context, /) -> pb.ShortenResponse:
            self.url = request.url
            return pb.ShortenResponse(short_code="c", url=request.url)

        async def resolve(self, request: pb.ResolveRequest, _ctx: rpc.Context, /) -> pb.ResolveResponse:
            if request.code == "c":
                return pb.ResolveResponse(url=answers.get("resolve", self.url))
            if "resolve_unknown" not in answers:
                raise rpc.ConnectError(rpc.Code.UNAVAILABLE, "storage is not available")
            return pb.ResolveResponse(url=answers["resolve_unknown"])

    async with served(rpc.application([Wrong()])) as url:
        with pytest.raises(rpc.ConnectError, match=r"resolves to|storage is not available"):
            await client.check(url)


def test_a_client_that_reaches_nobody_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_URL", f"http://127.0.0.1:{unused_port()}/")
    assert client.main(["resolve", "c"]) == 1
    assert client.main(["shorten", "https://e.x"]) == 1
    assert client.main(["check"]) == 1
    assert capsys.readouterr().err.startswith("✗ resolve failed: unavailable: ")


@pytest.mark.usefixtures("capsys")
def test_a_client_that_is_asked_for_nothing_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        client.main([])
    assert "shorten" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def tell(stream: io.StringIO) -> str:
    narrator = Narrator(stream)
    event = ("cpg_trio.router", logging.INFO, "", 0, "[ROUTER] %s → b /M", ("a-0123456789abcdef",))
    narrator.handle(logging.LogRecord(*event, exc_info=None))
    error = ValueError("oh")
    narrator.handle(logging.LogRecord(*event, exc_info=(type(error), error, None)))
    return stream.getvalue()


def test_the_story_is_plain_for_files_and_coloured_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, coloured = tell(io.StringIO()), tell(Terminal())
    assert "router  a-0123… → b /M\n" in plain
    assert "ValueError: oh" in plain
    assert "\x1b[" not in plain
    assert "\x1b[35mrouter \x1b[0m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in tell(Terminal())


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
    assert chosen.serve == config_from_environment({"HTTP_SERVER": "hypercorn"}) != ServeConfig()


async def test_a_demo_with_an_unknown_engine_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_SERVER", "apache")
    unknown = demo.Demo(Narrator(io.StringIO()), once=True, storage_path=tmp_path / "urls")
    with pytest.raises(StartError, match="HTTP_SERVER must be 'hypercorn'"):
        await unknown.run(trio.Event())


def test_a_terminal_that_cannot_show_arrows_gets_question_marks() -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Narrator(terminal).title("a → b ✓")
    terminal.seek(0)
    assert terminal.read() == "\na ? b ?\n\n"
