"""Balancers in front of hosts of this machine: real ones, as the guide configures them, and a plain one."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from tests.plugin.running import unused_port

GUIDE = Path(__file__).parents[3] / "docs/guides/several-hosts.md"
START_S = 20

_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{of_guide}
}}
"""


def program(name: str) -> str | None:
    """Return where a program is, None if it is not installed."""
    return shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def of_guide(language: str, ports: Sequence[int], port: int) -> str:
    """Return a configuration of the guide, for hosts and a balancer at these ports."""
    found = re.search(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    text = found[1]
    for number, each in enumerate(ports):
        text = text.replace(f"host-{number}:8080", f"127.0.0.1:{each}")
    assert "host-2:" not in text
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}").replace(
        "bind :8080", f"bind 127.0.0.1:{port}"
    )
    assert "8080" not in text
    return text


@asynccontextmanager
async def nginx(folder: Path, ports: Sequence[int]) -> AsyncIterator[str]:
    """Run nginx as the guide configures it; yield its URL."""
    port, file = unused_port(), folder / "nginx.conf"
    file.write_text(_NGINX.format(folder=folder, of_guide=of_guide("nginx", ports, port)))
    async with _process(port, program("nginx"), "-p", str(folder), "-c", str(file)):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def haproxy(folder: Path, ports: Sequence[int]) -> AsyncIterator[str]:
    """Run HAProxy as the guide configures it; yield its URL."""
    port, file = unused_port(), folder / "haproxy.cfg"
    file.write_text(of_guide("haproxy", ports, port))
    async with _process(port, program("haproxy"), "-db", "-f", str(file)):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def by_connection(_folder: Path, ports: Sequence[int]) -> AsyncIterator[str]:
    """Pass each connection on to the next host of this machine; yield the URL."""
    async with round_robin([("127.0.0.1", port) for port in ports], "127.0.0.1") as url:
        yield url


@asynccontextmanager
async def round_robin(hosts: Sequence[tuple[str, int]], address: str) -> AsyncIterator[str]:
    """Pass each connection on to the next host, byte for byte, from an address; yield the URL."""
    turns = itertools.cycle(hosts)

    async def pass_on(plugin: trio.SocketStream) -> None:
        host = await trio.open_tcp_stream(*next(turns), local_address=address)
        async with plugin, host, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, plugin, host)
            nursery.start_soon(_copy, host, plugin)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, pass_on, 0, host=address))
        yield f"http://{address}:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _copy(source: trio.SocketStream, to: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await to.send_all(data)
        await to.send_eof()


@asynccontextmanager
async def _process(port: int, *command: str | None) -> AsyncIterator[None]:
    process = await trio.lowlevel.open_process(
        [word for word in command if word is not None], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with trio.fail_after(START_S):
            while not await _listens(port):  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.02)
        yield
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _listens(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True
