"""Three hosts, three members of etcd, providers in a few processes, and callers in this one."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.http import Pool
from cpg_trio.plugin import Plugin, PluginConfig
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as admin
from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient
from cpg_trio.rpc import ClientConfig, ConnectError, PoolClient
from tests.chaos.trial import tell
from tests.chaos_cluster.etcd_cluster import EtcdCluster, etcd_cluster
from tests.chaos_cluster.gate import Gate, gate
from tests.chaos_cluster.load import Caller, Ledger
from tests.plugin.running import eventually, unused_port
from tests.processes import Running, running

LEASE_S = 3.0
SLACK_S = 1.0  # beside a lease, until hosts that reach the store agree after a fault
START_S = 60.0  # what processes may take to start, of which nothing is promised
RATES = ",".join(
    f"{kind}=off" for kind in ("handshake", "register", "discover", "watch", "health-report", "subscribe")
)
KEY = "the-key-of-all-hosts-of-this-suite-is-long-enough"
_POLL_S = 0.1
_LOG_LINES = 80


@attrs.define
class Process:
    """A process that is ended and started again at one place, and all its runs."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    nursery: trio.Nursery
    plugins: int = 0
    """How many plugins are in it."""
    runs: list[Running] = attrs.field(factory=list)

    @property
    def now(self) -> Running:
        return self.runs[-1]

    async def start(self) -> None:
        """Start it; wait until it listens, and its plugins have told their host that they are well."""
        tell(f"start {self.name}")
        self.runs.append(await self.nursery.start(self._run))
        with trio.fail_after(START_S):
            await self.now.url()
            await eventually(lambda: self.now.output.count("is healthy") >= self.plugins)

    async def _run(self, *, task_status: trio.TaskStatus[Running]) -> None:
        async with running(*self.arguments, environment=dict(self.environment)) as process:
            task_status.started(process)
            await trio.sleep_forever()

    def send(self, number: signal.Signals) -> None:
        tell(f"{number.name} {self.name}")
        self.now.process.send_signal(number)

    async def end(self, number: signal.Signals) -> None:
        tell(f"{number.name} {self.name}")
        await self.now.end(number)


@attrs.define
class HostProcess:
    """A host as a process, with a way of its own to each member of etcd."""

    process: Process
    port: int
    gates: list[Gate]
    socket: Path

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self, *, silent: bool) -> None:
        """Cut it off from the store."""
        tell(f"cut {self.name} off from the store{', silently' if silent else ''}")
        for each in self.gates:
            each.cut(silent=silent)

    def heal(self) -> None:
        tell(f"{self.name} reaches the store")
        for each in self.gates:
            each.heal()


@attrs.define
class Platform:
    """What a test of several hosts works with."""

    folder: Path
    etcd: EtcdCluster
    pool: Pool
    hosts: list[HostProcess]
    workers: list[Process]
    ledger: Ledger

    @property
    def urls(self) -> str:
        """The hosts, as HOST_URL has them."""
        return ",".join(host.url for host in self.hosts)

    async def directory(self, host: HostProcess) -> frozenset[tuple[str, str]] | str:
        """Return which plugins a host gives calls to, and for which services; why it does not tell."""
        client = AdminServiceClient(
            "http://localhost", PoolClient(self.pool, (f"unix:{host.socket}",)), ClientConfig(timeout_s=2.0)
        )
        try:
            answer = await client.list_plugins(admin.ListPluginsRequest())
        except ConnectError as error:
            return f"{host.name}: {error.message}"
        callable_ = {admin.PLUGIN_STATE_HEALTHY, admin.PLUGIN_STATE_DEGRADED}
        return frozenset(
            (plugin.runtime_id, service.service_type)
            for plugin in answer.plugins
            if plugin.state in callable_
            for service in plugin.provides
        )

    async def agree(self, expected: int, *, but: Collection[HostProcess] = (), within_s: float) -> float:
        """Wait until all hosts, `but` some, offer the same `expected` services; return how long."""
        began = trio.current_time()
        asked = [host for host in self.hosts if host not in but]
        said: list[frozenset[tuple[str, str]] | str] = []
        with trio.move_on_after(within_s):
            while True:
                said = [await self.directory(host) for host in asked]
                if len(set(said)) == 1 and not isinstance(said[0], str) and len(said[0]) == expected:
                    took_s = trio.current_time() - began
                    tell(f"{len(asked)} hosts agree on {expected} after {took_s:.2f} s")
                    return took_s
                await trio.sleep(_POLL_S)
        sizes = [each if isinstance(each, str) else len(each) for each in said]
        raise AssertionError(f"after {within_s:.1f} s the hosts offer {sizes}, not {expected} each")


@asynccontextmanager
async def platform(
    folder: Path,
    services: Collection[str],
    *,
    ports: Collection[int] = (),
    members: int = 3,
    replicas: int = 2,
    callers: int = 6,
    host_url: str = "",
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Platform]:
    """Run a host at each of `ports` (three free ones), etcd, and plugins.

    `replicas` processes have a provider of each service, and `callers` call all services. `host_url` is what
    they have for HOST_URL; all hosts by default. The test checks the calls, by the ledger.
    """
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(etcd_cluster(members))
        pool = await stack.enter_async_context(Pool())
        nursery = await stack.enter_async_context(open_plain_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        there = [
            await _host(stack, nursery, folder, port, etcd, environment or {})
            for port in ports or [unused_port() for _ in range(3)]
        ]
        it = Platform(folder, etcd, pool, there, [], Ledger(folder / "journal"))
        it.ledger.journal.touch()
        stack.callback(_tell_logs, it)
        for host in there:
            await host.process.start()
        place = {"HOST_URL": host_url or it.urls, "JOURNAL": str(it.ledger.journal)}
        for number in range(replicas):
            worker = Process(
                f"worker {number}",
                ("tests.chaos_cluster.workers",),
                {"SERVICES": ",".join(services), **place},
                nursery,
                plugins=len(services),
            )
            it.workers.append(worker)
            await worker.start()
        await it.agree(len(services) * replicas, within_s=START_S)
        await _call(nursery, it, services, callers, host_url or it.urls)
        yield it


async def _host(
    stack: AsyncExitStack,
    nursery: trio.Nursery,
    folder: Path,
    port: int,
    etcd: EtcdCluster,
    environment: Mapping[str, str],
) -> HostProcess:
    gates = [await stack.enter_async_context(gate(partial(_target, endpoint))) for endpoint in etcd.endpoints]
    socket = folder / f"host-{port}.sock"
    settings = {
        "PORT": str(port),
        "STATE_URL": f"etcd://{','.join(each.address for each in gates)}/test",
        "CPG_HOST_KEY": KEY,
        "BASE_URLS": "any",
        "LEASE_S": str(LEASE_S),
        "RATE_LIMITS": RATES,
        "ADMIN_SOCKET": str(socket),
        "LOG_CALLS": "off",
        **environment,
    }
    return HostProcess(Process(f"host {port}", ("cpg_trio", "host"), settings, nursery), port, gates, socket)


def _target(endpoint: str) -> list[tuple[str, int]]:
    host, _, port = endpoint.removeprefix("http://").rpartition(":")
    return [(host, int(port))]


async def _call(
    nursery: trio.Nursery, it: Platform, services: Collection[str], callers: int, host_url: str
) -> None:
    """Start callers, plugins themselves; each calls all services."""
    stop, numbers = trio.Event(), count()
    for number in range(callers):
        plugin = Plugin(f"caller-{number}", version="1.0.0")
        mine = [Caller.of(plugin, service_type, numbers) for service_type in services]
        config = PluginConfig(host_url=host_url, hostname="127.0.0.1", direct_calls=number % 2 == 1)
        await nursery.start(partial(plugin.serve, stop, config=config))
        it.ledger.callers += mine
    with trio.fail_after(START_S):
        for caller in it.ledger.callers:
            await caller.dependency.wait_available()


@asynccontextmanager
async def calling(it: Platform) -> AsyncIterator[None]:
    """Have all callers call for a block; then let their last calls end."""
    stop = trio.Event()
    async with open_plain_nursery() as nursery:
        for caller in it.ledger.callers:
            nursery.start_soon(caller.run, stop)
        yield
        stop.set()


def _tell_logs(it: Platform) -> None:
    for process in [*(host.process for host in it.hosts), *it.workers]:
        for number, run in enumerate(process.runs):
            status = run.process.returncode
            how = "running" if status is None else f"ended with status {status}"
            sys.stdout.write(f"\n=== {process.name}, run {number}, {how}\n")
            sys.stdout.writelines(f"{line[:400]}\n" for line in run.output.splitlines()[-_LOG_LINES:])
