"""What a directory costs that several hosts share, as it grows: real hosts, a real etcd, simulated plugins.

    python -m benchmarks scale [--plugins N]

Three hosts and one member of etcd, as processes of their own. A simulated plugin shakes hands, registers a
service that nine others provide as well, reports its health three times a lease, and follows ten services on
a websocket, one of which all follow. Many are in a process. At each size: what it takes a plugin to join,
the memory and the CPU of the hosts, and how soon the last watcher, at whichever host, hears of a change of
one provider. At the end one host is killed: how long until its plugins belong to the others, and whether a
watcher was told that one is gone.

All share the machine's cores with what simulates, so that times are those of a machine that is too small.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.http import Pool
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._session import Introduction, Session, handshake
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import ConnectError

from .bench import Bench, Report
from .etcd import environment, etcd, until_ready
from .processes import cpu_seconds, free_port, memory_bytes
from .report import table
from .scale_plugins import ALL_WATCH
from .watchers import report as report_health

HOSTS = 3
SIZES = (1_000, 3_000, 10_000)
MOST = 3_000  # unless it is said: two cores simulate no more
CHANGES = 16  # even: the first one at each size is a change
LEASE_S = 60.0
_IN_A_PROCESS = 1_250
_STEADY_S = 20.0
_JOIN_S = 600.0
_TOLD_S = 60.0
_LIMITS = "max_plugins=20000,max_watches=12000,max_all_subscriptions=120000,max_watched_providers=600000"
_RATES = ",".join(
    f"{kind}=off" for kind in ("handshake", "register", "discover", "watch", "health-report", "subscribe")
)
_OWNED = re.compile(r"^cpg_trio_plugins_owned (\S+)$", re.MULTILINE)


@attrs.define
class Simulated:
    """A process of simulated plugins."""

    process: trio.Process
    host: int
    """Of the host that its plugins joined at."""
    lines: AsyncIterator[str]

    async def ask(self) -> dict[str, float]:
        """Return what its plugins have seen since it was asked last."""
        assert self.process.stdin
        await self.process.stdin.send_all(b"\n")
        return dict(json.loads(await anext(self.lines)))


@attrs.define
class Fleet:
    """Hosts, and what is simulated at them."""

    nursery: trio.Nursery
    ports: list[int]
    metrics: list[int]
    pids: list[int]
    simulated: list[Simulated] = attrs.field(factory=list)
    plugins: int = 0
    degraded: bool = False
    """What the provider that all watch has reported last."""

    async def grow(self, plugins: int) -> float:
        """Have plugins join until there are so many; return the seconds that it takes."""
        began, fresh = time.monotonic(), list[Simulated]()
        while self.plugins < plugins:
            count = min(_IN_A_PROCESS, plugins - self.plugins)
            number = len(self.simulated) % HOSTS
            fresh.append(await self._simulate(number, self.plugins, count))
            self.plugins += count
        with trio.fail_after(_JOIN_S):
            for each in fresh:
                assert json.loads(await anext(each.lines))["joined"]
        return time.monotonic() - began

    async def _simulate(self, host: int, first: int, count: int) -> Simulated:
        ports = ",".join(map(str, [*self.ports[host:], *self.ports[:host]]))
        command = [
            sys.executable,
            "-m",
            "benchmarks.scale_plugins",
            ports,
            str(first),
            str(count),
            str(LEASE_S),
        ]
        process = await self.nursery.start(
            partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
        )
        assert process.stdout
        self.simulated.append(Simulated(process, host, _lines(process.stdout)))
        return self.simulated[-1]

    async def told(self, change: Session, *, degraded: bool) -> float:
        """Return the seconds from a change until the last of all watchers has been told."""
        for each in self.simulated:
            await each.ask()
        began, heard, last_s = time.monotonic(), 0.0, 0.0
        self.degraded = degraded
        await report_health(change, degraded=degraded)
        with trio.fail_after(_TOLD_S):
            while heard < self.plugins:
                await trio.sleep(0.3)  # asking costs what is measured, too
                for each in self.simulated:
                    seen = await each.ask()
                    heard += seen.get("watchers", 0)
                    last_s = max(last_s, seen["last_s"])
        return last_s - began

    async def keep(self, provider: Session) -> None:
        """Keep the lease of the provider that all watch."""
        while True:
            await trio.sleep(LEASE_S / 3)
            with suppress(ConnectError):  # the next one is soon enough
                await report_health(provider, degraded=self.degraded)

    def memory(self) -> list[int]:
        return [memory_bytes(pid) for pid in self.pids]

    async def steady(self) -> tuple[float, float]:
        """Return the share of a core that a host takes, and the heartbeats a second of all."""
        before, began = [cpu_seconds(pid) for pid in self.pids], time.monotonic()
        for each in self.simulated:
            await each.ask()
        await trio.sleep(_STEADY_S)
        took = time.monotonic() - began
        used = [cpu_seconds(pid) - was for pid, was in zip(self.pids, before, strict=True)]
        beats = sum([(await each.ask())["heartbeats"] for each in self.simulated])
        return statistics.mean(used) / took, beats / took


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[str]:
    buffer = b""
    async for data in stream:
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            yield line.decode()


@asynccontextmanager
async def fleet(bench: Bench) -> AsyncIterator[Fleet]:
    """Run etcd and hosts for a block."""
    folder = bench.subfolder("scale")
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        store = await stack.enter_async_context(etcd(folder, range(2)))
        it = Fleet(nursery, [], [], [])
        for number in range(HOSTS):
            port, metrics = free_port(), free_port()
            variables = {
                **environment(store, "scale"),
                "PORT": str(port),
                "LEASE_S": str(LEASE_S),
                "LIMITS": _LIMITS,
                "RATE_LIMITS": _RATES,
                "MAX_CONNECTIONS": "9000",
                "METRICS_BIND": f"127.0.0.1:{metrics}",
                "ADMIN_SOCKET": "off",
                "LOG_LEVEL": "warning",
            }
            with (folder / f"host-{number}.log").open("ab") as log:
                running = await nursery.start(
                    partial(
                        trio.run_process,
                        [sys.executable, "-m", "cpg_trio", "host"],
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **variables},
                        check=False,
                    )
                )
            it.ports.append(port)
            it.metrics.append(metrics)
            it.pids.append(running.pid)
        for port in it.ports:
            await until_ready(port)
        yield it


def _owned(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        match = _OWNED.search(answer.read().decode())
    assert match
    return float(match[1])


async def _failover(it: Fleet) -> tuple[float, float]:
    """Kill the first host; return the seconds until the others own all, and how often a provider was gone."""
    for each in it.simulated:
        await each.ask()
    began = time.monotonic()
    (await trio.run_process(["kill", "-9", str(it.pids[0])]))
    with trio.fail_after(_JOIN_S):
        while True:
            owned = [await trio.to_thread.run_sync(_owned, port) for port in it.metrics[1:]]
            if sum(owned) >= it.plugins:
                break
            await trio.sleep(0.5)
    took = time.monotonic() - began
    return took, sum([(await each.ask())["gone"] for each in it.simulated])


@attrs.frozen
class Size:
    """What was measured at one size."""

    plugins: int
    join_s: float
    """A plugin, on average."""
    join_cpu_s: float
    """Of one host, for a plugin that joins at whichever host."""
    memory: int
    """Of a host, in bytes: the mean."""
    cpu: float
    """The share of a core that a host takes."""
    heartbeats: float
    """In a second."""
    told_s: Sequence[float]


async def measure(bench: Bench) -> Report:
    """Measure at each size, and then kill a host."""
    sizes = [size for size in SIZES if size <= (bench.plugins or MOST)]
    found = list[Size]()
    async with Pool() as pool, fleet(bench) as it:
        idle = statistics.mean(it.memory())
        hosts = Hosts([f"http://127.0.0.1:{it.ports[-1]}"], pool)
        provider = await handshake(hosts, Introduction("changing", "1.0.0"))
        await provider.registry.register_service(
            pb.RegisterServiceRequest(service_type=ALL_WATCH, version="1.0.0", endpoint_path="/x/")
        )
        async with open_plain_nursery() as keeping:
            keeping.start_soon(it.keep, provider)
            for size in sizes:
                found.append(await _at(it, size, provider))
                print(found[-1], file=sys.stderr, flush=True)
            failover_s, gone = await _failover(it)
            keeping.cancel_scope.cancel()
    return Report(
        "scale", _written(found, idle, failover_s, gone), {"sizes": [attrs.asdict(s) for s in found]}
    )


async def _at(it: Fleet, size: int, provider: Session) -> Size:
    before, cpu = it.plugins, sum(map(cpu_seconds, it.pids))
    joined_s = await it.grow(size)
    fresh = size - before
    cpu_s = (sum(map(cpu_seconds, it.pids)) - cpu) / HOSTS / fresh
    told = [await it.told(provider, degraded=number % 2 == 0) for number in range(CHANGES)]
    share, beats = await it.steady()
    memory = int(statistics.mean(it.memory()))
    return Size(size, joined_s / fresh, cpu_s, memory, share, beats, told)


def _written(found: Sequence[Size], idle: float, failover_s: float, gone: float) -> str:
    rows = [
        [
            f"{size.plugins:,}",
            f"{1e3 * size.join_cpu_s:.1f} ms",
            f"{size.memory / 2**20:.0f} MiB",
            f"{(size.memory - idle) / size.plugins / 2**10:.0f} KiB",
            f"{100 * size.cpu:.0f} %",
            f"{size.heartbeats:,.0f}",
            f"{1e3 * statistics.median(size.told_s):,.0f} ms",
            f"{1e3 * max(size.told_s):,.0f} ms",
        ]
        for size in found
    ]
    heads = [
        "CPU of a host to join, each",
        "memory of a host",
        "a plugin",
        "CPU of a host",
        "reports a second",
        "change to the last watcher",
        "at worst",
    ]
    text = table("plugins", heads, rows)
    last = found[-1].plugins
    return (
        f"{text}\n\nOf {last:,} plugins, a third is at a host that is killed. All belong to the others after"
        f" {failover_s:.1f} s. Watchers were told {gone:,.0f} times that a provider gets no calls."
    )
