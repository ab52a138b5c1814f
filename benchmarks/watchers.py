"""How soon the last of many watchers hears of a change, and what that costs the host.

    python -m benchmarks watchers [--watchers N] [--changes N]

A host runs as a process of its own. N websockets watch one service type, whose provider's health changes. For
each change: the time from the provider's report until the last watcher has its frame. The peer, in the same
run, with the same clients and frames of the same size: `websockets.broadcast`, which sends what it is given
and knows nothing of registries. Then the host's memory before and after many changes, while one watcher more
does not read at all.

The watchers are bare sockets, so that what is measured is the server.
"""

from __future__ import annotations

import base64
import os
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from cpg_trio import wire
from cpg_trio.host import Limits
from cpg_trio.http import Pool
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._session import Introduction, Session, handshake
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb

from .bench import Bench, Report
from .peers import host
from .processes import free_port, memory_bytes, server
from .report import table

ROUNDS = 30
REPORTERS = 50  # connections on which changes are made at once, for the memory
SERVICE_TYPE = "watched"
_BINARY, _PING, _PONG = 2, 9, 10  # opcodes: RFC 6455, section 5.2

PEER = """
import asyncio, sys
import websockets
from websockets.asyncio.server import broadcast, serve

clients = set()

async def handle(socket):
    if socket.request.path == "/trigger":
        async for message in socket:
            broadcast(clients, message)
    else:
        clients.add(socket)
        await socket.wait_closed()

async def main():
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), compression=None, ping_interval=None):
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


@attrs.define
class Watcher:
    """A websocket client of the barest kind."""

    stream: trio.SocketStream
    heard_at: float = 0.0
    """When it received the last one."""

    @classmethod
    async def open(cls, port: int, path: str, headers: dict[str, str]) -> Watcher:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        if not head.startswith(b"HTTP/1.1 101 "):
            raise RuntimeError(head.decode())
        return cls(stream)

    async def say(self, data: bytes, opcode: int = _BINARY) -> None:
        """Send one short frame."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        await self.stream.send_all(bytes([0x80 | opcode, 0x80 | len(data)]) + mask + masked)

    async def listen(self, heard: Callable[[Watcher], None]) -> None:
        """Tell of each short frame that comes, and answer pings."""
        buffer = b""
        async for data in self.stream:
            buffer += data
            while len(buffer) > 1 and len(buffer) >= 2 + buffer[1]:
                opcode, payload = buffer[0] & 0x0F, buffer[2 : 2 + buffer[1]]
                buffer = buffer[2 + len(payload) :]
                if opcode == _PING:
                    await self.say(payload, _PONG)
                    continue
                self.heard_at = time.perf_counter()
                heard(self)


class Watchers:
    """Many watchers, which listen in a nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._watchers: list[Watcher] = []
        self._waiting = 0
        self._all_heard = trio.Event()

    def add(self, watcher: Watcher) -> None:
        """Have a watcher listen."""
        self._watchers.append(watcher)
        self._nursery.start_soon(watcher.listen, self._heard)

    async def time(self, count: int, change: Callable[[], Awaitable[object]]) -> float:
        """Return the seconds from the begin of a change until so many have received a frame."""
        self._waiting, self._all_heard = count, trio.Event()
        started = time.perf_counter()
        await change()
        with trio.fail_after(60):
            await self._all_heard.wait()
        return max(watcher.heard_at for watcher in self._watchers) - started

    def _heard(self, _: Watcher) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._all_heard.set()


async def register(url: str, pool: Pool) -> Session:
    """Register the provider whose health changes."""
    session = await handshake(Hosts([url], pool), Introduction("provider", "1.0.0"))
    await session.registry.register_service(
        pb.RegisterServiceRequest(service_type=SERVICE_TYPE, version="1.0.0", endpoint_path="/x/")
    )
    return session


async def report(provider: Session, *, degraded: bool) -> None:
    """Report the provider's health."""
    state = pb.HEALTH_STATE_DEGRADED if degraded else pb.HEALTH_STATE_HEALTHY
    await provider.lifecycle.report_health(pb.ReportHealthRequest(state=state))


async def of_host(bench: Bench, watchers: int, changes: int) -> tuple[list[float], list[int]]:
    """Return the seconds of each round, and the host's memory at each tenth of the changes."""
    folder = bench.subfolder("watchers")
    async with host(folder, [bench.proxy_core], {}) as (port, pid), Pool() as pool:
        provider = await register(f"http://127.0.0.1:{port}", pool)
        *crowd, deaf = await _watching(port, pool, watchers + 1)
        deaf.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        subscription = pb.WatchSubscription(service_type=SERVICE_TYPE)
        request = pb.WatchRequest(subscribe=[subscription]).SerializeToString()
        async with trio.open_nursery() as nursery:
            everyone = Watchers(nursery)
            for watcher in crowd:
                everyone.add(watcher)

            async def subscribe() -> None:
                for watcher in [*crowd, deaf]:
                    await watcher.say(request)

            await everyone.time(watchers, subscribe)
            times = [
                await everyone.time(watchers, partial(report, provider, degraded=not index % 2))
                for index in range(ROUNDS)
            ]
            memory = [await _memory_after(provider, changes // 10, pid) for _ in range(11 if changes else 0)]
            nursery.cancel_scope.cancel()
        for watcher in [*crowd, deaf]:
            await trio.aclose_forcefully(watcher.stream)
    return times, memory


async def _watching(port: int, pool: Pool, watchers: int) -> list[Watcher]:
    """Return so many watchers; several have one identity, as far as the host lets them."""
    each, crowd = Limits().max_watches_per_plugin, list[Watcher]()
    for _ in range(0, watchers, each):
        session = await handshake(Hosts([f"http://127.0.0.1:{port}"], pool), Introduction("watcher", "1.0.0"))
        headers = {**session.headers, "Sec-WebSocket-Protocol": wire.WATCH_PROTO}
        for _ in range(min(each, watchers - len(crowd))):
            crowd.append(await Watcher.open(port, wire.WATCH_PATH, headers))
    return crowd


async def _memory_after(provider: Session, changes: int, pid: int) -> int:
    async def change() -> None:
        for index in range(changes // REPORTERS):
            await report(provider, degraded=not index % 2)

    async with trio.open_nursery() as nursery:
        for _ in range(REPORTERS):
            nursery.start_soon(change)
    return memory_bytes(pid)


async def of_peer(bench: Bench, watchers: int) -> list[float]:
    """Return the seconds of each round of the peer."""
    frame = pb.WatchUpdate(
        revision=1000,
        events=[
            pb.WatchServiceEvent(
                service_type=SERVICE_TYPE,
                state=pb.SERVICE_STATE_AVAILABLE,
                endpoint=pb.ServiceEndpoint(
                    provider_id="provider-0123456789abcdef",
                    version="1.0.0",
                    endpoint_url=f"/services/{SERVICE_TYPE}/provider-0123456789abcdef",
                ),
            )
        ],
    ).SerializeToString()
    port, log = free_port(), bench.subfolder("websockets") / "log"
    command = [sys.executable, "-c", PEER, str(port)]
    async with server(command, port, cores=[bench.proxy_core], log=log):
        crowd = [await Watcher.open(port, "/", {}) for _ in range(watchers)]
        trigger = await Watcher.open(port, "/trigger", {})
        async with trio.open_nursery() as nursery:
            everyone = Watchers(nursery)
            for watcher in crowd:
                everyone.add(watcher)
            times = [await everyone.time(watchers, partial(trigger.say, frame)) for _ in range(ROUNDS)]
            nursery.cancel_scope.cancel()
        for watcher in [*crowd, trigger]:
            await trio.aclose_forcefully(watcher.stream)
    return times


async def measure(bench: Bench) -> Report:
    """Measure both, the host on the first core, its watchers on the second."""
    ours, memory = await of_host(bench, bench.watchers, bench.changes)
    peers = await of_peer(bench, bench.watchers)
    text = [
        f"{bench.watchers:,} watchers of one service type, {ROUNDS} changes, until the last has heard",
        _table(ours, peers),
    ]
    if memory:
        tenths = ", ".join(f"{value / 2**20:.1f}" for value in memory)
        text.append(
            f"The host's memory over {bench.changes:,} further changes, with one watcher more that does not"
            f" read at all, at each tenth: {tenths} MiB."
        )
    figures = {"ours_s": ours, "websockets_s": peers, "memory_bytes": memory}
    return Report("watchers", "\n\n".join(text), figures)


def _table(ours: list[float], peers: list[float]) -> str:
    median, worst = ([value(of) for of in (ours, peers)] for value in (statistics.median, max))
    rows = [
        [title, f"{1000 * usual:.0f} ms", f"{1000 * most:.0f} ms"]
        for title, usual, most in zip(
            ("host, `/watch`", "`websockets.broadcast`"), median, worst, strict=True
        )
    ]
    rows.append(["ratio", f"{median[0] / median[1]:.1f}", f"{worst[0] / worst[1]:.1f}"])
    return table("server", ["median", f"worst of {ROUNDS}"], rows)
