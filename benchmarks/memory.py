"""Memory of a proxy under load and with many idle connections, and the CPU time that those use."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import attrs
import trio

from .bench import Bench, Report
from .comparison import figures
from .load import Call, LoadError, wrk
from .peers import Peer, Proxy, started
from .processes import cpu_seconds, memory_bytes
from .report import table
from .upstream import SMALL, upstream

_CONNECTIONS = 64
_TIMEOUT_S = 30.0


@attrs.frozen
class Memory:
    """Bytes, and seconds."""

    idle: int
    loaded: int
    connected: int
    cpu_s: float


async def measure(bench: Bench) -> Report:
    """Measure one after the other, each a new process."""
    found = {}
    async with upstream(bench.subfolder("provider"), bench.load_core) as provider:
        for peer in bench.peers:
            async with started(peer, provider, bench.subfolder(peer.name), bench.proxy_core) as proxy:
                found[peer] = await _of(bench, proxy)
    compared = figures(
        "VmRSS",
        {peer: [of] for peer, of in found.items()},
        bench.pair,
        ("after its start, MiB", lambda of: of.idle / 2**20, False),
        ("under load, MiB", lambda of: of.loaded / 2**20, False),
        (f"{bench.idle_connections:,} connections, MiB", lambda of: of.connected / 2**20, False),
    )
    by_name = {peer.name: attrs.asdict(of) for peer, of in found.items()}
    return Report("memory", _table(bench, found), by_name, compared=compared)


async def _of(bench: Bench, proxy: Proxy) -> Memory:
    idle = memory_bytes(proxy.pid)
    await wrk(proxy.call(), _CONNECTIONS, bench.rounds * bench.seconds, [bench.load_core])
    loaded = memory_bytes(proxy.pid)
    with ExitStack() as stack:
        await trio.to_thread.run_sync(_connect, stack, proxy.call(), bench.idle_connections)
        before = cpu_seconds(proxy.pid)
        await trio.sleep(bench.idle_s)
        return Memory(idle, loaded, memory_bytes(proxy.pid), cpu_seconds(proxy.pid) - before)


def _connect(stack: ExitStack, call: Call, connections: int) -> None:
    """Make a call on each of many connections, and leave them open. Raises: LoadError."""
    request = call.encoded()
    for index in range(connections):
        # 127.0.0.0/8 is this machine; one address has hardly more ports than are needed here.
        source = (f"127.0.0.{2 + index % 4}", 0)
        connection = socket.create_connection(("127.0.0.1", call.port), _TIMEOUT_S, source)
        stack.callback(connection.close)
        connection.sendall(request)
        answer = b""
        while not answer.endswith(SMALL):
            received = connection.recv(4096)
            if not received:
                raise LoadError(f"connection {index} was closed after {answer!r}")
            answer += received


def _table(bench: Bench, found: dict[Peer, Memory]) -> str:
    connections = f"{bench.idle_connections:,} idle connections"
    heads = ["after its start", "under load", connections, f"CPU in {bench.idle_s:.0f} s of these"]
    rows = [
        [
            peer.title,
            *(f"{value / 2**20:.0f} MiB" for value in (of.idle, of.loaded, of.connected)),
            f"{1000 * of.cpu_s:.0f} ms",
        ]
        for peer, of in found.items()
    ]
    return table("proxy", heads, rows)
