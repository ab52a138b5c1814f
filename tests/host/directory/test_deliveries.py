"""Updates that the hub's task delivers: without the watcher's task, in order, and one at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cpg_trio import HealthState
from cpg_trio.host.directory.registration import Health
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.watch import Update, Watch
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb

AVAILABLE, UNAVAILABLE, DEGRADED = (
    pb.SERVICE_STATE_AVAILABLE,
    pb.SERVICE_STATE_UNAVAILABLE,
    pb.SERVICE_STATE_DEGRADED,
)


class Watcher:
    """A watcher whose network may be full, and its task."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.delivered: list[Update] = []
        self.taken: list[Update] = []
        self.is_full = False
        """Whether of the next update a part is left."""
        self.has_room = trio.Event()
        self.has_room.set()
        self.error: Exception | None = None
        watch.deliver_by(self)

    @property
    def states(self) -> list[pb.ServiceState]:
        return [update.statuses["t"].state for update in self.delivered]

    # A `Delivery`

    def is_ready(self) -> bool:
        return self.has_room.is_set()

    def send(self, update: Update) -> bool:
        if self.error is not None:
            raise self.error
        self.delivered.append(update)
        if self.is_full:
            self.has_room = trio.Event()
        return not self.is_full

    async def finish(self) -> None:
        await self.has_room.wait()

    # Its task

    async def run(self) -> None:
        async for update in self.watch:
            self.taken.append(update)


@asynccontextmanager
async def watching(registry: Registry, count: int = 1) -> AsyncIterator[tuple[WatchHub, list[Watcher]]]:
    """Have a hub and watchers of a type run, which have been told the status of now."""
    hub = WatchHub(registry)
    with trio.fail_after(5), ExitStack() as stack:
        watchers = [Watcher(stack.enter_context(hub.watch(f"w-{number}"))) for number in range(count)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            for watcher in watchers:
                nursery.start_soon(watcher.run)
            await wait_all_tasks_blocked()
            for watcher in watchers:
                watcher.watch.subscribe("t")
            await wait_all_tasks_blocked()
            yield hub, watchers
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def unread(registry: Registry) -> AsyncIterator[tuple[WatchHub, Watcher]]:
    """Have a hub run, and a watcher that reads only when the test does."""
    hub = WatchHub(registry)
    with hub.watch("w") as watch, trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            await wait_all_tasks_blocked()
            yield hub, Watcher(watch)
            nursery.cancel_scope.cancel()


def add(registry: Registry, runtime_id: str = "a", metadata: dict[str, str] | None = None) -> None:
    registry.register(runtime_id, "t", "1.0.0", "/x/", metadata or {})


@pytest.mark.parametrize("count", [1, 100])
async def test_a_change_is_delivered_to_each_watcher_in_the_task_of_the_hub(count: int) -> None:
    registry = Registry()
    async with watching(registry, count) as (_, watchers):
        add(registry)
        await wait_all_tasks_blocked()
        registry.report_health("a", Health(HealthState.DEGRADED))
        await wait_all_tasks_blocked()
        for watcher in watchers:
            assert (watcher.states, watcher.taken) == ([UNAVAILABLE, AVAILABLE, DEGRADED], [])


async def test_changes_at_one_moment_are_one_update() -> None:
    registry = Registry()
    add(registry)
    async with watching(registry) as (_, (watcher,)):
        registry.report_health("a", Health(HealthState.UNHEALTHY))
        registry.remove_plugin("a")
        registry.cancel_calls("a")
        await wait_all_tasks_blocked()
        _, last = watcher.delivered
        assert (last.statuses["t"].state, last.gone) == (UNAVAILABLE, ["a"])


async def test_a_watcher_whose_network_is_full_has_one_update_in_its_way_and_then_the_last_state() -> None:
    registry = Registry()
    async with watching(registry, 2) as (hub, (slow, other)):
        slow.is_full = True
        add(registry)
        await wait_all_tasks_blocked()
        slow.is_full = False
        for state in (HealthState.DEGRADED, HealthState.UNHEALTHY) * 5:
            registry.report_health("a", Health(state))
            await wait_all_tasks_blocked()
        assert slow.states == [UNAVAILABLE, AVAILABLE]
        assert len(other.states) == 12
        assert len(hub.lags_s()) == 1
        slow.has_room.set()
        await wait_all_tasks_blocked()
        assert [update.statuses["t"].state for update in slow.taken] == [UNAVAILABLE]
        assert not hub.lags_s()
        registry.report_health("a", Health(HealthState.HEALTHY))
        await wait_all_tasks_blocked()
        assert slow.states[-1] == AVAILABLE


async def test_nothing_is_delivered_while_the_task_of_the_watcher_has_an_update() -> None:
    registry = Registry()
    async with unread(registry) as (_, watcher):
        watch = watcher.watch
        watch.subscribe("t")
        await wait_all_tasks_blocked()
        first = await anext(watch)  # and it is being sent
        add(registry)
        await wait_all_tasks_blocked()
        assert not watcher.delivered
        second = await anext(watch)
        assert [u.statuses["t"].state for u in (first, second)] == [UNAVAILABLE, AVAILABLE]


async def test_a_large_update_is_left_to_the_task_which_waits_for_room() -> None:
    registry = Registry()
    async with watching(registry) as (_, (watcher,)):
        add(registry, metadata={"large": "x" * 4000})
        await wait_all_tasks_blocked()
        assert watcher.states == [UNAVAILABLE]
        assert [update.statuses["t"].state for update in watcher.taken] == [AVAILABLE]


async def test_a_delivery_that_fails_ends_that_watcher_alone() -> None:
    registry = Registry()
    hub = WatchHub(registry)
    with ExitStack() as stack, trio.fail_after(5):
        failing, other = (Watcher(stack.enter_context(hub.watch(name))) for name in ("failing", "other"))
        failing.error = ValueError("it cannot be written")
        ended = trio.Event()

        async def fail() -> None:
            with pytest.raises(ValueError, match="cannot be written"):
                await failing.run()
            ended.set()

        async with trio.open_nursery() as nursery:
            for task in (hub.run, other.run, fail):
                nursery.start_soon(task)
            await wait_all_tasks_blocked()
            for watcher in (failing, other):
                watcher.watch.subscribe("t")
            await ended.wait()
            add(registry)
            await wait_all_tasks_blocked()
            assert other.states == [UNAVAILABLE, AVAILABLE]
            nursery.cancel_scope.cancel()


async def test_what_was_not_delivered_when_the_hub_closes_is_read_before_the_end() -> None:
    async with unread(Registry()) as (hub, watcher):
        watcher.watch.subscribe("t")
        hub.close()
        await watcher.run()
        assert [update.statuses["t"].state for update in watcher.taken + watcher.delivered] == [UNAVAILABLE]
