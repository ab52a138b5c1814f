"""Registry, leases and watches, driven through random histories in virtual time, against a simple model.

The model is what a reader of the documentation would expect: a plugin is callable while its last sign of life
is younger than a lease and nothing bad is known of it, and gone when that is older than two; a watcher that
has read all its updates knows for each type that it follows whether there is a good provider, and a good one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import attrs
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from cpg_trio import HealthState
from cpg_trio.host.directory.leases import LeaseConfig, Liveness
from cpg_trio.host.directory.registration import Health, ServiceStatus
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.watch import Update, Watch
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.versions import satisfies

LEASE = 15.0
PLUGINS, TYPES, VERSIONS = "abc", "tu", ("1.0.0", "1.10.0", "2.0.0")
STATES = (HealthState.HEALTHY, HealthState.DEGRADED, HealthState.UNHEALTHY)


@attrs.define
class Model:
    """What is expected of the registry."""

    versions: dict[tuple[str, str], str] = attrs.field(factory=dict)  # by plugin and type
    health: dict[str, HealthState] = attrs.field(factory=dict)
    last_sign: dict[str, float] = attrs.field(factory=dict)  # of those that have registered something
    suspected: set[str] = attrs.field(factory=set)

    def pass_time(self) -> None:
        for plugin, at in list(self.last_sign.items()):
            if trio.current_time() - at >= 2 * LEASE:
                self.forget(plugin)
                self.health.pop(plugin, None)

    def forget(self, plugin: str) -> None:
        self.versions = {key: version for key, version in self.versions.items() if key[0] != plugin}
        self.last_sign.pop(plugin, None)
        self.suspected.discard(plugin)

    def callable(self, plugin: str) -> bool:
        alive = trio.current_time() - self.last_sign[plugin] < LEASE and plugin not in self.suspected
        return alive and self.health.get(plugin) != HealthState.UNHEALTHY

    def good(self, service_type: str, min_version: str) -> dict[str, pb.ServiceState]:
        """Return the providers that may be offered, and the state that the type has with each."""
        return {
            plugin: pb.SERVICE_STATE_DEGRADED
            if self.health.get(plugin) == HealthState.DEGRADED
            else pb.SERVICE_STATE_AVAILABLE
            for (plugin, provided), version in self.versions.items()
            if provided == service_type and satisfies(version, min_version) and self.callable(plugin)
        }


@attrs.define
class Watcher:
    """A watch, what it follows, and what it has been told."""

    watch: Watch
    follows: dict[str, str] = attrs.field(factory=dict)
    told: dict[str, ServiceStatus] = attrs.field(factory=dict)

    def hear(self, update: Update) -> None:
        for service_type, status in update.statuses.items():
            assert self.told.get(service_type) != status, "an update is what differs"
            self.told[service_type] = status

    async def read_all(self) -> None:
        """Read what there is to read now."""

        async def read() -> None:
            async for update in self.watch:
                self.hear(update)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


class World:
    """The real thing and its model, and what can happen to both."""

    def __init__(self, eager: Watch, lazy: Watch, registry: Registry, liveness: Liveness) -> None:
        self.registry = registry
        self.liveness = liveness
        self.model = Model()
        self.ids: dict[tuple[str, str], str] = {}
        self.eager = Watcher(eager)  # reads after each step
        self.lazy = Watcher(lazy)  # reads when it is told to

    def register(self, plugin: str, service_type: str, version: str) -> None:
        self.ids[plugin, service_type] = self.registry.register(plugin, service_type, version, "/", {}).id
        self.model.versions[plugin, service_type] = version
        self.model.last_sign.setdefault(plugin, trio.current_time())

    def unregister(self, plugin: str, service_type: str) -> None:
        if self.model.versions.pop((plugin, service_type), None) is None:
            return
        self.registry.unregister(plugin, self.ids[plugin, service_type])
        if not any(who == plugin for who, _ in self.model.versions):
            self.model.forget(plugin)

    def report(self, plugin: str, state: HealthState) -> None:
        self.registry.report_health(plugin, Health(state))
        self.liveness.beat(plugin)
        self.model.health[plugin] = state
        if plugin in self.model.last_sign:
            self.model.last_sign[plugin] = trio.current_time()
            self.model.suspected.discard(plugin)

    def suspect(self, plugin: str) -> None:
        self.liveness.suspect(plugin)
        if plugin in self.model.last_sign:
            self.model.suspected.add(plugin)

    def follow(self, service_type: str, min_version: str) -> None:
        for watcher in (self.eager, self.lazy):
            watcher.watch.subscribe(service_type, min_version)
            watcher.follows[service_type] = min_version
            watcher.told.pop(service_type, None)

    def leave(self, service_type: str) -> None:
        for watcher in (self.eager, self.lazy):
            watcher.watch.unsubscribe(service_type)
            watcher.follows.pop(service_type, None)
            watcher.told.pop(service_type, None)

    def check(self) -> None:
        for plugin in PLUGINS:
            expected = {what for who, what in self.model.versions if who == plugin}
            assert {r.service_type for r in self.registry.registrations(plugin)} == expected
        for service_type in TYPES:
            assert self.registry.available(service_type) == bool(self.model.good(service_type, ""))
        self.check_told(self.eager)

    def check_told(self, watcher: Watcher) -> None:
        assert watcher.told.keys() == watcher.follows.keys()
        for service_type, status in watcher.told.items():
            good = self.model.good(service_type, watcher.follows[service_type])
            if status.provider is None:
                assert (status.state, good) == (pb.SERVICE_STATE_UNAVAILABLE, {})
            else:
                assert status.state == good[status.provider.runtime_id]


plugins, types = st.sampled_from(PLUGINS), st.sampled_from(TYPES)
happenings: Mapping[str, st.SearchStrategy[tuple[object, ...]]] = {
    "register": st.tuples(plugins, types, st.sampled_from(VERSIONS)),
    "unregister": st.tuples(plugins, types),
    "report": st.tuples(plugins, st.sampled_from(STATES)),
    "suspect": st.tuples(plugins),
    "follow": st.tuples(types, st.sampled_from(("", *VERSIONS))),
    "leave": st.tuples(types),
    "wait": st.tuples(st.floats(0.5, 20.0)),
    "read": st.tuples(),
}
steps = st.lists(
    st.one_of([st.tuples(st.just(name), arguments) for name, arguments in happenings.items()]), max_size=40
)


@contextmanager
def watches(hub: WatchHub) -> Iterator[tuple[Watch, Watch]]:
    with ExitStack() as stack:
        yield stack.enter_context(hub.watch("watcher")), stack.enter_context(hub.watch("watcher"))
    assert not hub._given


async def never_answers(_: str) -> bool:
    return False


async def run(history: list[tuple[str, tuple[object, ...]]]) -> None:
    registry = Registry()
    hub = WatchHub(registry)
    liveness = Liveness(registry, LeaseConfig(lease_s=LEASE), never_answers, lambda *_: None)
    with watches(hub) as (eager, lazy):
        async with trio.open_nursery() as nursery:
            await nursery.start(liveness.run)
            world = World(eager, lazy, registry, liveness)
            for name, arguments in history:
                await take(world, name, arguments)
            await world.lazy.read_all()
            world.check_told(world.lazy)
            nursery.cancel_scope.cancel()


async def take(world: World, name: str, arguments: tuple[object, ...]) -> None:
    """Take one step, and check all that must hold after it."""
    if name == "wait":
        (seconds,) = arguments
        assert isinstance(seconds, float)
        await trio.sleep(seconds)
    elif name == "read":
        await world.lazy.read_all()
        world.check_told(world.lazy)
    else:
        getattr(world, name)(*arguments)
    await wait_all_tasks_blocked()
    world.model.pass_time()
    await world.eager.read_all()
    world.check()


@given(steps)
@settings(max_examples=200)
def test_after_any_history_registry_leases_and_watchers_agree_with_the_model(
    history: list[tuple[str, tuple[object, ...]]],
) -> None:
    trio.run(run, history, clock=MockClock(autojump_threshold=0))
