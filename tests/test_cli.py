"""The command line, and what `import cpg_trio` shows."""

from __future__ import annotations

import logging
from io import StringIO
from pathlib import Path

import pytest

import cpg_trio
from cpg_trio import cli
from cpg_trio.logs import configure_logging
from cpg_trio.serving import StartError


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"cpg-trio {cpg_trio.__version__}\n"


def test_the_help_names_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["host", "--help"])
    told = capsys.readouterr().out
    assert "PORT" in told
    assert "BASE_URLS" in told
    assert "LEASE_S" in told
    assert "STATE_PATH" in told


@pytest.mark.parametrize(
    ("environment", "path"),
    [({}, None), ({"STATE_PATH": ""}, None), ({"STATE_PATH": "a/host.sqlite3"}, Path("a/host.sqlite3"))],
)
def test_a_host_keeps_its_state_where_it_is_told_to_and_nowhere_else(
    environment: dict[str, str], path: Path | None
) -> None:
    assert cli._host_config(environment).state_path == path


def test_one_number_says_how_soon_a_silent_plugin_is_gone() -> None:
    leases = cli._host_config({"LEASE_S": "1.5"}).leases
    assert (leases.lease_s, leases.heartbeat_s, leases.probe_timeout_s) == (1.5, 0.5, 0.5)


@pytest.mark.parametrize("lease", ["0", "-1", "soon", "inf", "nan"])
def test_a_lease_that_makes_no_sense_is_refused_with_what_to_write_instead(lease: str) -> None:
    with pytest.raises(StartError, match="LEASE_S must be a number of seconds above 0, not '"):
        cli._host_config({"LEASE_S": lease})


def test_log_lines_begin_with_date_and_time() -> None:
    stream = StringIO()
    configure_logging(stream=stream)
    logging.getLogger("cpg_trio.router").info("[ROUTER] %s", "x")
    logging.getLogger("somebody.else").info("not shown")
    date, time, text = stream.getvalue().split(" ", 2)
    assert (len(date.split("/")), len(time.split(":")), text) == (3, 3, "[ROUTER] x\n")


def test_every_public_name_is_documented() -> None:
    public = [name for name in vars(cpg_trio) if not name.startswith("_")]
    for name in public:
        assert getattr(cpg_trio, name).__doc__, name
