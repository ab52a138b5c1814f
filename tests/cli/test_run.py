"""The command `run`: a plugin of this directory, for a host."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.cli.ended import ended
from tests.platforms import GREETER
from tests.plugin.running import hosting
from tests.processes import assert_no_traceback, running


@pytest.mark.measured_processes
async def test_a_plugin_of_this_directory_runs_until_it_is_told_to_stop(tmp_path: Path) -> None:
    (tmp_path / "run_greeter.py").write_text(GREETER)
    async with hosting() as (host, url):
        environment = {"HOST_URL": url, "PORT": "0", "HOSTNAME": "127.0.0.1"}
        command = ("cpg_trio", "run", "run_greeter:plugin")
        async with running(*command, cwd=tmp_path, environment=environment) as plugin:
            await plugin.until("greeter-plugin is healthy")
            assert "greeter-plugin" in map(host.identities.name_of, host.identities.known())
            assert await plugin.end(signal.SIGTERM) == 0
            assert_no_traceback(await plugin.whole_output())


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("run_greeter:plugn", "run_greeter has no plugn; plugin is: is that meant?"),
        ("run_greter:plugin", "there is no module run_greter"),
    ],
)
def test_a_plugin_that_there_is_not_is_one_line_and_status_1(
    target: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "run_greeter.py").write_text(GREETER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "run_greeter", raising=False)
    done = ended(capsys, "run", target)
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert told in done.err
