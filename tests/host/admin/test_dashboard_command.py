"""`cpg-trio dashboard`, as a process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests._wire import Response
from tests.host.admin.addresses import TOKEN, ask
from tests.plugin.running import eventually
from tests.processes import running


async def opened(address: str) -> tuple[str, Response]:
    """Open a one-time address; return the gate's own, and what it answers."""
    url, _, code = address.partition("/?")
    return url, await ask(url, f"/?{code}", {"accept": "text/html"})


async def test_it_opens_a_port_for_one_browser_until_it_is_interrupted(short_path: Path) -> None:
    socket = short_path / "a" / "{port}.sock"
    host = {"PORT": "0", "ADMIN_SOCKET": str(socket), "ADMIN_BIND": "127.0.0.1:0", "ADMIN_TOKEN": TOKEN}
    async with running("cpg_trio", "host", environment=host) as process:
        port = (await process.url()).rpartition(":")[2]
        admin = await process.until(r"admin service on (\S+), (http://\S+)")
        assert admin[1] == f"unix:{short_path}/a/{port}.sock"
        for reach in ({"ADMIN_URL": admin[2], "ADMIN_TOKEN": TOKEN}, {"ADMIN_SOCKET": admin[1][5:]}):
            async with running("cpg_trio", "dashboard", "--no-open", environment=reach) as dashboard:
                address = (await dashboard.until(r"(http://\S+\?once=\S+)"))[1]
                url, entered = await opened(address)
                cookie = (entered.header(b"set-cookie") or b"").partition(b";")[0].decode()
                page = await ask(url, "/", {"cookie": cookie, "accept": "text/html"})
                assert page.status not in {401, 403, 502}
                assert (await opened(address))[1].status == 401
                assert await dashboard.end(signal.SIGINT) == 0
            assert TOKEN not in dashboard.output
        assert await process.end(signal.SIGTERM) == 0
        assert not list((short_path / "a").iterdir())
        assert TOKEN not in process.output


@pytest.mark.measured_processes
async def test_without_a_host_it_says_so_in_one_line(short_path: Path) -> None:
    where = {"ADMIN_SOCKET": str(short_path / "none")}
    async with running("cpg_trio", "dashboard", "--no-open", environment=where) as dashboard:
        assert await dashboard.end() == 1
        assert (await dashboard.whole_output()).count("\n") == 1
        assert "no host answers" in dashboard.output


async def test_it_opens_a_browser_where_there_is_a_display(short_path: Path) -> None:
    browser = short_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1 $ADMIN_TOKEN" > {short_path}/opened\nexec sleep 5\n')
    browser.chmod(0o700)
    host = {"PORT": "0", "ADMIN_SOCKET": str(short_path / "a" / "s")}
    async with running("cpg_trio", "host", environment=host) as process:
        await process.until("admin service on")
        reach = {
            "ADMIN_SOCKET": host["ADMIN_SOCKET"],
            "BROWSER": f"{browser} %s",
            "PATH": os.environ["PATH"],
            "ADMIN_TOKEN": TOKEN,
        }
        async with running("cpg_trio", "dashboard", environment=reach) as dashboard:
            address = (await dashboard.until(r"(http://\S+\?once=\S+)"))[1]
            seen = short_path / "opened"
            await eventually(lambda: seen.exists() and seen.read_text())
            assert seen.read_text().strip() == address
            assert await dashboard.end(signal.SIGINT) == 0  # whether or not the browser runs on
