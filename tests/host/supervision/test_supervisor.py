"""What a supervisor does with its runs, in virtual time: readiness, restarts, stops, and what breaks."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cpg_trio import HealthState
from cpg_trio.host import Action, AuditEvent
from cpg_trio.host.directory import Health
from cpg_trio.host.supervision import (
    EXTERNAL,
    Enrol,
    GraphError,
    LaunchError,
    ManagedPlugins,
    ManageError,
    Phase,
    PluginSpec,
    Ready,
    Replica,
    Restart,
    RestartPolicy,
    UnknownPluginError,
    local_url,
)
from cpg_trio.rpc import Code, ConnectError
from tests.host.supervision.memory import HEALTHY, Memory, Script, Scripts


def at_once(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in virtual time: nothing happens outside of it, so no wait takes any."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        trio.run(functools.partial(test, *args, **kwargs), clock=MockClock(autojump_threshold=0))

    return run


def spec(name: str, launcher: Scripts, **settings: Any) -> PluginSpec:
    return PluginSpec(name=name, launcher=launcher, **settings)


async def until(condition: Callable[[], object]) -> float:
    """Wait until a condition holds; return when, in seconds."""
    with trio.fail_after(1000.0):
        while not condition():  # noqa: ASYNC110 - this clock jumps
            await trio.sleep(0.05)
    return trio.current_time()


def only(plugins: ManagedPlugins, name: str) -> Replica:
    (replica,) = plugins.replicas(name)
    return replica


@at_once
async def test_it_is_ready_when_all_is_registered_and_it_reports_healthy() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(health=None)])
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, provides=("a", "b"), start_s=1000.0), wait=False)
        replica = only(plugins, "a")
        await until(lambda: replica.runtime_id)
        await trio.sleep(1.0)
        assert (replica.phase, replica.why) == (Phase.STARTING, "it has not registered b")
        memory.registry.register(replica.runtime_id, "b", "1.0.0", "/", {})
        await trio.sleep(1.0)
        assert (replica.phase, replica.why) == (Phase.STARTING, "it has not reported its health")
        memory.registry.report_health(replica.runtime_id, Health(HealthState.UNHEALTHY, "it warms up"))
        await trio.sleep(1.0)
        assert (replica.phase, replica.why) == (Phase.STARTING, "unhealthy: it warms up")
        memory.registry.report_health(replica.runtime_id, HEALTHY)
        await trio.sleep(1.0)
        assert (replica.phase, replica.why) == (Phase.READY, "")
        memory.registry.report_health(replica.runtime_id, Health(HealthState.UNHEALTHY, "no disk"))
        await trio.sleep(100.0)
        assert (replica.phase, replica.runs) == (Phase.READY, 1)


@at_once
async def test_a_program_that_is_no_plugin_is_ready_when_it_runs() -> None:
    memory = Memory()
    launcher = Scripts(memory, (), [Script(comes_in=None)])
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, ready=Ready.RUNNING))
        assert only(plugins, "a").phase is Phase.READY


@at_once
async def test_who_waits_starts_when_the_other_is_ready_and_not_before() -> None:
    memory = Memory()
    slow, after = Scripts(memory, ("a",), [Script(comes_in=7.0)]), Scripts(memory)
    async with memory.serving() as plugins:
        await plugins.add(spec("after", after, after=("slow",)), spec("slow", slow), wait=False)
        await trio.sleep(6.0)
        assert (only(plugins, "after").phase, only(plugins, "after").why) == (Phase.WAITING, "waits for slow")
        assert not after.started
        await until(lambda: only(plugins, "after").phase is Phase.READY)


@at_once
async def test_what_waits_for_a_crash_loop_waits_and_the_rest_goes_on() -> None:
    memory = Memory()
    crashing, rest, waiting = Scripts(memory, (), [Script(dies_in=0.0)]), Scripts(memory), Scripts(memory)
    async with memory.serving() as plugins:
        specs = spec("crashing", crashing), spec("rest", rest), spec("waiting", waiting, after=("crashing",))
        await plugins.add(*specs, wait=False)
        await until(lambda: only(plugins, "crashing").looping)
        assert only(plugins, "rest").phase is Phase.READY
        assert only(plugins, "waiting").phase is Phase.WAITING
        crashing.scripts = [Script()]
        await until(lambda: only(plugins, "waiting").phase is Phase.READY)


@at_once
async def test_a_hang_before_it_has_an_identity_is_found_by_the_time_to_start() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(comes_in=None, obeys_in=None), Script()])
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, start_s=5.0), wait=False)
        at = await until(lambda: only(plugins, "a").phase is Phase.BACKING_OFF)
        assert 5.0 <= at <= 5.1
        await until(lambda: only(plugins, "a").phase is Phase.READY)


@at_once
async def test_a_hang_is_ended_without_being_asked_to_stop() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(hangs_in=10.0), Script()])
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher))
        at = await until(lambda: only(plugins, "a").phase is Phase.BACKING_OFF)
        assert at <= 10.2
        assert not launcher.started[0].asked.is_set()
        assert launcher.started[0] not in launcher.alive


@at_once
async def test_a_lapse_that_is_no_silence_is_no_hang() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",))
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher))
        replica = only(plugins, "a")
        memory.registry.set_lapsed(replica.runtime_id, "it could not be reached")
        await trio.sleep(10.0)
        assert (replica.phase, replica.runs) == (Phase.READY, 1)
        memory.gone(replica.runtime_id)
        await until(lambda: replica.phase is Phase.BACKING_OFF)
        assert replica.why.startswith("it hangs")


@at_once
async def test_a_run_whose_identity_is_revoked_goes_on_with_another_one() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",))
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher))
        replica = only(plugins, "a")
        before = replica.runtime_id
        memory.end(before, "an operator has revoked it")
        await until(lambda: replica.phase is Phase.STARTING)
        assert replica.runtime_id == ""
        launcher.started[0]._come()
        await until(lambda: replica.phase is Phase.READY)
        assert replica.runtime_id not in ("", before)
        assert replica.runs == 1


@at_once
async def test_a_run_whose_identity_is_revoked_and_that_does_not_come_again_is_restarted() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(revoked_in=5.0, comes_again=False), Script()])
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, start_s=20.0))
        replica = only(plugins, "a")
        at = await until(lambda: replica.phase is Phase.BACKING_OFF)
        assert 25.0 <= at <= 25.2
        await until(lambda: replica.phase is Phase.READY)


@at_once
async def test_a_run_that_shakes_hands_twice_has_the_second_identity_only() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",))
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher))
        replica = only(plugins, "a")
        first = replica.runtime_id
        launcher.started[0]._come()
        await trio.sleep(1.0)
        assert replica.phase is Phase.READY
        assert replica.runtime_id not in ("", first)
        assert memory.identities.entry(first) is None


@at_once
async def test_a_run_that_shakes_hands_again_and_again_has_failed() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",))
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher))
        run = launcher.started[0]
        for _ in range(10):
            run._come()
        await trio.sleep(1.0)
        assert only(plugins, "a").phase is Phase.READY
        run._come()
        await until(lambda: only(plugins, "a").phase is Phase.BACKING_OFF)
        assert only(plugins, "a").why.startswith("it shakes hands again and again")


@at_once
async def test_nobody_else_gets_an_identity_of_its_name() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",))
    former = memory.come("a", "", "a")
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher))
        assert memory.identities.entry(former) is None
        assert memory.come("a", "") == ""
        assert memory.come("a", "some other token") == ""
        token = launcher.started[0].assignment.enrolment_token
        launcher.started[0]._die()
        await until(lambda: only(plugins, "a").runs == 2)
        assert memory.come("a", token) == ""  # the token of a run that has ended
        await plugins.remove("a")
        assert memory.come("a", "")


@at_once
async def test_a_plugin_of_another_sdk_is_known_by_its_name() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(comes_in=None)])
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, enrol=Enrol.NAME, replicas=2), wait=False)
        await trio.sleep(1.0)
        first = memory.come("a", "", "a")
        second = memory.come("a", "", "a")
        await trio.sleep(1.0)
        assert {each.runtime_id for each in plugins.replicas("a")} == {first, second}
        assert all(each.phase is Phase.READY for each in plugins.replicas("a"))


@at_once
async def test_an_external_plugin_is_waited_for_and_watched_and_never_ended() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(comes_in=None)], kind=EXTERNAL)
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, enrol=Enrol.NAME), wait=False)
        replica = only(plugins, "a")
        await trio.sleep(500.0)
        assert (replica.phase, replica.why) == (Phase.STARTING, "it has not come for its identity")
        runtime_id = memory.come("a", "", "a")
        await until(lambda: replica.phase is Phase.READY)
        memory.registry.set_lapsed(runtime_id, "no sign of life")
        await until(lambda: replica.phase is Phase.STARTING)
        memory.registry.set_lapsed(runtime_id, "")
        await until(lambda: replica.phase is Phase.READY)
        memory.gone(runtime_id)
        await until(lambda: replica.phase is Phase.STARTING)
        runtime_id = memory.come("a", "", "a")
        await until(lambda: replica.phase is Phase.READY)
        with pytest.raises(ManageError, match="somebody else"):
            await plugins.restart("a")
        await plugins.remove("a")
        assert memory.identities.entry(runtime_id) is not None
        assert not launcher.started[0].asked.is_set()
        await plugins.add(spec("a", launcher, enrol=Enrol.NAME))  # it is there already


@at_once
async def test_a_stop_asks_by_a_call_then_by_a_signal_then_ends_by_force() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(obeys_in=None)])
    told = list[tuple[str, int, bool]]()

    def shut_down(runtime_id: str, grace_s: int) -> None:
        told.append((runtime_id, grace_s, memory.registry.is_drained(runtime_id)))

    memory.shut_down = shut_down
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, stop_s=4.0))
        runtime_id = only(plugins, "a").runtime_id
        since = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plugins.remove, "a")
            await until(launcher.started[0].asked.is_set)
            assert told == [(runtime_id, 4, True)]
            assert 5.0 <= trio.current_time() - since <= 5.1
        assert 9.0 <= trio.current_time() - since <= 9.1
        assert not launcher.alive


@pytest.mark.parametrize("where", ["enter", "wait", "leave"])
@at_once
async def test_a_launcher_that_breaks_is_a_failed_run_and_the_others_go_on(where: str) -> None:
    memory = Memory()
    broken = Scripts(memory, ("a",), [Script(breaks=where, dies_in=1.0), Script()])
    other = Scripts(memory)
    async with memory.serving() as plugins:
        await plugins.add(spec("broken", broken), spec("other", other), wait=False)
        replica = only(plugins, "broken")
        await until(lambda: replica.phase is Phase.BACKING_OFF)
        await until(lambda: replica.phase is Phase.READY)
        assert replica.runs == 2
        assert only(plugins, "other").runs == 1


@at_once
async def test_a_stop_while_it_is_being_started_ends_it_at_once() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(starts_in=20.0)])
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher), wait=False)
        await trio.sleep(1.0)
        await plugins.remove("a")
        assert trio.current_time() <= 1.1
        assert not launcher.alive


@at_once
async def test_an_addition_that_is_cancelled_leaves_nothing() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",))
    silent = Scripts(memory, ("b",), [Script(comes_in=None, leaves_in=1.0)])
    async with memory.serving() as plugins:
        with trio.move_on_after(5.0):
            await plugins.add(spec("a", launcher), spec("b", silent))
        assert not plugins.specs()
        assert not launcher.alive
        assert not silent.alive
        assert len(memory.identities) == 0


@at_once
async def test_a_host_that_stops_meanwhile_ends_an_addition() -> None:
    memory = Memory()
    silent = Scripts(memory, ("b",), [Script(comes_in=None)])
    async with memory.plugins.running("http://127.0.0.1:1"), trio.open_nursery() as nursery:

        async def add() -> None:
            with pytest.raises(LaunchError, match="it was stopped"):
                await memory.plugins.add(spec("b", silent))

        nursery.start_soon(add)
        await trio.sleep(1.0)
        await memory.plugins.stop()
        assert not silent.alive


@at_once
async def test_a_plugin_that_is_being_changed_is_not_changed_by_another() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(obeys_in=3.0)])
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plugins.restart, "a")
            await trio.sleep(1.0)
            with pytest.raises(ManageError, match="is being restarted"):
                await plugins.remove("a")


@at_once
async def test_a_restart_that_fails_is_told_and_leaves_the_other_replicas_alone() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",))
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, replicas=2))
        launcher.scripts = [Script(refuses="no such command"), Script()]
        with pytest.raises(LaunchError, match="a: no such command"):
            await plugins.restart("a")
        first, second = plugins.replicas("a")
        assert (first.phase, second.phase, second.runs) == (Phase.BACKING_OFF, Phase.READY, 1)
        await until(lambda: first.phase is Phase.READY)


@at_once
async def test_a_restart_while_it_backs_off_starts_it_at_once() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(dies_in=0.0), Script()])
    policy = RestartPolicy(first_s=100.0, most_s=100.0)
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, restart=policy), wait=False)
        await until(lambda: only(plugins, "a").phase is Phase.BACKING_OFF)
        await plugins.restart("a")
        assert trio.current_time() < 2.0
        assert only(plugins, "a").failures == 0


@at_once
async def test_other_times_hold_for_runs_that_go_on() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",))
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher))
        never = RestartPolicy(when=Restart.NEVER)
        plugins.adjust(spec("a", launcher, restart=never))
        launcher.started[0]._die()
        await until(lambda: only(plugins, "a").phase is Phase.FAILED)


@at_once
async def test_each_run_has_a_token_of_its_own_and_no_replica_shows_it() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(dies_in=1.0)])
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, replicas=2))
        await until(lambda: all(each.runs > 3 for each in plugins.replicas("a")))
        tokens = [run.assignment.enrolment_token for run in launcher.started]
        assert len(set(tokens)) == len(tokens)
        assert not any(token in repr(launcher.started[0].assignment) for token in tokens)


@at_once
async def test_the_waits_before_a_restart_double_and_a_crash_loop_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(dies_in=0.2)])
    policy = RestartPolicy(first_s=1.0, most_s=10.0, loop_after=3)
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, restart=policy), wait=False)
        replica, waits = only(plugins, "a"), list[float]()
        for run in range(1, 7):
            since = await until(lambda: replica.phase is Phase.BACKING_OFF)
            assert replica.failures == run
            assert replica.looping is (run >= 3)
            waits.append(await until(lambda: replica.phase is Phase.STARTING) - since)
        longest = 1, 2, 4, 8, 10, 10
        assert all(most / 2 <= wait <= most + 0.1 for wait, most in zip(waits, longest, strict=True))
        assert len(set(waits)) == 6
        assert replica.again_at is None
    assert caplog.text.count("is in a crash loop") == 1


@at_once
async def test_a_run_that_has_been_ready_for_a_while_ends_a_crash_loop() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(dies_in=0.0), Script()])
    policy = RestartPolicy(loop_after=1, reset_s=30.0)
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, restart=policy), wait=False)
        replica = only(plugins, "a")
        await until(lambda: replica.looping)
        since = await until(lambda: replica.phase is Phase.READY)
        assert 29.9 <= await until(lambda: not replica.looping) - since <= 30.2
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
@at_once
async def test_a_policy_says_what_is_started_again(when: Restart, *, failed: bool, phase: Phase) -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(dies_in=5.0, failed=failed), Script()])
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, restart=RestartPolicy(when=when)))
        replica = only(plugins, "a")
        await until(lambda: replica.phase is phase)
        assert replica.why == "it died"
        await trio.sleep(100.0)
        assert replica.runs == (2 if phase is Phase.BACKING_OFF else 1)
        await plugins.restart("a")
        assert replica.phase is Phase.READY


@at_once
async def test_nothing_is_left_of_plugins_of_which_one_cannot_be_started() -> None:
    memory = Memory()
    good, bad = Scripts(memory, ("good",)), Scripts(memory, (), [Script(refuses="there is no command ./bad")])
    async with memory.serving() as plugins:
        with pytest.raises(LaunchError, match=r"^platform.toml:7: bad: there is no command ./bad$"):
            await plugins.add(spec("good", good), spec("bad", bad, after=("good",), source="platform.toml:7"))
        assert not plugins.specs()
        assert not good.alive
        assert len(memory.identities) == 0


@at_once
async def test_an_addition_that_fails_is_taken_back_in_the_order_of_a_stop() -> None:
    memory = Memory()
    bad = Scripts(memory, (), [Script(refuses="no")])
    stopped = list[str]()
    async with memory.serving() as plugins:
        names = ["a", "b", "c"]
        chain = [spec(each, Scripts(memory, (each,)), after=tuple(names[:i])) for i, each in enumerate(names)]

        def note(replica: Replica) -> None:
            if replica.phase is Phase.STOPPED:
                stopped.append(replica.plugin)

        with plugins.changes.added(note), pytest.raises(LaunchError):
            await plugins.add(*chain, spec("bad", bad, after=("c",)))
    assert [each for each in stopped if each in names] == ["c", "b", "a"]


@at_once
async def test_a_plugin_that_never_registers_is_named_after_its_time() -> None:
    memory = Memory()
    silent = Scripts(memory, (), [Script(comes_in=None)])
    async with memory.serving() as plugins:
        with pytest.raises(LaunchError, match="silent: not ready within 5 s: it has not come"):
            await plugins.add(spec("silent", silent, start_s=5.0))
        assert not silent.alive


@at_once
async def test_a_launcher_that_takes_too_long_is_given_up() -> None:
    memory = Memory()
    slow = Scripts(memory, (), [Script(starts_in=100.0)])
    async with memory.serving() as plugins:
        with pytest.raises(LaunchError, match="not started within 5 s"):
            await plugins.add(spec("slow", slow, start_s=5.0))
        assert trio.current_time() <= 5.1


@at_once
async def test_a_plugin_that_waits_for_a_service_is_not_to_blame() -> None:
    memory = Memory()
    waits = Health(HealthState.DEGRADED, "no logger", ("logger",))
    storage = Scripts(memory, ("storage",), [Script(health=waits)])
    async with memory.serving() as plugins:
        await plugins.add(spec("storage", storage, start_s=5.0), wait=False)
        replica = only(plugins, "storage")
        await trio.sleep(60.0)
        assert (replica.phase, replica.why, replica.runs) == (Phase.STARTING, "waits for logger", 1)
        memory.registry.report_health(replica.runtime_id, HEALTHY)
        await until(lambda: replica.phase is Phase.READY)


@at_once
async def test_what_cannot_be_started_together_is_named_before_any_start() -> None:
    memory = Memory()
    launcher = Scripts(memory)
    async with memory.serving() as plugins:
        with pytest.raises(GraphError, match="comes after b, but no plugin has that name"):
            await plugins.add(spec("a", launcher, after=("b",)))
        assert not plugins.specs()


@at_once
async def test_a_plugin_that_is_removed_is_gone_with_its_identity() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",))
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher))
        await plugins.remove("a")
        assert not launcher.alive
        assert len(memory.identities) == 0
        with pytest.raises(UnknownPluginError):
            plugins.replicas("a")
        await plugins.add(spec("a", launcher))


@at_once
async def test_replicas_restart_one_after_the_other() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",))
    async with memory.serving() as plugins:
        await plugins.add(spec("a", launcher, replicas=3))
        before = {each.runtime_id for each in plugins.replicas("a")}
        ready = list[int]()

        def count(_: Replica) -> None:
            ready.append(sum(each.phase is Phase.READY for each in plugins.replicas("a")))

        with plugins.changes.added(count):
            await plugins.restart("a")
        assert min(ready) == 2
        assert not before & {each.runtime_id for each in plugins.replicas("a")}
        assert launcher.most_alive == {1: 1, 2: 1, 3: 1}


@at_once
async def test_what_is_wrong_already_keeps_nobody_from_being_started() -> None:
    memory = Memory()
    async with memory.serving() as plugins:
        await plugins.add(spec("a", Scripts(memory)), spec("b", Scripts(memory), after=("a",)))
        with plugins.changing("a", "removed") as managed:
            await plugins.take_down(managed)
        await plugins.add(spec("c", Scripts(memory)))
        with pytest.raises(GraphError, match="d comes after a"):
            await plugins.add(spec("d", Scripts(memory), after=("a",)))


@at_once
async def test_a_plugin_that_provides_nothing_hangs_when_it_reports_no_more() -> None:
    memory = Memory()
    async with memory.serving() as plugins:
        await plugins.add(spec("a", Scripts(memory)))
        replica = only(plugins, "a")
        for _ in range(20):
            memory.registry.report_health(replica.runtime_id, Health(HealthState.HEALTHY))
            await trio.sleep(5.0)
        assert (replica.phase, replica.runs) == (Phase.READY, 1)
        since = trio.current_time()
        at = await until(lambda: replica.phase is Phase.BACKING_OFF)
        assert replica.why == "it hangs: no sign of life"
        assert 30.0 - 5.0 <= at - since <= 45.0


@at_once
async def test_what_a_host_knows_while_it_is_cut_off_ends_no_run() -> None:
    memory = Memory()
    async with memory.serving() as plugins:
        await plugins.add(spec("a", Scripts(memory, ("a",))))
        replica = only(plugins, "a")
        memory.is_up_to_date = False
        memory.registry.set_lapsed(replica.runtime_id, "no sign of life")
        await trio.sleep(100.0)
        assert replica.phase is Phase.READY
        memory.is_up_to_date = True
        await until(lambda: replica.phase is Phase.BACKING_OFF)


@at_once
async def test_a_plugin_that_is_being_added_is_not_changed_before_it_is_there() -> None:
    memory = Memory()
    launcher = Scripts(memory, ("a",), [Script(comes_in=5.0)])
    async with memory.serving() as plugins, trio.open_nursery() as nursery:
        nursery.start_soon(plugins.add, spec("a", launcher))
        await trio.sleep(1.0)
        with pytest.raises(ManageError, match="a is being added"):
            await plugins.scale("a", 2)
        await until(lambda: only(plugins, "a").phase is Phase.READY)
        await trio.sleep(1.0)
        await plugins.scale("a", 2)


@at_once
async def test_a_plugin_that_waits_for_its_host_is_called_until_it_has_an_identity() -> None:
    memory = Memory()
    unavailable = ConnectError(Code.UNAVAILABLE, "connection refused")
    memory.adoptions = [unavailable, unavailable, None, unavailable, None]
    async with memory.serving() as plugins:
        await plugins.add(spec("a", Scripts(memory, (), [Script(comes_in=None)], url="http://127.0.0.1:9")))
        replica = only(plugins, "a")
        before = replica.runtime_id
        memory.end(before, "an operator has revoked it")
        await until(lambda: replica.runtime_id not in ("", before))
        await until(lambda: replica.phase is Phase.READY)
        assert replica.runs == 1


@at_once
async def test_another_plugin_at_its_url_is_told_at_once() -> None:
    memory = Memory()
    memory.adoptions = [ConnectError(Code.FAILED_PRECONDITION, "there is another plugin: 'b'")]
    async with memory.serving() as plugins:
        with pytest.raises(LaunchError, match="a: there is another plugin: 'b'"):
            await plugins.add(spec("a", Scripts(memory, (), [Script(comes_in=None)], url="http://x:9")))
        assert trio.current_time() < 1.0


@at_once
async def test_what_is_done_is_in_the_audit_trail_with_who_has_done_it() -> None:
    memory = Memory()
    events = list[AuditEvent]()
    memory.audit.subscribe(events.append)
    async with memory.serving() as plugins:
        await plugins.add(spec("a", Scripts(memory)), actor="ada", reason="a test")
        await plugins.restart("a", actor="ada")
        await plugins.remove("a", actor="grace")
    done = [(each.action, each.subject, each.target, each.actor) for each in events]
    assert done == [
        (Action.MANAGE, "a", "add", "ada"),
        (Action.MANAGE, "a", "restart", "ada"),
        (Action.MANAGE, "a", "remove", "grace"),
    ]
    assert events[0].reason == "a test"


@at_once
async def test_a_name_is_given_once() -> None:
    memory = Memory()
    async with memory.serving() as plugins:
        await plugins.add(spec("a", Scripts(memory)))
        with pytest.raises(ManageError, match="there is a plugin a already"):
            await plugins.add(spec("b", Scripts(memory)), spec("a", Scripts(memory)))
        assert list(plugins.specs()) == ["a"]


@pytest.mark.parametrize(
    ("bound", "public_url", "url"),
    [
        (["http://127.0.0.1:80"], "https://example.org", "http://127.0.0.1:80"),
        (["http://0.0.0.0:80"], "", "http://127.0.0.1:80"),
        (["unix:/run/host.sock", "http://[::]:80"], "", "http://127.0.0.1:80"),
        (["https://0.0.0.0:443"], "https://example.org", "https://example.org"),
        (["https://0.0.0.0:443"], "", "https://127.0.0.1:443"),
        (["unix:/run/host.sock"], "", "unix:/run/host.sock"),
        ([], "", ""),
    ],
)
def test_plugins_of_the_machine_call_the_host_there(bound: list[str], public_url: str, url: str) -> None:
    assert local_url(bound, public_url) == url
