"""Connecting to Unix sockets, through a pool."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cpg_trio.http import (
    ConnectFailedError,
    Origin,
    Pool,
    PoolStatistics,
    Request,
)
from tests.http.peers import OK, Script, at_socket, get, serving

if TYPE_CHECKING:
    pass


async def fetch(pool: Pool, origin: Origin, request: Request) -> tuple[int, bytes]:
    async with pool.request(origin, request) as response:
        return response.status, b"".join([chunk async for chunk in response])


async def test_a_unix_socket_is_a_place_to_connect_to(short_path: Path) -> None:
    path = str(short_path / "socket")
    script = Script([OK, OK])
    async with at_socket(path, script), Pool() as pool:
        origin = Origin("http", "host.test", 8080, (f"unix:{path}",))
        assert await fetch(pool, origin, get()) == (200, b"ok")
        assert await fetch(pool, origin, get()) == (200, b"ok")
        assert script.requests[0] == b"GET / HTTP/1.1\r\nhost: host.test:8080\r\n\r\n"
        assert pool.take(Origin("http", "host.test", 8080)) is None
        assert pool.statistics() == PoolStatistics(idle=1, active=0, opened=1, reused=1)


async def test_a_unix_socket_that_is_not_there_is_a_failure_to_connect(short_path: Path) -> None:
    path = str(short_path / "socket")
    async with Pool() as pool:
        with pytest.raises(ConnectFailedError, match=f"http://host.test at unix:{path}: .*no such file"):
            await fetch(pool, Origin("http", "host.test", 80, (f"unix:{path}",)), get())


async def test_what_is_at_the_path_is_the_socket_itself_and_no_link_to_one(short_path: Path) -> None:
    link, file = short_path / "link", short_path / "file"
    file.touch()
    async with at_socket(str(short_path / "socket"), Script([OK])), Pool() as pool:
        link.symlink_to(short_path / "socket")
        for path in (link, file):
            with pytest.raises(ConnectFailedError, match="on non-socket"):
                await pool.open(Origin("http", "host.test", 80, (f"unix:{path}",)))
        origin = Origin("http", "host.test", 80, (f"unix:{short_path}/socket",))
        assert await fetch(pool, origin, get()) == (200, b"ok")


async def test_where_no_file_can_be_held_its_path_is_looked_at(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_PATH")
    path, link = short_path / "socket", short_path / "link"
    async with at_socket(str(path), Script([OK])), Pool() as pool:
        link.symlink_to(path)
        with pytest.raises(ConnectFailedError, match="on non-socket"):
            await pool.open(Origin("http", "host.test", 80, (f"unix:{link}",)))
        assert await fetch(pool, Origin("http", "host.test", 80, (f"unix:{path}",)), get()) == (200, b"ok")


async def test_a_path_may_be_longer_than_the_kernel_takes(short_path: Path) -> None:
    folder = short_path / ("d" * 120)
    folder.mkdir()
    async with at_socket(str(short_path / "socket"), Script([OK])), Pool() as pool:
        (short_path / "socket").rename(folder / "socket")
        origin = Origin("http", "host.test", 80, (f"unix:{folder}/socket",))
        assert await fetch(pool, origin, get()) == (200, b"ok")


async def test_where_there_is_another_way_a_socket_that_cannot_be_connected_to_is_no_failure(
    short_path: Path,
) -> None:
    path = str(short_path / "socket")
    script = Script([OK], [OK], [OK])
    async with serving(script) as tcp, Pool(max_idle_per_origin=0) as pool:
        origin = Origin("http", "host.test", tcp.port, (f"unix:{path}", tcp.host))
        assert await fetch(pool, origin, get()) == (200, b"ok")
        with socket.socket(socket.AF_UNIX) as full:
            full.bind(path)
            assert await fetch(pool, origin, get()) == (200, b"ok")  # nobody listens
            full.listen(0)
            with socket.socket(socket.AF_UNIX) as waiting:
                waiting.connect(path)
                assert await fetch(pool, origin, get()) == (200, b"ok")
                with pytest.raises(ConnectFailedError, match="temporarily unavailable"):
                    await pool.open(tcp.at((f"unix:{path}",)))
    (short_path / "socket").unlink()
    async with Pool() as pool:
        with pytest.raises(ConnectFailedError, match=f"at {tcp.host}: .*refused"):
            await fetch(pool, origin, get())


async def test_the_socket_comes_first_and_its_connections_are_its_own(short_path: Path) -> None:
    path = str(short_path / "socket")
    tcp_script, script = Script([OK]), Script([OK])
    async with serving(tcp_script) as tcp, at_socket(path, script), Pool() as pool:
        origin = tcp.at((f"unix:{path}", ""))
        assert await fetch(pool, origin, get()) == (200, b"ok")
        assert (len(script.requests), len(tcp_script.requests)) == (1, 0)
        assert pool.take(tcp) is None


def test_the_path_of_a_unix_socket_has_no_nul() -> None:
    with pytest.raises(ValueError, match="NUL"):
        Origin("http", "host.test", 80, ("unix:a\0b",))
