"""The command `run`, as a process of its own: a plugin of this directory, for a host."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

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
async def test_a_plugin_that_there_is_not_is_one_line_and_status_1(
    target: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "run_greeter.py").write_text(GREETER)
    async with running("cpg_trio", "run", target, cwd=tmp_path) as plugin:
        assert await plugin.end() == 1
        output = await plugin.whole_output()
    assert told in output
    assert_no_traceback(output)
