"""The plugins that a host starts: their order, what becomes of runs that end, and how they are stopped."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import Host
from cpg_trio.host.supervision import (
    Ended,
    GraphError,
    LaunchError,
    ManageError,
    Phase,
    Ready,
    Restart,
    RestartPolicy,
    UnknownPluginError,
)
from tests.host.supervision.launching import Launches, hosting, phases, provider, spec, until


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


async def test_a_plugin_that_provides_nothing_and_hangs_is_started_again(virtual_time: MockClock) -> None:
    job = provider()
    async with hosting() as host:
        await host.plugins.add(spec("job", job))
        (replica,) = host.plugins.replicas("job")
        await trio.sleep(50.0)
        assert replica.phase is Phase.READY
        job.runs[0].hangs()
        await until(host, lambda: replica.phase is Phase.BACKING_OFF)
        assert replica.why.startswith("it hangs")


async def test_the_waits_before_a_restart_double_and_a_crash_loop_is_said_once(
    virtual_time: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    crashing, other = Launches(dies="exit status 3"), provider("other")
    policy = RestartPolicy(first_s=1.0, most_s=5.0, loop_after=3)
    async with hosting() as host:
        await host.plugins.add(spec("crashing", crashing, restart=policy), spec("other", other), wait=False)
        (replica,) = host.plugins.replicas("crashing")
        waits = list[float]()
        for run in range(1, 6):
            await until(host, lambda: replica.phase is Phase.BACKING_OFF)
            assert replica.looping is (run >= 3)
            since = trio.current_time()
            await until(host, lambda: replica.phase is Phase.STARTING)
            waits.append(trio.current_time() - since)
            assert replica.runs == run + 1
        assert all(most / 2 <= wait <= most for wait, most in zip(waits, (1, 2, 4, 5, 5), strict=True))
        assert host.plugins.replicas("other")[0].phase is Phase.READY
    assert caplog.text.count("is in a crash loop") == 1


async def test_a_run_that_has_been_ready_for_a_while_ends_a_crash_loop(virtual_time: MockClock) -> None:
    launcher = provider("a")
    policy = RestartPolicy(first_s=1.0, loop_after=1, reset_s=5.0)
    async with hosting() as host:
        await host.plugins.add(spec("a", launcher, restart=policy))
        (replica,) = host.plugins.replicas("a")
        launcher.runs[0].dies()
        await until(host, lambda: replica.looping)
        await until(host, lambda: replica.phase is Phase.READY)
        assert replica.looping
        await until(host, lambda: not replica.looping)
        assert replica.failures == 0


@pytest.mark.parametrize(
    ("when", "failed", "phase"),
    [
        (Restart.ALWAYS, False, Phase.BACKING_OFF),
        (Restart.ON_FAILURE, True, Phase.BACKING_OFF),
        (Restart.ON_FAILURE, False, Phase.STOPPED),
        (Restart.NEVER, True, Phase.FAILED),
        (Restart.NEVER, False, Phase.STOPPED),
    ],
)
async def test_a_policy_says_what_is_started_again(
    virtual_time: MockClock, when: Restart, *, failed: bool, phase: Phase
) -> None:
    launcher = provider("a")
    async with hosting() as host:
        await host.plugins.add(spec("a", launcher, restart=RestartPolicy(when=when)))
        (replica,) = host.plugins.replicas("a")
        launcher.runs[0].dies("it ended", failed=failed)
        await until(host, lambda: replica.phase is phase)
        await trio.sleep(10.0)
        assert replica.runs == (2 if phase is Phase.BACKING_OFF else 1)
        await host.plugins.restart("a")
        assert replica.phase is Phase.READY


async def test_nothing_is_left_of_plugins_of_which_one_cannot_be_started(virtual_time: MockClock) -> None:
    good, bad = provider("good"), Launches(refuses="there is no command ./bad")
    async with hosting() as host:
        with pytest.raises(LaunchError, match=r"^platform.toml:7: bad: there is no command ./bad$"):
            await host.plugins.add(
                spec("good", good), spec("bad", bad, after=("good",), source="platform.toml:7")
            )
        assert not host.plugins.specs()
        assert not good.alive
        assert len(host.identities) == 0


async def test_a_plugin_that_never_registers_is_named_after_its_time(virtual_time: MockClock) -> None:
    silent = Launches()
    async with hosting() as host:
        with pytest.raises(LaunchError, match="silent: not ready within 5 s: it has not come"):
            await host.plugins.add(spec("silent", silent, start_s=5.0))
        assert not silent.alive


async def test_a_launcher_that_takes_too_long_is_given_up(virtual_time: MockClock) -> None:
    slow = Launches(starts_in_s=100.0)
    async with hosting() as host:
        with pytest.raises(LaunchError, match="not started within 5 s"):
            await host.plugins.add(spec("slow", slow, start_s=5.0))


async def test_a_plugin_that_waits_for_a_service_is_not_to_blame(virtual_time: MockClock) -> None:
    storage = provider("storage", requires=("logger",))
    async with hosting() as host:
        await host.plugins.add(spec("storage", storage, requires=(), start_s=5.0), wait=False)
        (replica,) = host.plugins.replicas("storage")
        await trio.sleep(20.0)
        assert (replica.phase, replica.why, replica.runs) == (Phase.STARTING, "waits for logger", 1)
        await host.plugins.add(spec("logger", provider("logger")))
        await until(host, lambda: replica.phase is Phase.READY)


async def test_a_plugin_that_has_another_name_is_told_what_to_write(
    virtual_time: MockClock,
) -> None:
    launcher = provider("a", self_id="a-plugin")
    async with hosting() as host:
        with pytest.raises(LaunchError, match=r'it calls itself "a-plugin", .* write id = "a-plugin"'):
            await host.plugins.add(spec("a", launcher))
        await host.plugins.add(spec("a", launcher, self_id="a-plugin"))


async def test_what_cannot_be_started_together_is_named_before_any_start(
    virtual_time: MockClock,
) -> None:
    launcher = provider("a")
    async with hosting() as host:
        with pytest.raises(GraphError, match="comes after b, but no plugin has that name"):
            await host.plugins.add(spec("a", launcher, after=("b",)))
        assert not launcher.runs


async def test_a_plugin_that_is_removed_is_gone_with_its_identity(virtual_time: MockClock) -> None:
    launcher = provider("a")
    async with hosting() as host:
        await host.plugins.add(spec("a", launcher))
        runtime_id = host.plugins.replicas("a")[0].runtime_id
        await host.plugins.remove("a")
        assert not launcher.alive
        assert host.identities.entry(runtime_id) is None
        with pytest.raises(UnknownPluginError):
            host.plugins.replicas("a")
        await host.plugins.add(spec("a", launcher))


async def test_a_plugin_that_does_not_stop_is_ended_by_force_after_its_time(virtual_time: MockClock) -> None:
    launcher = provider("a")
    launcher.obeys = False
    stuck = Launches(obeys=False)
    async with hosting() as host:
        await host.plugins.add(spec("stuck", stuck, ready=Ready.RUNNING, stop_s=3.0))
        stuck.runs[0].hangs()
        since = trio.current_time()
        await host.plugins.remove("stuck")
        assert 3.0 <= trio.current_time() - since < 4.0
        assert stuck.runs[0].stop_asked.is_set()
        assert not stuck.alive


async def test_replicas_restart_one_after_the_other(
    virtual_time: MockClock,
) -> None:
    launcher = provider("a")
    async with hosting() as host:
        await host.plugins.add(spec("a", launcher, replicas=3))
        before = [each.runtime_id for each in host.plugins.replicas("a")]
        assert len(set(before)) == 3
        fewest = 3

        def count(_: object) -> None:
            nonlocal fewest
            fewest = min(fewest, sum(each.phase is Phase.READY for each in host.plugins.replicas("a")))

        with host.plugins.changes.added(count):
            await host.plugins.restart("a")
        assert fewest == 2
        assert not set(before) & {each.runtime_id for each in host.plugins.replicas("a")}
        assert len(launcher.alive) == 3


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
