"""The watch hub: each watcher hears of what changes for it, and of nothing else."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.host.registry import Health, Registry, ServiceStatus
from cpg_trio.host.watch import WatchHub


def add(registry: Registry, runtime_id: str, service_type: str = "t") -> str:
    return registry.register(runtime_id, service_type, "1.0.0", "/x/", {}).id


async def test_a_watcher_is_told_the_status_of_now_then_each_change() -> None:
    registry = Registry()
    hub = WatchHub(registry)
    with hub.watch("t") as statuses:
        assert (await anext(statuses)).state == pb.SERVICE_STATE_UNAVAILABLE
        registration_id = add(registry, "a")
        assert (await anext(statuses)).state == pb.SERVICE_STATE_AVAILABLE
        registry.report_health("a", Health(pb.HEALTH_STATE_DEGRADED))
        assert (await anext(statuses)).state == pb.SERVICE_STATE_DEGRADED
        registry.report_health("a", Health(pb.HEALTH_STATE_UNHEALTHY))
        assert (await anext(statuses)).state == pb.SERVICE_STATE_UNAVAILABLE
        registry.report_health("a", Health(pb.HEALTH_STATE_HEALTHY))
        assert (await anext(statuses)).state == pb.SERVICE_STATE_AVAILABLE
        registry.unregister("a", registration_id)
        assert (await anext(statuses)).state == pb.SERVICE_STATE_UNAVAILABLE


async def test_a_change_that_changes_nothing_for_a_watcher_does_not_wake_it() -> None:
    registry = Registry()
    hub = WatchHub(registry)
    add(registry, "a")
    seen: list[ServiceStatus] = []

    async def read() -> None:
        with hub.watch("t") as statuses:
            async for status in statuses:
                seen.append(status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        add(registry, "b")
        add(registry, "c", "other")
        registry.report_health("b", Health(pb.HEALTH_STATE_UNHEALTHY))
        registry.report_health("a", Health(pb.HEALTH_STATE_HEALTHY, "fine"))
        await wait_all_tasks_blocked()
        assert len(seen) == 1
        nursery.cancel_scope.cancel()


async def test_a_watcher_that_does_not_read_gets_the_last_state_when_it_does() -> None:
    registry = Registry()
    hub = WatchHub(registry)
    with hub.watch("t") as statuses:
        for _ in range(1000):
            registry.unregister("a", add(registry, "a"))
        add(registry, "last")
        status = await anext(statuses)
        assert status.provider
        assert status.provider.runtime_id == "last"


async def test_a_watcher_that_leaves_is_forgotten() -> None:
    hub = WatchHub(Registry())
    with hub.watch("t"):
        with hub.watch("t"):
            assert hub.watchers("t") == 2
        assert hub.watchers("t") == 1
    assert hub.watchers("t") == 0
    assert not hub._cells


async def test_closing_ends_all_watches_and_those_that_come_later() -> None:
    hub = WatchHub(Registry())
    with hub.watch("t") as early:
        hub.close()
        with hub.watch("t") as late:
            assert len([s async for s in early]) == 1
            assert len([s async for s in late]) == 1
