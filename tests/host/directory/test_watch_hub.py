"""The watch hub: each watcher hears of what changes for it, and of nothing else."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from itertools import pairwise

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cpg_trio import HealthState, wire
from cpg_trio.host.access.limits import Limits
from cpg_trio.host.directory.registration import Health, Registration, ServiceStatus
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.watch import Watch
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import ServiceRegistryClient
from cpg_trio.rpc import ClientConfig
from cpg_trio.versions import ANY_VERSION, Requirement
from tests.host.calls import running

AVAILABLE, UNAVAILABLE, DEGRADED = (
    pb.SERVICE_STATE_AVAILABLE,
    pb.SERVICE_STATE_UNAVAILABLE,
    pb.SERVICE_STATE_DEGRADED,
)


def add(registry: Registry, runtime_id: str, service_type: str = "t", version: str = "1.0.0") -> str:
    return registry.register(runtime_id, service_type, version, "/x/", {}).id


async def told(watch: Watch) -> Mapping[str, pb.ServiceState]:
    return {name: status.state for name, status in (await anext(watch)).statuses.items()}


def provider_of(status: ServiceStatus) -> str:
    assert status.provider
    return status.provider.runtime_id


async def test_a_watcher_is_told_the_status_of_now_then_each_change() -> None:
    registry = Registry()
    with WatchHub(registry).watch("watcher") as watch:
        watch.subscribe("t")
        assert await told(watch) == {"t": UNAVAILABLE}
        registration_id = add(registry, "a")
        assert await told(watch) == {"t": AVAILABLE}
        registry.report_health("a", Health(HealthState.DEGRADED))
        assert await told(watch) == {"t": DEGRADED}
        registry.report_health("a", Health(HealthState.UNHEALTHY))
        assert await told(watch) == {"t": UNAVAILABLE}
        registry.report_health("a", Health(HealthState.HEALTHY))
        assert await told(watch) == {"t": AVAILABLE}
        registry.unregister("a", registration_id)
        assert await told(watch) == {"t": UNAVAILABLE}


async def test_one_watch_follows_many_types_and_is_told_of_all_that_changed_at_once() -> None:
    registry = Registry()
    add(registry, "a", "one")
    with WatchHub(registry).watch("watcher") as watch:
        for service_type in ("one", "two", "three"):
            watch.subscribe(service_type)
        assert await told(watch) == {"one": AVAILABLE, "two": UNAVAILABLE, "three": UNAVAILABLE}
        add(registry, "a", "two")
        registry.report_health("a", Health(HealthState.DEGRADED))
        assert await told(watch) == {"one": DEGRADED, "two": DEGRADED}


async def test_a_type_is_followed_and_left_on_the_fly() -> None:
    registry = Registry()
    hub = WatchHub(registry)
    with hub.watch("watcher") as watch:
        watch.subscribe("one")
        assert await told(watch) == {"one": UNAVAILABLE}
        watch.subscribe("two")
        assert await told(watch) == {"two": UNAVAILABLE}
        watch.unsubscribe("one")
        watch.unsubscribe("one")
        add(registry, "a", "one")
        add(registry, "a", "two")
        assert await told(watch) == {"two": AVAILABLE}
        assert hub.watchers("one") == 0


async def test_to_subscribe_again_is_to_be_told_again() -> None:
    with WatchHub(Registry()).watch("watcher") as watch:
        watch.subscribe("t")
        assert await told(watch) == {"t": UNAVAILABLE}
        watch.subscribe("t")
        assert await told(watch) == {"t": UNAVAILABLE}


async def test_a_provider_that_is_too_old_does_not_count() -> None:
    registry = Registry()
    add(registry, "old", version="1.10.0")
    with WatchHub(registry).watch("watcher") as watch:
        watch.subscribe("t", "2.0.0")
        assert await told(watch) == {"t": UNAVAILABLE}
        add(registry, "new", version="2.0.0")
        assert provider_of((await anext(watch)).statuses["t"]) == "new"
        registry.report_health("new", Health(HealthState.DEGRADED))
        assert await told(watch) == {"t": DEGRADED}


@pytest.mark.parametrize(("service_type", "min_version"), [("", ""), ("no such/type", ""), ("t", "two")])
def test_a_subscription_that_makes_no_sense_changes_nothing(service_type: str, min_version: str) -> None:
    hub = WatchHub(Registry())
    with hub.watch("watcher") as watch:
        with pytest.raises(wire.InvalidError):
            watch.subscribe(service_type, min_version)
        assert len(watch) == hub.watchers(service_type) == 0


async def test_news_carry_the_revision_of_the_registry_which_only_grows() -> None:
    registry = Registry()
    with WatchHub(registry).watch("watcher") as watch:
        watch.subscribe("t")
        revisions = [(await anext(watch)).revision]
        for name in "abc":
            registry.unregister(name, add(registry, name))
            add(registry, name, "other")
            watch.subscribe("t")
            revisions.append((await anext(watch)).revision)
        assert revisions == sorted(set(revisions))
        assert revisions[-1] == registry.revision


async def test_a_change_that_changes_nothing_for_a_watcher_does_not_wake_it() -> None:
    registry = Registry()
    hub = WatchHub(registry)
    add(registry, "a")
    seen: list[Mapping[str, ServiceStatus]] = []

    async def read() -> None:
        with hub.watch("watcher") as watch:
            watch.subscribe("t")
            async for update in watch:
                seen.append(update.statuses)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        add(registry, "b")
        add(registry, "c", "other")
        registry.report_health("b", Health(HealthState.UNHEALTHY))
        registry.report_health("a", Health(HealthState.HEALTHY, "fine"))
        await wait_all_tasks_blocked()
        assert len(seen) == 1
        registry.report_health("a", Health(HealthState.DEGRADED))
        registry.report_health("a", Health(HealthState.HEALTHY))
        await wait_all_tasks_blocked()
        assert len(seen) == 1  # there and back before it could look
        nursery.cancel_scope.cancel()


async def test_a_watcher_that_does_not_read_gets_the_last_state_when_it_does() -> None:
    registry = Registry()
    with WatchHub(registry).watch("watcher") as watch:
        watch.subscribe("t")
        for _ in range(1000):
            registry.unregister("a", add(registry, "a"))
        add(registry, "last")
        assert provider_of((await anext(watch)).statuses["t"]) == "last"


async def test_a_watcher_that_leaves_is_forgotten() -> None:
    hub = WatchHub(Registry())
    with hub.watch("watcher") as one:
        one.subscribe("t")
        with hub.watch("watcher") as other:
            other.subscribe("t")
            assert (hub.watchers("t"), len(hub)) == (2, 2)
        assert (hub.watchers("t"), len(hub)) == (1, 1)
    assert (hub.watchers("t"), len(hub)) == (0, 0)
    assert not hub._given


async def test_closing_ends_all_watches_and_those_that_come_later() -> None:
    hub = WatchHub(Registry())
    with hub.watch("watcher") as early:
        early.subscribe("t")
        hub.close()
        with hub.watch("watcher") as late:
            late.subscribe("t")
            assert len([s async for s in early]) == 1
            assert len([s async for s in late]) == 1


async def test_a_watcher_hears_of_the_end_of_providers_that_it_was_told_of_and_of_no_others(
    autojump_clock: object,
) -> None:
    registry = Registry()
    hub = WatchHub(registry)
    for plugin, service_type in (("a-1", "a"), ("b-1", "b")):
        registry.register(plugin, service_type, "1.0.0", "/x/", {})
    with hub.watch("w-1") as watch:
        watch.subscribe("a")
        assert (await anext(watch)).gone == []
        registry.cancel_calls("b-1")
        registry.remove_plugin("a-1")
        registry.cancel_calls("a-1")
        update = await anext(watch)
        assert update.gone == ["a-1"]
        assert update.statuses["a"].provider is None
        registry.cancel_calls("a-1")
        with trio.move_on_after(0.01) as nothing_more:
            await anext(watch)
        assert nothing_more.cancelled_caught


async def gone_after(registry: Registry, watch: Watch, providers: list[str]) -> list[str]:
    """Return the providers of whose end a watcher is told, of some that are gone."""
    for provider in providers:
        registry.cancel_calls(provider)
    told_of: list[str] = []
    with trio.move_on_after(0.01):
        async for update in watch:
            told_of += update.gone
    return told_of


async def test_a_watcher_is_told_of_the_end_of_the_last_20_providers_that_it_was_told_of(
    autojump_clock: object,
) -> None:
    registry = Registry()
    hub = WatchHub(registry)
    with hub.watch("w-1") as watch:
        watch.subscribe("t")
        providers = [f"p-{number}" for number in range(25)]
        for provider in providers:
            add(registry, provider)
            await anext(watch)
            registry.remove_plugin(provider)
        assert len(hub.told_of) == 20
        assert await gone_after(registry, watch, providers) == providers[5:]
    assert not hub.told_of


async def test_a_provider_that_a_watcher_is_told_of_again_counts_from_then_on(autojump_clock: object) -> None:
    registry = Registry()
    hub = WatchHub(registry)
    with hub.watch("w-1") as watch:
        watch.subscribe("t")
        add(registry, "again", "u")
        watch.subscribe("u")
        await anext(watch)
        for number in range(20):
            if number == 19:
                watch.subscribe("u")  # which is told again
                await anext(watch)
            add(registry, f"p-{number}")
            await anext(watch)
            registry.remove_plugin(f"p-{number}")
        assert await gone_after(registry, watch, ["p-0", "again"]) == ["again"]
        assert hub.told_of
    assert not hub.told_of


async def test_a_type_that_is_left_before_it_was_told_of_is_not_told_of() -> None:
    registry = Registry()
    with WatchHub(registry).watch("w-1") as watch:
        for service_type in ("t", "u"):
            watch.subscribe(service_type)
        watch.unsubscribe("t")
        assert await told(watch) == {"u": UNAVAILABLE}


async def test_a_type_that_is_left_before_its_change_was_looked_at_is_not_told_of() -> None:
    registry = Registry()
    hub = WatchHub(registry)
    add(registry, "a")
    with ExitStack() as stack:
        first, *_ = following(hub, stack, 100)
        first.subscribe("u")
        assert await told(first) == {"t": AVAILABLE, "u": UNAVAILABLE}
        async with working(hub):
            registry.report_health("a", Health(HealthState.UNHEALTHY))
            first.unsubscribe("t")
            await wait_all_tasks_blocked()
            add(registry, "b", "u")
            assert await told(first) == {"u": AVAILABLE}


async def test_a_watcher_of_many_types_is_told_of_the_end_of_one_provider_of_each(
    autojump_clock: object,
) -> None:
    registry = Registry()
    hub = WatchHub(registry)
    with hub.watch("w-1") as watch:
        providers = [f"p-{number}" for number in range(25)]
        for provider in providers:
            add(registry, provider, f"t-{provider}")
            watch.subscribe(f"t-{provider}")
        heard = 0
        while heard < len(providers):
            heard += len((await anext(watch)).statuses)
        assert set(await gone_after(registry, watch, providers)) == set(providers)


async def test_a_watcher_that_does_not_read_holds_nothing_of_registrations_that_are_gone() -> None:
    registry = Registry()
    with WatchHub(registry).watch("watcher") as watch:
        watch.subscribe("t")
        add(registry, "a")
        await told(watch)
        for _ in range(3):
            registry.register("a", "t", "1.0.0", "/x/", {"k": "v" * 4000})
        registry.remove_plugin("a")
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, Registration)]


def with_metadata(registry: Registry, service_type: str, size: int) -> None:
    parts = {f"k{number}": "v" * 4000 for number in range(size // 4000)}
    registry.register(f"{service_type}-1", service_type, "1.0.0", "/x/", parts)


async def test_news_of_many_types_comes_in_pieces_and_is_complete() -> None:
    registry = Registry()
    with WatchHub(registry).watch("watcher") as watch:
        names = [f"t-{number}" for number in range(100)]
        for name in names:
            add(registry, "a", name)
            watch.subscribe(name)
        heard: list[str] = []
        while len(heard) < len(names):
            update = await told(watch)
            assert len(update) <= 10
            heard += update
        assert sorted(heard) == sorted(names)
        with trio.move_on_after(0) as nothing_more:
            await anext(watch)
        assert nothing_more.cancelled_caught


async def test_a_type_that_changes_all_the_time_keeps_no_other_from_being_told() -> None:
    registry = Registry()
    with WatchHub(registry).watch("watcher") as watch:
        for name in ("busy", "large", "other"):
            with_metadata(registry, name, 12_000)
            watch.subscribe(name)
        heard = set()
        for number in range(6):
            heard |= set(await told(watch))
            add(registry, f"busy-{number}", "busy")
            registry.remove_plugin(f"busy-{number - 1}" if number else "busy-1")
        assert heard == {"busy", "large", "other"}


async def test_watchers_that_do_not_read_large_news_hold_few_of_them_and_keep_no_other_address_waiting() -> (
    None
):
    registry = Registry(limits=Limits(max_metadata_bytes_per_plugin=2**20))
    share_of = {"here": "a", "there": "b"}
    hub = WatchHub(registry, share_of=share_of.__getitem__, limits=Limits(max_watches_per_plugin=100))
    with_metadata(registry, "t", 200_000)
    with ExitStack() as stack:
        silent = [stack.enter_context(hub.watch("here")) for _ in range(50)]
        served: list[Watch] = []

        async def take(watch: Watch) -> None:
            watch.subscribe("t")
            await anext(watch)
            served.append(watch)

        async with trio.open_nursery() as nursery:
            for watch in silent:
                nursery.start_soon(take, watch)
            await wait_all_tasks_blocked()
            assert 0 < len(served) <= 2 * 2**20 / 200_000
            with hub.watch("there") as other, trio.fail_after(1):
                other.subscribe("t")
                assert await told(other) == {"t": AVAILABLE}
            for _ in range(100):  # who was told leaves, and the next ones are
                if len(served) == len(silent):
                    break
                for watch in served:
                    watch.end()
                await wait_all_tasks_blocked()
            assert len(served) == len(silent)
        stack.close()
        assert not hub.budget._shares.total
        assert not hub.budget._waiting


async def test_a_watcher_that_stops_waiting_for_room_is_told_when_it_reads_again() -> None:
    registry = Registry(limits=Limits(max_metadata_bytes_per_plugin=2**20))
    hub = WatchHub(registry)
    with_metadata(registry, "t", 400_000)
    with ExitStack() as stack:
        holding = [stack.enter_context(hub.watch(f"holding-{number}")) for number in range(4)]
        for watch in holding:
            watch.subscribe("t")
            await anext(watch)
        waiting = stack.enter_context(hub.watch("waiting"))
        waiting.subscribe("t")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(anext, waiting)
            await wait_all_tasks_blocked()
            assert hub.budget._waiting
            nursery.cancel_scope.cancel()
        for watch in holding:
            watch.end()
        with trio.fail_after(1):
            assert await told(waiting) == {"t": AVAILABLE}


# Many providers and many watchers


class Counting(Registry):
    """Counts how often a watcher asks for the status of a service type."""

    asked = 0

    def status(
        self,
        service_type: str,
        current: Registration | None = None,
        requirement: Requirement = ANY_VERSION,
    ) -> ServiceStatus:
        self.asked += 1
        return super().status(service_type, current, requirement)


def following(hub: WatchHub, stack: ExitStack, count: int, min_version: str = "") -> list[Watch]:
    watches = [stack.enter_context(hub.watch(f"w-{number}")) for number in range(count)]
    for watch in watches:
        watch.subscribe("t", min_version)
    return watches


@pytest.mark.parametrize("min_version", ["", "1.0.0"])
@pytest.mark.parametrize("reporting", ["p-0", "p-199"])
def test_what_a_report_costs_grows_with_its_watchers_but_not_with_the_providers(
    reporting: str, min_version: str
) -> None:
    registry = Counting()
    for number in range(200):
        add(registry, f"p-{number}")
    with ExitStack() as stack:
        following(WatchHub(registry), stack, 100, min_version)
        for state in (HealthState.DEGRADED, HealthState.UNHEALTHY, HealthState.HEALTHY):
            registry.asked = 0
            registry.report_health(reporting, Health(state))
            assert registry.asked <= 100


@asynccontextmanager
async def working(hub: WatchHub) -> AsyncIterator[None]:
    """Have a hub's task run."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        await wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def test_a_change_for_many_watchers_is_worked_out_in_parts_with_others_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cpg_trio.host.directory.watch_hub._SLICE_S", 0.0)
    registry = Counting()
    hub = WatchHub(registry)
    add(registry, "a")
    with ExitStack() as stack:
        watches = following(hub, stack, 100)
        async with working(hub):
            registry.asked = 0
            registry.report_health("a", Health(HealthState.DEGRADED))
            steps = [registry.asked]
            while hub._to_look:
                await trio.lowlevel.checkpoint()
                steps.append(registry.asked)
            assert max(after - before for before, after in pairwise([0, *steps])) <= 4
            for watch in watches:
                assert await told(watch) == {"t": DEGRADED}


async def test_who_reads_before_its_turn_is_told_what_holds_at_that_moment() -> None:
    registry = Registry()
    hub = WatchHub(registry)
    add(registry, "a")
    with ExitStack() as stack:
        first, *_, last = following(hub, stack, 100)
        for watch in (first, last):
            assert await told(watch) == {"t": AVAILABLE}
        async with working(hub):
            registry.report_health("a", Health(HealthState.UNHEALTHY))
            registry.remove_plugin("a")
            registry.cancel_calls("a")
            update = await anext(last)
            assert (update.statuses["t"].state, update.gone) == (UNAVAILABLE, ["a"])
            await wait_all_tasks_blocked()
            assert await told(first) == {"t": UNAVAILABLE}
            last.unsubscribe("t")
            add(registry, "b")
            await wait_all_tasks_blocked()
            assert not hub._to_look


async def test_what_is_read_has_a_change_that_has_not_been_looked_at() -> None:
    registry = Registry()
    hub = WatchHub(registry)
    add(registry, "a")
    with ExitStack() as stack:
        *_, last = following(hub, stack, 100)
        assert await told(last) == {"t": AVAILABLE}
        async with working(hub):
            last.subscribe("u")
            registry.report_health("a", Health(HealthState.UNHEALTHY))
            assert await told(last) == {"u": UNAVAILABLE, "t": UNAVAILABLE}


async def test_a_change_that_is_undone_before_a_watcher_has_its_turn_does_not_wake_it() -> None:
    registry = Registry()
    hub = WatchHub(registry)
    add(registry, "a")
    with ExitStack() as stack:
        watches = following(hub, stack, 100)
        for watch in watches:
            await told(watch)
        async with working(hub):
            registry.report_health("a", Health(HealthState.UNHEALTHY))
            registry.report_health("a", Health(HealthState.HEALTHY))
            await wait_all_tasks_blocked()
            for watch in watches:
                with trio.move_on_after(0) as nothing:
                    await anext(watch)
                assert nothing.cancelled_caught


async def test_a_stream_goes_on_when_all_that_is_new_is_that_a_provider_of_before_is_gone() -> None:
    async with running() as host:
        registry, headers = host.host.registry, await host.plugin("watcher")
        client = ServiceRegistryClient("http://host", host.http, ClientConfig(headers=headers))
        add(registry, "a")
        add(registry, "b")
        async with client.watch_service(pb.WatchServiceRequest(service_type="t")) as stream:
            events = aiter(stream)
            assert (await anext(events)).endpoint.provider_id == "a"
            registry.report_health("a", Health(HealthState.UNHEALTHY))
            assert (await anext(events)).endpoint.provider_id == "b"
            registry.remove_plugin("a")
            registry.cancel_calls("a")
            await wait_all_tasks_blocked()
            registry.report_health("b", Health(HealthState.DEGRADED))
            assert (await anext(events)).state == DEGRADED
