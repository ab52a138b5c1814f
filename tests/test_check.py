"""`cpg-trio check`: what a health check of a container runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import trio

from cpg_trio import cli
from cpg_trio.check import check
from cpg_trio.probes import Probes
from tests.http.apps import served
from tests.http.peers import Peer, serving
from tests.plugin.running import unused_port


@pytest.fixture
async def port() -> AsyncIterator[str]:
    """A process that has begun, and is not ready."""
    async with served(Probes(lambda: "no lease", lambda: "")) as url:
        yield url.rpartition(":")[2]


@pytest.mark.parametrize(
    ("option", "status", "said"),
    [
        ([], 1, "not ready: no lease"),
        (["--ready"], 1, "not ready: no lease"),
        (["--startup"], 0, "OK"),
        (["--live"], 0, "ok"),
    ],
)
async def test_it_says_what_the_process_says_of_itself_in_its_exit_status_and_in_a_line(
    port: str, option: list[str], status: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "cpg_trio", "check", *option]
    done = await trio.run_process(command, env={"PORT": port}, check=False)
    assert done.returncode == status
    assert capfd.readouterr() == ((f"{said}\n", "") if status == 0 else ("", f"{said}\n"))


async def test_a_process_that_does_not_answer_is_not_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def never(_: Peer) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr("cpg_trio.check._TIMEOUT_S", 0.1)
    async with serving(never) as origin:
        port = str(origin.port)
        assert await trio.to_thread.run_sync(check, "live", {"PORT": port}) == 1
    assert capsys.readouterr().err == f"no answer at port {port}: timed out\n"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PORT": str(unused_port())}, "no answer at port {PORT}: [Errno 111] Connection refused"),
        ({"PORT": "eighty"}, "no answer at port eighty: nonnumeric port: 'eighty'"),
        ({}, "PORT is not set: it names the port to check"),
    ],
)
def test_where_there_is_nobody_to_ask_it_says_so(
    environment: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("live", environment) == 1
    assert capsys.readouterr().err == said.format(**environment) + "\n"


def test_what_is_no_question_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "--ready", "--live"])
    assert ended.value.code == 2
    assert "Mutually exclusive arguments: {--ready, --live}" in capsys.readouterr().err


def test_it_is_quick_because_it_imports_nothing_of_what_it_asks_about() -> None:
    program = (
        "import atexit, sys; before = set(sys.modules);"
        " atexit.register(lambda: print(*set(sys.modules) - before)); import cpg_trio.__main__"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "check"], capture_output=True, text=True, check=False
    )
    slow = {
        "trio",
        "attrs",
        "httpx",
        "hypercorn",
        "google.protobuf",
        "cyclopts",
        "rich",
        "argparse",
        "typing",
    }
    assert "cpg_trio.check" in done.stdout.split()
    assert not slow & set(done.stdout.split())
