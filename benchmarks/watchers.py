"""How soon the last of many watchers hears of a change, and what that costs the host.

    python -m benchmarks watchers [--watchers N] [--changes N]

A host runs as a process of its own. N websockets watch one service type, whose provider's health changes. For
each change: the time from the provider's report until the last watcher has its frame. The peer, with the same
clients and frames of the same size: `websockets.broadcast`, which sends what it is given and knows nothing of
registries. They take turns, change by change. Then the host's memory before and after many changes, while one
watcher more does not read at all.

The watchers are bare sockets, so that what is measured is the server.
"""

from __future__ import annotations

import base64
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
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
from .comparison import figures
from .peers import Peer
from .processes import cpu_seconds, free_port, memory_bytes, server
from .report import table

ROUNDS = 30
REPORTERS = 50  # connections on which changes are made at once, for the memory
SERVICE_TYPE = "watched"
_BINARY, _PING, _PONG = 2, 9, 10  # opcodes: RFC 6455, section 5.2

WEBSOCKETS = "`websockets.broadcast`"
_BROADCAST = """
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


@attrs.frozen
class Told:
    """One change."""

    seconds: float
    """Until the last watcher has received it."""
    cpu_s: float
    """What the server has run."""


@attrs.define(eq=False)
class Server:
    """A server, and all who watch it."""

    pid: int
    everyone: Watchers
    count: int
    change: Callable[[int], Awaitable[object]]
    """Makes a change, which has a number."""
    changes: int = 0

    async def tell(self) -> Told:
        """Make a change, and wait until everyone has received it."""
        before, number = cpu_seconds(self.pid), self.changes
        self.changes += 1
        seconds = await self.everyone.time(self.count, partial(self.change, number))
        return Told(seconds, cpu_seconds(self.pid) - before)

    async def memory_after(self, changes: int) -> int:
        """Return the server's memory after so many changes, made on some connections at once."""

        async def change() -> None:
            for number in range(changes // REPORTERS):
                await self.change(number)

        async with trio.open_nursery() as nursery:
            for _ in range(REPORTERS):
                nursery.start_soon(change)
        return memory_bytes(self.pid)


@asynccontextmanager
async def watched_host(bench: Bench, peer: Peer) -> AsyncIterator[Server]:
    """Run a host with watchers, and one more that does not read."""
    assert peer.host is not None
    folder = bench.subfolder("watchers", peer.name)
    async with peer.host.running(folder, [bench.proxy_core]) as (port, pid), Pool() as pool:
        provider = await register(f"http://127.0.0.1:{port}", pool)
        *crowd, deaf = await _watching(port, pool, bench.watchers + 1)
        deaf.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        subscription = pb.WatchSubscription(service_type=SERVICE_TYPE)
        request = pb.WatchRequest(subscribe=[subscription]).SerializeToString()

        async def subscribe() -> None:
            for watcher in [*crowd, deaf]:
                await watcher.say(request)

        async def change(number: int) -> None:
            await report(provider, degraded=not number % 2)

        async with _listening(crowd, deaf) as everyone:
            await everyone.time(len(crowd), subscribe)
            yield Server(pid, everyone, len(crowd), change)


@asynccontextmanager
async def _listening(crowd: Sequence[Watcher], *others: Watcher) -> AsyncIterator[Watchers]:
    """Have watchers listen for a block; close them and the others at its end."""
    async with trio.open_nursery() as nursery:
        everyone = Watchers(nursery)
        for watcher in crowd:
            everyone.add(watcher)
        yield everyone
        nursery.cancel_scope.cancel()
    for watcher in [*crowd, *others]:
        await trio.aclose_forcefully(watcher.stream)


async def _watching(port: int, pool: Pool, watchers: int) -> list[Watcher]:
    """Return so many watchers; several have one identity, as far as the host lets them."""
    each, crowd = Limits().max_watches_per_plugin, list[Watcher]()
    for _ in range(0, watchers, each):
        session = await handshake(Hosts([f"http://127.0.0.1:{port}"], pool), Introduction("watcher", "1.0.0"))
        headers = {**session.headers, "Sec-WebSocket-Protocol": wire.WATCH_PROTO}
        for _ in range(min(each, watchers - len(crowd))):
            crowd.append(await Watcher.open(port, wire.WATCH_PATH, headers))
    return crowd


@asynccontextmanager
async def _broadcast(bench: Bench) -> AsyncIterator[Server]:
    """Run the peer with as many watchers."""
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
    command = [sys.executable, "-c", _BROADCAST, str(port)]
    async with server(command, port, cores=[bench.proxy_core], log=log) as pid:
        crowd = [await Watcher.open(port, "/", {}) for _ in range(bench.watchers)]
        trigger = await Watcher.open(port, "/trigger", {})

        async def change(_number: int) -> None:
            await trigger.say(frame)

        async with _listening(crowd, trigger) as everyone:
            yield Server(pid, everyone, len(crowd), change)


async def measure(bench: Bench) -> Report:
    """Measure all, the servers on the first core, their watchers on the second."""
    async with AsyncExitStack() as stack:
        servers = {
            peer.title: await stack.enter_async_context(watched_host(bench, peer)) for peer in bench.commits
        }
        servers[WEBSOCKETS] = await stack.enter_async_context(_broadcast(bench))
        turns = attrs.evolve(bench, rounds=ROUNDS)
        told = await turns.take_turns(list(servers), lambda title: servers[title].tell())
        ours = servers[bench.commits[0].title]
        memory = [await ours.memory_after(bench.changes // 10) for _ in range(11 if bench.changes else 0)]
    text = [
        f"{bench.watchers:,} watchers of one service type, {ROUNDS} changes, until the last has heard",
        _table(told),
    ]
    if memory:
        tenths = ", ".join(f"{value / 2**20:.1f}" for value in memory)
        text.append(
            f"The host's memory over {bench.changes:,} further changes, with one watcher more that does not"
            f" read at all, at each tenth: {tenths} MiB."
        )
    compared = figures(
        f"{bench.watchers:,} watchers",
        told,
        bench.pair and (bench.pair[0].title, bench.pair[1].title),
        ("until the last has heard, ms", lambda one: 1e3 * one.seconds, False),
        ("CPU of a change, ms", lambda one: 1e3 * one.cpu_s, False),
    )
    found = {title: [attrs.asdict(one) for one in of] for title, of in told.items()}
    return Report("watchers", "\n\n".join(text), {**found, "memory_bytes": memory}, compared=compared)


def _table(told: Mapping[str, Sequence[Told]]) -> str:
    rows = []
    for title, of in told.items():
        ratios = [one.seconds / other.seconds for one, other in zip(of, told[WEBSOCKETS], strict=True)]
        seconds = [one.seconds for one in of]
        rows.append(
            [
                title,
                f"{1000 * statistics.median(seconds):.0f} ms",
                f"{statistics.median(ratios):.1f}",
                f"{1000 * max(seconds):.0f} ms",
                f"{1000 * statistics.median(one.cpu_s for one in of):.0f} ms",
            ]
        )
    heads = ["median", f"as a multiple of {WEBSOCKETS}'s", f"worst of {ROUNDS}", "CPU of the server"]
    return table("server", heads, rows)
