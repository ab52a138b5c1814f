"""The plugins that a host starts: their order, what becomes of runs that end, and how they are stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import BaseUrls, Host, HostConfig, Keys
from cpg_trio.host.supervision import (
    Ended,
    LaunchError,
    ManageError,
    Phase,
)
from cpg_trio.store import MemoryStore, SqliteStore
from tests.host.cluster.hosts import Reached
from tests.host.supervision.launching import (
    LEASES,
    UNLIMITED,
    Launches,
    hosting,
    phases,
    provider,
    spec,
    until,
)


async def test_plugins_start_in_the_order_of_what_they_require(virtual_time: MockClock) -> None:
    logger, storage, api = provider("logger"), provider("storage", requires=("logger",)), provider("api")
    specs = (
        spec("api", api, after=("storage",)),
        spec("storage", storage, provides=("storage",), requires=("logger",)),
        spec("logger", logger, provides=("logger",)),
    )
    async with hosting() as host:
        with phases(host) as seen:
            await host.plugins.add(*specs)
        ready = [name for name, phase in seen if phase is Phase.READY]
        started = [name for name, phase in seen if phase in (Phase.STARTING, Phase.READY)]
        assert ready == ["logger", "storage", "api"]
        assert started == ["logger", "logger", "storage", "storage", "api", "api"]
        assert [host.registry.provides(each) for each in ("logger", "storage", "api")] == [True] * 3


async def test_plugins_stop_before_those_that_they_require(virtual_time: MockClock) -> None:
    logger, storage = provider("logger"), provider("storage", requires=("logger",))
    async with hosting() as host:
        await host.plugins.add(
            spec("storage", storage, provides=("storage",), requires=("logger",)),
            spec("logger", logger, provides=("logger",)),
        )
        with phases(host) as seen:
            await host.plugins.stop()
    assert [name for name, phase in seen if phase is Phase.STOPPED] == ["storage", "logger"]
    assert seen.index(("storage", Phase.STOPPED)) < seen.index(("logger", Phase.STOPPING))
    assert not logger.alive
    assert not storage.alive


async def test_a_host_that_stops_serves_until_its_plugins_have_stopped(
    virtual_time: MockClock,
) -> None:
    logger = provider("logger")
    async with hosting() as host:
        await host.plugins.add(spec("logger", logger))
        replica = host.plugins.replicas("logger")[0]
        runtime_id = replica.runtime_id
    assert not logger.alive
    assert replica.phase is Phase.STOPPED
    assert host.identities.entry(runtime_id) is None
    assert await logger.runs[0].wait() == Ended(failed=False, how="exit status 0")  # when it was asked to


async def test_a_run_that_dies_is_started_again_with_another_identity(virtual_time: MockClock) -> None:
    logger = provider("logger")
    async with hosting() as host:
        await host.plugins.add(spec("logger", logger))
        (replica,) = host.plugins.replicas("logger")
        before = replica.runtime_id
        logger.runs[0].dies()
        await until(host, lambda: replica.phase is Phase.BACKING_OFF)
        assert replica.why == "killed by SIGKILL"
        assert host.identities.entry(before) is None
        assert not host.registry.provides("logger")
        await until(host, lambda: replica.phase is Phase.READY)
        assert replica.runs == 2
        assert replica.runtime_id not in ("", before)
        assert len(logger.alive) == 1


async def test_a_run_that_hangs_is_ended_by_force_and_started_again(virtual_time: MockClock) -> None:
    logger = provider("logger")
    async with hosting() as host:
        await host.plugins.add(spec("logger", logger))
        (replica,) = host.plugins.replicas("logger")
        logger.runs[0].hangs()
        since = trio.current_time()
        await until(host, lambda: replica.phase is Phase.BACKING_OFF)
        assert replica.why.startswith("it hangs: no sign of life")
        assert trio.current_time() - since < 40.0
        assert logger.runs[0].left.is_set()
        await until(host, lambda: replica.phase is Phase.READY)


async def test_a_plugin_that_has_another_name_is_told_what_to_write(
    virtual_time: MockClock,
) -> None:
    launcher = provider("a", self_id="a-plugin")
    async with hosting() as host:
        with pytest.raises(LaunchError, match=r'it calls itself "a-plugin", .* write id = "a-plugin"'):
            await host.plugins.add(spec("a", launcher))
        await host.plugins.add(spec("a", launcher, self_id="a-plugin"))


async def test_a_host_that_is_cancelled_ends_all_plugins_by_force(virtual_time: MockClock) -> None:
    launcher = provider("a")
    launcher.obeys = False
    with trio.CancelScope() as scope:
        async with hosting() as host:
            await host.plugins.add(spec("a", launcher, replicas=2))
            scope.cancel()
            await trio.sleep_forever()
    assert not launcher.alive


async def test_plugins_are_changed_only_while_the_host_serves(virtual_time: MockClock) -> None:
    host = Host()
    with pytest.raises(ManageError, match="does not serve"):
        await host.plugins.add(spec("a", Launches()))
    async with hosting() as host:
        pass
    with pytest.raises(ManageError, match="does not serve"):
        await host.plugins.add(spec("a", Launches()))


async def test_a_plugin_that_waits_for_its_host_is_adopted_and_knows_it_by_the_token_of_the_run(
    virtual_time: MockClock,
) -> None:
    launcher = provider("a")
    launcher.is_managed = True
    async with hosting() as host:
        await host.plugins.add(spec("a", launcher))
        (replica,) = host.plugins.replicas("a")
        before = replica.runtime_id
        assert host.registry.provides("a")
        launcher.runs[0].dies()
        await until(host, lambda: replica.phase is Phase.BACKING_OFF)
        await until(host, lambda: replica.phase is Phase.READY)
        assert replica.runtime_id not in ("", before)


async def test_what_a_former_host_has_left_in_its_store_ends_when_its_plugin_is_started(
    virtual_time: MockClock, tmp_path: Path
) -> None:
    def stored() -> HostConfig:
        return HostConfig(
            rates=UNLIMITED, leases=LEASES, store=SqliteStore(tmp_path / "state"), keys=Keys(["k" * 32])
        )

    async with hosting(stored()) as host:
        left = host.identities.issue("a", address="127.0.0.1")[0].runtime_id
        host.registry.register(left, "a", "1.0.0", "/", {"base_url": "http://127.0.0.1:1"})
    async with hosting(stored()) as host:
        assert host.registry.plugins() == [left]
        await host.plugins.add(spec("a", provider("a")))
        assert host.identities.entry(left) is None
        assert host.registry.plugins() == [host.plugins.replicas("a")[0].runtime_id]


async def test_a_host_that_is_cut_off_leaves_its_plugins_alone_and_supervises_them_when_it_is_back(
    virtual_time: MockClock,
) -> None:
    memory, launcher = MemoryStore(), provider("a")
    async with open_plain_nursery() as lapses:
        stores = [Reached(memory, lapses) for _ in range(2)]
        configs = [
            HostConfig(
                store=store, rates=UNLIMITED, leases=LEASES, keys=Keys(["k" * 32]), base_urls=BaseUrls.ANY
            )
            for store in stores
        ]
        async with hosting(configs[0]) as host, hosting(configs[1]) as other:
            await host.plugins.add(spec("a", launcher))
            (replica,) = host.plugins.replicas("a")
            runtime_id = replica.runtime_id
            stores[0].cut = True
            await trio.sleep(12.0)
            assert other.owners.owns(runtime_id)
            assert (replica.phase, replica.runtime_id) == (Phase.READY, runtime_id)
            stores[0].cut = False
            await trio.sleep(4.0)
            assert not host.owners.owns(runtime_id)
            assert other.registry.available("a")
            assert (replica.phase, replica.runtime_id, replica.runs) == (Phase.READY, runtime_id, 1)
            launcher.runs[0].hangs()  # as the other host tells
            await until(host, lambda: replica.phase is Phase.BACKING_OFF)
            await until(host, lambda: replica.phase is Phase.READY)
            assert other.registry.available("a")
            lapses.cancel_scope.cancel()
