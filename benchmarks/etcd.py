"""A member of etcd, and hosts that are ready when they have joined each other through it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from cpg_trio.http import Pool
from cpg_trio.rpc import ConnectError, HttpRequest, PoolClient

from .processes import free_port, server, which

_READY_S = 60.0
_OK = 200


@asynccontextmanager
async def etcd(folder: Path, cores: Iterable[int]) -> AsyncIterator[int]:
    """Run one member; yield its port for clients."""
    port, peers = free_port(), free_port()
    command = [
        which("etcd"),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{port}",
        f"--advertise-client-urls=http://127.0.0.1:{port}",
        f"--listen-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-cluster=default=http://127.0.0.1:{peers}",
        "--log-output=stderr",
    ]
    async with server(command, port, cores=cores, log=folder / "etcd.log"):
        yield port


def environment(port: int, path: str) -> dict[str, str]:
    """Return what a host needs to share a directory: all are on this machine."""
    return {
        "STATE_URL": f"etcd://127.0.0.1:{port}/{path}",
        "CPG_HOST_KEY": "k" * 40,
        "BASE_URLS": "any",
    }


async def until_ready(port: int) -> None:
    """Wait until a host has joined the others."""
    request = HttpRequest("GET", f"http://127.0.0.1:{port}/readyz", [], b"")
    async with Pool() as pool:
        with trio.fail_after(_READY_S):
            while True:
                with suppress(ConnectError):
                    if (await PoolClient(pool).unary(request, 1000)).status == _OK:
                        return
                await trio.sleep(0.1)
