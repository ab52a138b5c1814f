"""The parts as real processes: clear ends. `tests/chaos/test_processes.py` has more about them."""

from __future__ import annotations

import resource
import signal
import socket
import sys
from itertools import product

import pytest
import trio

from cpg_trio.demo._command import run_plugin
from cpg_trio.demo.logger import logger_plugin
from tests.cli.ended import ended
from tests.processes import assert_no_traceback, running
from tests.shortener_processes import MODULES, nobody


async def test_a_signal_ends_a_part_with_status_0() -> None:
    async def end(name: str, number: signal.Signals) -> None:
        async with running(*MODULES[name], environment={"PORT": "0", "HOST_URL": nobody()}) as part:
            await part.url()
            assert await part.end(number) == 0, (name, number)

    async with trio.open_nursery() as nursery:
        for name, number in product(("host", "logger"), (signal.SIGTERM, signal.SIGINT)):
            nursery.start_soon(end, name, number)


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
    ],
)
def test_a_setting_that_makes_no_sense_ends_a_part_with_status_1_and_the_reason(
    name: str,
    environment: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for key, value in {"PORT": "0", **environment}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys, "argv", [name])
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        if name == "host":
            done = ended(capsys, "host")
            assert done.status == 1
            told = done.err
        else:
            assert run_plugin(logger_plugin().serve, None) == 1
            told = capsys.readouterr().err
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)  # which a part raises for its process
    assert message in told
    assert_no_traceback(told, name)


async def test_a_process_that_cannot_start_ends_with_status_1_and_the_reason() -> None:
    async def end(name: str, environment: dict[str, str], message: str) -> None:
        async with running(*MODULES[name], environment=environment) as part:
            assert await part.end() == 1, (name, environment)
            output = await part.whole_output()
            assert message in output
            assert_no_traceback(output, name)

    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        in_use = f":{port}: address already in use"
        async with trio.open_nursery() as nursery:
            for name, environment, message in [
                (
                    "storage",
                    {"STORAGE_PATH": "/no/such/folder/urls"},
                    "cannot keep URLs in /no/such/folder/urls",
                ),
                ("host", {"PORT": port}, in_use),
                ("logger", {"PORT": port, "HOST_URL": nobody()}, in_use),
            ]:
                nursery.start_soon(end, name, {"PORT": "0", **environment}, message)


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
