"""The command line, and what `import cpg_trio` shows."""

from __future__ import annotations

import logging
from io import StringIO

import pytest

import cpg_trio
from cpg_trio import cli
from cpg_trio.logs import configure_logging


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
