"""The parts as real processes: clear ends. `tests/chaos/test_processes.py` has more about them."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator

import pytest

from cpg_trio.demo._command import run_plugin
from cpg_trio.demo.logger import logger_plugin
from tests.cli.ended import ended, limits_as_they_were
from tests.processes import assert_no_traceback, running
from tests.shortener_processes import MODULES, nobody


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("name", ["host", "logger"])
async def test_ctrl_c_ends_a_part_with_status_0(name: str) -> None:
    """As does SIGTERM, which ends those of other tests."""
    async with running(*MODULES[name], environment={"PORT": "0", "HOST_URL": nobody()}) as part:
        await part.url()
        assert await part.end(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("host", {"PORT": "eighty"}, "PORT must be a number from 0 to 65535, not 'eighty'"),
        ("host", {"BASE_URLS": "some"}, "BASE_URLS must be one of caller, proved, any, not 'some'"),
        (
            "host",
            {"STATE_PATH": "/no/such/folder/state"},
            "cannot keep the host's state in /no/such/folder/state: no such file or directory",
        ),
        (
            "host",
            {"SOCKET_DIR": "/no/such/folder"},
            "cannot listen on unix:/no/such/folder/host.sock: no such file or directory; make its",
        ),
        (
            "logger",
            {"SOCKET_DIR": "/no/such/folder"},
            ".sock: no such file or directory; make its directory first",
        ),
        (
            "logger",
            {"HOST_URL": "localhost:8080"},
            "HOST_URL: a base URL is http or https, a host, and perhaps a port from 1 to 65535",
        ),
        ("host", {"PORT": "{taken}"}, ":{taken}: address already in use"),
        ("logger", {"PORT": "{taken}", "HOST_URL": "http://127.0.0.1:1"}, ":{taken}: address already in use"),
    ],
)
def test_a_setting_that_makes_no_sense_ends_a_part_with_status_1_and_the_reason(
    name: str,
    environment: dict[str, str],
    message: str,
    taken: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for key, value in {"PORT": "0", **environment}.items():
        monkeypatch.setenv(key, value.format(taken=taken))
    monkeypatch.setattr(sys, "argv", [name])
    if name == "host":
        done = ended(capsys, "host")
        assert done.status == 1
        told = done.err
    else:
        with limits_as_they_were():
            assert run_plugin(logger_plugin().serve, None) == 1
        told = capsys.readouterr().err
    assert message.format(taken=taken) in told
    assert_no_traceback(told, name)


async def test_a_process_that_cannot_start_ends_with_status_1_and_the_reason() -> None:
    nowhere = {"PORT": "0", "STORAGE_PATH": "/no/such/folder/urls"}
    async with running(*MODULES["storage"], environment=nowhere) as part:
        assert await part.end() == 1
        output = await part.whole_output()
    assert "cannot keep URLs in /no/such/folder/urls" in output
    assert_no_traceback(output, "storage")


def test_a_traceback_in_a_log_is_shown_with_its_line_and_cut_to_a_bound() -> None:
    line, other = "2026/01/02 03:04:05 an error", "2026/01/02 03:04:06 another line"
    traceback = ["Traceback (most recent call last):", *["  a frame"] * 1000, "ValueError: " + "x" * 1000]
    with pytest.raises(AssertionError) as caught:
        assert_no_traceback("\n".join([other] * 100 + [line, *traceback, other] * 10), "a host")
    said = str(caught.value).splitlines()
    assert said[:4] == ["a host has written a traceback:", other, line, traceback[0]]
    assert "ValueError: xxx" in "".join(said)
    assert said[-1] == "and 7 more"
    assert len(said) < 160
    assert max(map(len, said)) < 400
    assert_no_traceback(f"{line}\n{other}")
