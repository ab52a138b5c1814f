"""What plugins and strangers choose, where operators see it: on pages, in terminals, in logs, in metrics.

Names and versions have few letters. All else (metadata, reasons, paths, headers) may hold anything.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from cpg_trio.cli._app import COMMANDS, SEE, run
from cpg_trio.host import AdminConfig, AdminTokens, Host, HostConfig, LeaseConfig
from cpg_trio.logs import LogConfig, LogFormat, configure_logging, flush
from tests._wire import dial, request
from tests.host.admin.addresses import BEARER, TOKEN, ask
from tests.host.calls import REGISTER, REPORT, WireCaller
from tests.plugin.running import hosting

HTML = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\"'`&#39;{{7*7}}"
TERMINAL = "\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b31m\r\nforged line\x08\u202ereversed\u2028\ufeff"
HOSTILE = f"{HTML}{TERMINAL}"
PAGES = ["/", "/plugins", "/services", "/calls", "/capabilities", "/configuration", "/events"]
STATIC = {"dashboard", "top"}
OF_ONE = {"logs", "impact"}  # of a plugin that the host runs


@asynccontextmanager
async def hostile_host() -> AsyncIterator[tuple[Host, str, str, str]]:
    """Run a host whose plugin and whose strangers say what they can.

    Yield it, its URL, that of its admin address, and the plugin's runtime id.
    """
    config = HostConfig(
        admin=AdminConfig(bind=["127.0.0.1:0"], tokens=AdminTokens([TOKEN])),
        leases=LeaseConfig(lease_s=600),
        metrics_bind="127.0.0.1:0",
    )
    async with hosting(config) as (host, url), httpx.AsyncClient(base_url=url) as http:
        caller = WireCaller(http)
        me = await caller.plugin("evil")
        registered = await caller.post(
            REGISTER,
            {
                "serviceType": "evil",
                "version": "1.0.0",
                "endpointPath": "/" + "<script>",
                "metadata": {"said": HOSTILE, "base_url": url},
            },
            me,
        )
        report = {
            "state": "HEALTH_STATE_DEGRADED",
            "reason": HOSTILE,
            "unavailableDependencies": ["nobody"],
        }
        reported = await caller.post(REPORT, report, me)
        assert (registered[0], reported[0]) == (200, 200), (registered, reported)
        for name in (me["X-Plugin-Runtime-ID"], "<script>\xe9\x9b"):
            async with dial(url) as wire:
                proof = {"x-plugin-runtime-id": name, "authorization": "Bearer x", "content-length": "0"}
                await wire.send(request("POST", "/services/evil/<script>%1b[31m/x", proof))
                await wire.response()
        yield host, url, host.admin_addresses[0], me["X-Plugin-Runtime-ID"]


def unprintable(text: str) -> list[str]:
    """Return the characters that do something to a terminal, or to a line."""
    return [c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"}]


async def test_pages_show_it_as_text() -> None:
    async with hostile_host() as (_host, _url, admin, name):
        own = f"/plugins/{name}"
        found = [*PAGES, own, f"{own}/revoke", "/plugins?filter=%3Cscript%3Ealert(1)", "/events?kind=%22"]
        for path in (*found, "/plugins/%3Cscript%3Ealert(1)%3C/script%3E", "/%3Cscript%3Ealert(1)"):
            response = await ask(admin, path, {**BEARER, "accept": "text/html"})
            assert response.status == (200 if path in found else 404), path
            page = response.body.decode()
            assert "<script>alert" not in page
            assert "<img src=x" not in page
            assert not re.search(r"<[^>]* on\w+=", page)
            assert path != own or "&lt;script&gt;alert(1)" in page


async def test_streams_of_pages_are_lines_of_json() -> None:
    async with hostile_host() as (_host, _url, admin, name), dial(admin) as wire:
        target = f"/live?page=%2Fplugins%2F{name}"
        await wire.send(request("GET", target, BEARER).replace(b"localhost", admin[7:].encode()))
        assert (await wire.head()).status == 200
        size = int((await wire.until(b"\r\n")), 16)
        line = await wire.exactly(size)
        assert line.count(b"\n") == 1
        assert "<script>alert" not in json.dumps(json.loads(line))


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class _Pipe(io.StringIO):
    encoding = "utf-8"


SHOWING = [
    command.name for command in COMMANDS if command.group is SEE and command.name not in STATIC | OF_ONE
]


@pytest.mark.parametrize("out", [_Terminal, _Pipe])
async def test_a_terminal_is_told_nothing_by_a_plugin(
    out: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("NO_COLOR", "1")
    async with hostile_host() as (_host, _url, admin, name):
        commands = [[command] for command in SHOWING] + ([["plugins", name]] if "plugins" in SHOWING else [])
        assert commands
        for words in commands:
            written = out()
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", written)
                await trio.to_thread.run_sync(run, [*words, "--admin", admin])
            shown = (
                re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue()) if out is _Terminal else written.getvalue()
            )
            assert not unprintable(shown), words
            assert "forged line" not in shown.splitlines(), words
            assert not re.search(r"\x1b\[31m", written.getvalue()), words


async def test_json_for_programs_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
    async with hostile_host() as (_host, _url, admin, _name):
        for command in SHOWING:
            written = _Pipe()
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", written)
                await trio.to_thread.run_sync(run, [command, "--json", "--admin", admin])
            for line in [written.getvalue()] if command != "events" else written.getvalue().splitlines():
                json.loads(line)
            assert not unprintable(written.getvalue()), command


@pytest.mark.parametrize("log_format", list(LogFormat))
async def test_a_line_of_the_log_is_one_line_whatever_is_said(log_format: LogFormat) -> None:
    written = io.StringIO()
    configure_logging(stream=written, config=LogConfig(log_format))
    async with hostile_host():
        name = "an.author" if log_format is LogFormat.JSON else "cpg_trio.of_an_author"
        logging.getLogger(name).info("%s", HOSTILE)
    flush()
    lines = written.getvalue().removesuffix("\n").split("\n")
    assert len(lines) > 5
    for line in lines:
        assert not unprintable(line), line
        assert not line.startswith("forged")
        if log_format is LogFormat.JSON:
            assert json.loads(line)


async def test_metrics_have_nothing_that_a_stranger_says() -> None:
    async with hostile_host() as (host, _url, _admin, _name):
        text = (await ask(host.metrics_urls[0], "/metrics")).body.decode()
        assert "cpg_trio" in text
        assert "<script" not in text
        assert not unprintable(text)
