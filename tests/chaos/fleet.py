"""Replicas of a service and consumers of it, at a host in this process. Each call is noted where it arrives.

Only shares and numbers of calls are compared, so that a slow machine measures the same as a fast one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import Host, HostConfig, RateLimits
from cpg_trio.plugin import Dependency, Plugin, PluginConfig
from cpg_trio.rpc import Code, ConnectError, Context
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import hosting, until
from tests.rpc.echo import Echo

SERVICE = "echo"
# All is on one address, and starts at once.
RATES = RateLimits(handshake=None, register=None, watch=None, subscribe=None, health_report=None)
READY_S = 30.0  # what a fleet may take to be there, of which nothing is promised


@attrs.frozen
class Arrival:
    """A call that a replica was given."""

    at: float
    consumer: str
    number: int
    """Of the calls of this consumer: the first is 0. A call that is sent again has the same number."""


class Replica(Echo):
    """Answers with its name, as slowly and with such an error as it is set to."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.delay_s = 0.0
        self.error: Code | None = None
        self.arrivals: list[Arrival] = []

    async def echo(self, request: pb.EchoRequest, _ctx: Context, /) -> pb.EchoResponse:
        consumer, _, number = request.text.partition("/")
        self.arrivals.append(Arrival(trio.current_time(), consumer, int(number or 0)))
        await trio.sleep(self.delay_s)
        if self.error is not None:
            raise ConnectError(self.error, "as the test has it")
        return pb.EchoResponse(text=self.name)

    def since(self, began: float, ended: float = float("inf")) -> int:
        """Return how many calls it was given in a time."""
        return sum(began <= arrival.at < ended for arrival in self.arrivals)


@attrs.define
class Consumer:
    """A plugin that calls the service, and how its calls ended: by their codes, `ok` for an answer."""

    name: str
    dependency: Dependency
    client: EchoServiceClient
    calls: int = 0
    ended: Counter[str] = attrs.field(factory=Counter)

    async def call(self, **options: Any) -> None:
        """Make a call; note how it ends."""
        request = pb.EchoRequest(text=f"{self.name}/{self.calls}")
        self.calls += 1
        try:
            await self.client.echo(request, **options)
        except ConnectError as error:
            self.ended[error.code.value] += 1
        else:
            self.ended["ok"] += 1

    async def load(self, per_s: float, calls: int | None = None, **options: Any) -> None:
        """Begin so many calls a second, whatever becomes of them, until cancelled or for `calls`."""
        async with trio.open_nursery() as nursery:
            last = None if calls is None else self.calls + calls
            due = trio.current_time()
            while last is None or self.calls < last:
                nursery.start_soon(_call, self, options)
                due += 1 / per_s
                await trio.sleep_until(due)


async def _call(consumer: Consumer, options: dict[str, Any]) -> None:
    await consumer.call(**options)


@attrs.define
class Fleet:
    """A host, replicas, and consumers."""

    host: Host
    url: str
    _nursery: trio.Nursery
    _stop: trio.Event = attrs.field(factory=trio.Event)
    replicas: dict[str, Replica] = attrs.field(factory=dict)
    replicas_stop: dict[str, trio.Event] = attrs.field(factory=dict)
    consumers: list[Consumer] = attrs.field(factory=list)

    async def add_replica(self, name: str) -> Replica:
        """Start a replica; return it when the host offers it."""
        replica = self.replicas[name] = Replica(name)
        plugin = Plugin("replica", version="1.0.0")
        plugin.provide(SERVICE, replica)
        stop = self.replicas_stop[name] = trio.Event()
        await self._run(plugin, stop)
        await until(self.host, lambda: self._offered() == len(self.replicas))
        return replica

    async def add_consumer(self, *, direct: bool, **requirement: Any) -> Consumer:
        """Start a consumer; return it when it can call the service."""
        name = f"consumer-{len(self.consumers)}"
        plugin = Plugin(name, version="1.0.0")
        dependency = plugin.require(SERVICE, **requirement)
        consumer = Consumer(name, dependency, dependency.client(EchoServiceClient))
        await self._run(plugin, self._stop, direct_calls=direct)
        with trio.fail_after(READY_S):
            await dependency.wait_available()
        self.consumers.append(consumer)
        return consumer

    async def _run(self, plugin: Plugin, stop: trio.Event, **config: Any) -> None:
        configured = PluginConfig(host_url=self.url, hostname="127.0.0.1", **config)
        await self._nursery.start(partial(plugin.serve, stop, config=configured))

    def stop(self) -> None:
        """Have all plugins end."""
        for stop in (self._stop, *self.replicas_stop.values()):
            stop.set()

    def _offered(self) -> int:
        registry = self.host.registry
        return sum(registry.health(p.runtime_id).callable for p in registry.providers(SERVICE))

    def share(self, name: str, began: float, ended: float = float("inf")) -> float:
        """Return which share of all calls that arrived in a time were a replica's."""
        arrived = {name: replica.since(began, ended) for name, replica in self.replicas.items()}
        return arrived[name] / sum(arrived.values())

    @property
    def ended(self) -> Counter[str]:
        """How the calls of all consumers ended."""
        return sum((consumer.ended for consumer in self.consumers), Counter())

    @property
    def calls(self) -> int:
        """How many calls the consumers have made."""
        return sum(consumer.calls for consumer in self.consumers)


@asynccontextmanager
async def fleet(
    replicas: int, consumers: int, *, direct: bool, failing: Code | None = None, **requirement: Any
) -> AsyncIterator[Fleet]:
    """Run a fleet for a block. `requirement` is what each consumer says of its dependency.

    Calls of the first replica fail with `failing`, from the first one on.
    """
    config = HostConfig(rates=RATES, log_calls=0.0)
    async with hosting(config) as (host, url), open_plain_nursery() as nursery:
        running = Fleet(host, url, nursery)
        for number in range(replicas):
            await running.add_replica(f"replica-{number}")
        running.replicas["replica-0"].error = failing
        for _ in range(consumers):
            await running.add_consumer(direct=direct, **requirement)
        if direct:
            await _all_direct(running)
        yield running
        running.stop()


async def _all_direct(running: Fleet) -> None:
    """Call until no call goes through the host any more."""
    with trio.fail_after(READY_S):
        while True:
            before = running.host.statistics().router.calls
            async with trio.open_nursery() as nursery:
                for consumer in running.consumers:
                    nursery.start_soon(consumer.call)
            if running.host.statistics().router.calls == before:
                break
            await trio.sleep(0.1)
