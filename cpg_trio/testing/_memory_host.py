"""A host in memory, for tests of plugins: no sockets, and time may be virtual.

The host and the plugins are the real ones. Only how they reach each other is shorter: by calls within the
process (`Host.local`), so that a test takes milliseconds and needs no port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio

from cpg_trio._cell import Cell
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.call_record import Call
from cpg_trio.host import Host, HostConfig
from cpg_trio.host.access import AuditEvent
from cpg_trio.plugin import HostSession, Plugin, PluginConfig, SessionConfig, connect
from cpg_trio.rpc import Service, ServiceClient
from cpg_trio.rpc.given import check_client_class, check_service_type, described
from cpg_trio.states import HealthState

_C = TypeVar("_C", bound=ServiceClient)


class StartedPlugin:
    """A plugin that runs on a `MemoryHost`."""

    def __init__(self, host: MemoryHost, plugin: Plugin) -> None:
        self.plugin = plugin
        self._host = host
        self._others = set(host.host.identities.known())
        self._stop = trio.Event()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    def move(self, host: MemoryHost) -> None:
        """Look at it from another host."""
        self._host, self._others = host, set()

    @property
    def runtime_id(self) -> str:
        """Its identity of now; empty if it has none."""
        identities = self._host.host.identities
        own = [each for each in identities.known() if each not in self._others]
        return next((i for i in reversed(own) if identities.name_of(i) == self.plugin.self_id), "")

    @property
    def health(self) -> HealthState | None:
        """What it has reported last; None before its first report."""
        return self._host.host.registry.health(runtime_id).state if (runtime_id := self.runtime_id) else None

    @property
    def reason(self) -> str:
        """Why it is not healthy, in its own words."""
        return self._host.host.registry.health(self.runtime_id).reason if self.runtime_id else ""

    @property
    def is_running(self) -> bool:
        """Whether its `serve` has not ended."""
        return not self._ended.is_set()

    async def until(self, health: HealthState, *, within_s: float = 60.0) -> None:
        """Wait until it reports a health. Raises: AssertionError after some seconds, of the clock of trio."""

        def reports() -> bool:
            return self.health == health and self._host.is_registered(self)

        if not await self._host.until(reports, within_s):
            now = "nothing" if self.health is None else self.health.value
            why = f" ({self.reason})" if self.reason else ""
            raise AssertionError(f"{self.plugin.self_id} does not report {health.value}, but {now}{why}")

    async def stop(self) -> None:
        """Have it stop in order, as SIGTERM does; return when it has ended."""
        self._stop.set()
        await self._ended.wait()

    async def kill(self) -> None:
        """End it at once, as a crash does; return when it has ended. The host has not been told."""
        self._scope.cancel()
        await self._ended.wait()

    async def _serve(self, config: PluginConfig, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._scope:
                async with open_plain_nursery() as nursery:
                    await nursery.start(partial(self.plugin.serve, self._stop, config=config))
                    task_status.started()
        finally:
            self._ended.set()


@attrs.define
class MemoryHost:
    """A host that is reached within this process only. See `open_host`."""

    host: Host
    """The host itself, of which all that is public may be used."""
    _nursery: trio.Nursery
    _started: list[StartedPlugin] = attrs.field(factory=list)
    _stopping: trio.Event = attrs.field(factory=trio.Event)

    async def start(
        self,
        plugin: Plugin,
        *,
        config: PluginConfig | None = None,
        until: HealthState | None = HealthState.HEALTHY,
    ) -> StartedPlugin:
        """Start a plugin, and wait until it reports a health; with None do not wait.

        Of a `config`, where it listens and what host it uses have no meaning here.
        Raises: AssertionError if it does not within a minute, of the clock of trio; RefusedError.
        """
        if not isinstance(plugin, Plugin):
            raise TypeError(f"start() takes a Plugin, and not {described(plugin)}")
        if not isinstance(until, HealthState | None):
            raise TypeError(f"until is a HealthState, and not {described(until)}")
        started = StartedPlugin(self, plugin)
        config = attrs.evolve(
            config or PluginConfig(), local=self.host.local.at(plugin.self_id), host_url=None, bind=()
        )
        await self._nursery.start(partial(started._serve, config))  # noqa: SLF001 - of this module
        self._started.append(started)
        if until is not None:
            await started.until(until)
        return started

    def take(self, started: StartedPlugin) -> StartedPlugin:
        """Return a plugin that was started before this host, as this host sees it."""
        started.move(self)
        return started

    async def fake(self, service_type: str, service: Service, *, version: str = "1.0.0") -> StartedPlugin:
        """Have a plugin of its own provide a service: any implementation of its base class will do.

        To take the service away, `stop` or `kill` what this returns.
        """
        check_service_type("fake", service_type)
        plugin = Plugin(f"{service_type}-fake", version=version)
        plugin.provide(service_type, service)
        return await self.start(plugin)

    async def client(self, service_type: str, client_class: type[_C], *, caller: str = "test-caller") -> _C:
        """Return a client of a service that calls as a plugin of some name: its methods see that caller.

        The policy of the host holds for it. It is a dependency's client, with its retries.
        """
        check_service_type("client", service_type)
        check_client_class(client_class)
        connecting = self.connect(caller, requires=[service_type])
        session: HostSession = await self._nursery.start(self._hold, connecting)
        dependency = session.require(service_type)
        return dependency.client(client_class)

    async def _hold(
        self,
        connecting: AbstractAsyncContextManager[HostSession],
        *,
        task_status: trio.TaskStatus[HostSession],
    ) -> None:
        """Have a session until the host stops."""
        async with connecting as session:
            task_status.started(session)
            await self._stopping.wait()

    def connect(
        self, name: str = "client", *, requires: Collection[str] | None = None
    ) -> AbstractAsyncContextManager[HostSession]:
        """Return a session with this host, as `cpg_trio.connect` does: for a script or gateway under test."""
        return connect(None, name, requires=requires, config=SessionConfig(local=self.host.local.at(name)))

    @contextmanager
    def capture_calls(self) -> Iterator[Sequence[Call]]:
        """Yield the records of the calls through the host that end within the block, in that order."""
        calls: list[Call] = []
        with self.host.calls.ended.added(calls.append):
            yield calls

    @contextmanager
    def capture_audit(self) -> Iterator[Sequence[AuditEvent]]:
        """Yield the decisions of the host within the block, in their order."""
        events: list[AuditEvent] = []
        with self.host.audit.subscribed(events.append):
            yield events

    def is_registered(self, started: StartedPlugin) -> bool:
        """Whether a plugin has registered all that it provides."""
        registrations = self.host.registry.registrations(started.runtime_id)
        return {each.service_type for each in registrations} >= set(started.plugin.provides)

    async def until(self, condition: Callable[[], bool], within_s: float = 60.0) -> bool:
        """Wait until something holds that follows from the host's registry; return whether it does."""
        changes = Cell(0)

        def changed(_: object) -> None:
            changes.set(changes.value + 1)

        registry = self.host.registry
        with (
            trio.move_on_after(within_s),
            registry.changes.added(changed),
            registry.health_changes.added(changed),  # of a plugin that has registered nothing, too
        ):
            async for _ in changes.reader():
                if condition():
                    return True
        return condition()

    async def stop(self) -> None:
        """Stop all plugins that were started, the last one first. The clients of `client` end before."""
        self._stopping.set()
        while self._started:
            await self._started.pop().stop()


@asynccontextmanager
async def open_host(config: HostConfig | None = None) -> AsyncIterator[MemoryHost]:
    """Yield a host in memory, without sockets, for plugins under test.

    With `trio.testing.MockClock(autojump_threshold=0)` as the clock, leases, renewals and waits pass in no
    time. At the end of the block its plugins stop, the last one first.

        async with open_host() as host:
            await host.fake("logger", FakeLogger())
            await host.start(plugin)
            greeter = await host.client("greeter", GreeterClient)
            assert (await greeter.greet(GreetRequest(name="Ada"))).text == "Hello, Ada!"
    """
    host = Host(config)
    async with host.application(), open_plain_nursery() as nursery:
        memory = MemoryHost(host, nursery)
        yield memory
        await memory.stop()
