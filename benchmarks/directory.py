"""What the directory of a host costs as it grows: in process, and when a thousand plugins join at once.

In process, a host's directory with few plugins and with many, which all provide one service, each on a place
of its own: what a change costs together with the discovery after it, and one change for a thousand watchers.

Then a host as a process of its own. A thousand replicas of one service come at once: each shakes hands,
registers, reports its health, and follows the service on a websocket. Meanwhile another plugin discovers the
service again and again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import attrs
import trio
import trio.lowlevel

from cpg_trio import HealthState, wire
from cpg_trio.host import Health, Host, HostConfig, Limits, Registry
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.http import Pool
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._session import Introduction, Session, handshake
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb

from .bench import Bench, Report
from .hosts import HostProgram
from .processes import memory_bytes
from .report import table
from .watchers import Watcher, Watchers, report as report_health

FEW, MANY = 100, 5000
REPLICAS = 1000
_OPERATIONS = 30
_MANY_AT_ONCE = Limits(max_plugins=4 * MANY, max_registrations=4 * MANY, max_identities=8 * MANY)
_PAUSE_S = 0.05  # between two discoveries
_TYPE = "t"
_UNHEALTHY = Health(HealthState.UNHEALTHY)


async def costs(plugins: int) -> dict[str, float]:
    """Return the median seconds of each operation on a directory of so many plugins."""
    it = Host(HostConfig(limits=_MANY_AT_ONCE))
    registry = it.registry

    def add(number: int) -> str:
        runtime_id = it.identities.issue("replica", address="127.0.0.1")[0].runtime_id
        metadata = {wire.BASE_URL_KEY: f"http://127.0.0.1:{1 + number}"}
        registry.register(runtime_id, _TYPE, "1.0.0", "/", metadata)
        return runtime_id

    async with it.application():
        there = [add(number) for number in range(plugins)]
        some = there[1 : 1 + _OPERATIONS]
        operations: Mapping[str, Callable[[int], object]] = {
            "discovery": lambda _: None,
            "registration": lambda n: add(plugins + n),
            "lapse": lambda n: registry.set_lapsed(some[n], "silent"),
            "return": lambda n: registry.set_lapsed(some[n], ""),
            "health report": lambda n: registry.report_health(some[n], _UNHEALTHY),
            "end of a plugin": lambda n: registry.remove_plugin(some[n]),
        }
        found = {}
        for name, operation in operations.items():
            found[name] = statistics.median(
                _timed(registry, partial(operation, n)) for n in range(_OPERATIONS)
            )
            await trio.lowlevel.checkpoint()
        return found


def _timed(registry: Registry, operation: Callable[[], object]) -> float:
    """Return the seconds that an operation and a discovery after it take."""
    began = time.perf_counter()
    operation()
    registry.discover(_TYPE)
    return time.perf_counter() - began


def change_for_watchers() -> float:
    """Return the seconds until a change is worked out for many watchers, who all had that provider."""
    registry = Registry()
    for number in range(REPLICAS):
        registry.register(f"p-{number}", _TYPE, "1.0.0", "/", {})
    hub = WatchHub(registry)
    with ExitStack() as stack:
        for number in range(REPLICAS):
            stack.enter_context(hub.watch(f"w-{number}")).subscribe(_TYPE)
        return statistics.median(
            _timed(registry, partial(registry.report_health, f"p-{number}", _UNHEALTHY))
            for number in range(20)
        )


@attrs.frozen
class Joined:
    """What it took until all had joined, in seconds; and bytes of the host's memory."""

    all_s: float
    discovery_s: float
    """The slowest discovery meanwhile."""
    change_s: float
    """From the report of a provider that all watch, until the last watcher has been told."""
    memory: int


async def join(bench: Bench) -> Joined:
    """Have replicas join a host all at once, each of which watches the service that they provide."""
    folder, discoveries = bench.subfolder("directory"), list[float]()
    async with HostProgram.python({}).running(folder, [bench.proxy_core]) as (port, pid), Pool() as pool:
        first = await _registered(port, pool)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_discover_again_and_again, first, discoveries)
            watchers = Watchers(nursery)
            all_s = await watchers.time(REPLICAS, partial(_join_all, port, pool, watchers))
            slowest_s = max(discoveries)
            change_s = await watchers.time(REPLICAS, partial(report_health, first, degraded=True))
            memory = memory_bytes(pid)
            nursery.cancel_scope.cancel()
    return Joined(all_s, slowest_s, change_s, memory)


async def _join_all(port: int, pool: Pool, watchers: Watchers) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(REPLICAS):
            nursery.start_soon(_join, port, pool, watchers)


async def _join(port: int, pool: Pool, watchers: Watchers) -> None:
    session = await _registered(port, pool)
    await report_health(session, degraded=False)
    headers = {**session.headers, "Sec-WebSocket-Protocol": wire.WATCH_PROTO}
    watcher = await Watcher.open(port, wire.WATCH_PATH, headers)
    watchers.add(watcher)
    subscription = pb.WatchSubscription(service_type=_TYPE)
    await watcher.say(pb.WatchRequest(subscribe=[subscription]).SerializeToString())


async def _registered(port: int, pool: Pool) -> Session:
    session = await handshake(Hosts([f"http://127.0.0.1:{port}"], pool), Introduction("replica", "1.0.0"))
    await session.registry.register_service(
        pb.RegisterServiceRequest(service_type=_TYPE, version="1.0.0", endpoint_path="/x/")
    )
    return session


async def _discover_again_and_again(session: Session, seconds: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await session.registry.discover_service(pb.DiscoverServiceRequest(service_type=_TYPE))
        seconds.append(time.perf_counter() - began)
        await trio.sleep(_PAUSE_S)


async def measure(bench: Bench) -> Report:
    """Measure in process, on the second core; then a host on the first."""
    few, many = await costs(FEW), await costs(MANY)
    change_s = statistics.median(change_for_watchers() for _ in range(bench.rounds))
    joined = await join(bench)
    rows = [
        [name, f"{1e6 * few[name]:.1f} µs", f"{1e6 * many[name]:.1f} µs", f"{many[name] / few[name]:.2f}"]
        for name in few
    ]
    measured = [
        ["all are registered and have been told of a provider", f"{joined.all_s:.1f} s"],
        ["the slowest discovery meanwhile", f"{1000 * joined.discovery_s:.0f} ms"],
        ["then a change, until the last watcher has been told", f"{1000 * joined.change_s:.0f} ms"],
        ["of which the hub needs to find another provider for each", f"{1000 * change_s:.1f} ms"],
        ["the host's memory", f"{joined.memory / 2**20:.0f} MiB"],
    ]
    tables = [
        table("with a discovery after it", [f"of {FEW} plugins", f"of {MANY:,}", "ratio"], rows),
        table(f"{REPLICAS:,} replicas of one service join at once, and each watches it", [""], measured),
    ]
    figures = {"few_s": few, "many_s": many, "change_s": change_s, "join": attrs.asdict(joined)}
    return Report("directory", "\n\n".join(tables), figures)
