"""Leases, in virtual time: the registry is not wrong about a plugin for longer than two of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cpg_trio import HealthState
from cpg_trio.host.directory.leases import (
    NOT_HEARD_OF,
    TRANSITIONS,
    CannotAskError,
    LeaseConfig,
    Liveness,
    State,
)
from cpg_trio.host.directory.registration import Health, UnknownRegistrationError
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from tests.host.directory.held_call import HeldCall

UNHEALTHY = Health(HealthState.UNHEALTHY, "stopping")
LEASES = LeaseConfig(heartbeat_s=5.0, lease_s=15.0, probe_timeout_s=2.0)


class Setting:
    """A registry and its supervisor; plugins answer probes while their names are in `answering`."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.gone: list[str] = []
        self.answering: set[str] = set()
        self.probed: list[str] = []
        self.why_gone: dict[str, str] = {}
        self.others = set[str]()  # that another host owns
        self.liveness = Liveness(
            self.registry, LEASES, self.probe, self.forget, lambda runtime_id: runtime_id not in self.others
        )

    async def probe(self, runtime_id: str) -> bool:
        self.probed.append(runtime_id)
        return runtime_id in self.answering

    def forget(self, runtime_id: str, why: str) -> None:
        self.gone.append(runtime_id)
        self.why_gone[runtime_id] = why

    def add(self, runtime_id: str = "p", service_type: str = "t") -> str:
        return self.registry.register(runtime_id, service_type, "1.0.0", "/", {}).id

    def offered(self) -> bool:
        return self.registry.available("t")


@asynccontextmanager
async def supervising() -> AsyncIterator[Setting]:
    setting = Setting()
    async with trio.open_nursery() as nursery:
        await nursery.start(setting.liveness.run)
        yield setting
        nursery.cancel_scope.cancel()


async def test_a_plugin_that_is_adopted_is_asked_at_once_and_lapses_only_if_it_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    async with supervising() as s:
        for name in ("here", "gone"):
            s.others.add(name)
            s.add(name)
        s.answering.add("here")
        await trio.sleep(100)
        assert s.registry.available("t")  # what another host owns does not lapse here
        assert not s.probed
        for name in ("here", "gone"):
            s.others.discard(name)
            s.liveness.adopt(name, trio.current_time() - 100)
        assert not s.registry.has_lapsed("gone")
        await wait_all_tasks_blocked()
        assert sorted(s.probed) == ["gone", "here"]
        await trio.sleep(0.1)
        assert s.registry.has_lapsed("gone")
        await trio.sleep(40)
        assert not s.registry.has_lapsed("here")
        assert s.gone == ["gone"]


async def test_a_plugin_that_reports_to_its_new_host_needs_no_answer(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        s.others.add("p")
        s.add()
        s.others.discard("p")
        s.liveness.adopt("p", trio.current_time() - 100)
        s.liveness.beat("p")
        await trio.sleep(14)
        assert not s.registry.has_lapsed("p")
        await trio.sleep(2)
        assert s.registry.has_lapsed("p")


async def test_nothing_follows_from_the_end_of_a_lease_that_is_released(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        s.add()
        s.others.add("p")
        s.liveness.release("p")
        await trio.sleep(100)
        assert s.offered()
        assert not s.gone
        assert s.liveness.lease("p") is None


async def test_a_silent_plugin_lapses_after_one_lease_and_is_gone_after_two(
    autojump_clock: MockClock,
) -> None:
    async with supervising() as s:
        hub = WatchHub(s.registry)
        s.add()
        with hub.watch("watcher") as watch:
            watch.subscribe("t")
            assert (await anext(watch)).statuses["t"].state == pb.SERVICE_STATE_AVAILABLE
            started = trio.current_time()
            assert (await anext(watch)).statuses["t"].state == pb.SERVICE_STATE_UNAVAILABLE
            assert trio.current_time() - started == pytest.approx(15)
        assert s.registry.health("p") == Health(HealthState.UNHEALTHY, "no sign of life")
        assert s.registry.registrations("p")
        await trio.sleep(15.1)
        assert not s.registry.registrations("p")
        assert s.gone == ["p"]
        assert not s.liveness._leases


async def test_heartbeats_keep_a_plugin_and_spare_it_probes(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        s.add()
        for _ in range(1000):
            await trio.sleep(5)
            s.liveness.beat("p")
            assert s.offered()
        assert s.probed == []


async def test_a_plugin_that_only_answers_probes_stays(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        s.answering.add("p")
        s.add()
        await trio.sleep(3600)
        assert s.offered()
        assert len(s.probed) >= 3600 / 12.5
        s.answering.clear()
        await trio.sleep(15.1)
        assert not s.offered()
        await trio.sleep(15)
        assert s.gone == ["p"]


async def test_a_probe_that_hangs_takes_no_longer_than_it_may(autojump_clock: MockClock) -> None:
    async with supervising() as s:

        async def hang(_: str) -> bool:
            await trio.sleep(1000)
            return True

        s.liveness._probe = hang
        s.add()
        await trio.sleep(31)
        assert s.gone == ["p"]


async def test_a_sign_of_life_brings_a_lapsed_plugin_back(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        s.add()
        for _ in range(3):
            await trio.sleep(20)
            assert not s.offered()
            s.liveness.beat("p")
            await wait_all_tasks_blocked()
            assert s.offered()
        assert s.gone == []


async def test_a_plugin_that_cannot_be_reached_is_not_offered_until_it_is_heard_of(
    autojump_clock: MockClock,
) -> None:
    async with supervising() as s:
        s.add()
        s.liveness.suspect("p")
        await wait_all_tasks_blocked()
        assert not s.offered()
        s.answering.add("p")
        await trio.sleep(LEASES.heartbeat_s * 2)
        assert s.offered()


async def test_a_sign_of_life_at_the_moment_of_the_lapse_counts(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        s.add()
        s.liveness.suspect("p")
        s.liveness.beat("p")  # before the supervisor has had its turn
        await wait_all_tasks_blocked()
        assert s.offered()
        await trio.sleep(31)
        assert s.gone == ["p"]


async def test_calls_in_flight_end_when_their_provider_is_gone_and_others_go_on(
    autojump_clock: MockClock,
) -> None:
    ended: dict[str, bool] = {}

    async def call(s: Setting, provider: str) -> None:
        with trio.CancelScope() as scope:
            s.registry.calls.begin("caller", provider, held := HeldCall(scope))
            await trio.sleep(1000)
        s.registry.calls.end("caller", provider, held)
        ended[provider] = scope.cancelled_caught

    async with supervising() as s, trio.open_nursery() as nursery:
        s.answering.add("alive")
        for provider in ("silent", "alive"):
            s.add(provider)
            nursery.start_soon(call, s, provider)
        await trio.sleep(31)
        assert ended == {"silent": True}
        assert s.registry.calls.count("alive") == 1
        await trio.sleep(1000)
        assert ended == {"silent": True, "alive": False}
        assert not s.registry.calls._of_provider


async def test_a_plugin_that_unregisters_is_not_supervised_any_more(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        first, second = s.add(), s.add(service_type="u")
        s.registry.unregister("p", first)
        assert s.liveness._leases
        s.registry.unregister("p", second)
        assert not s.liveness._leases
        await trio.sleep(100)
        assert s.gone == []
        s.liveness.beat("p")
        s.liveness.suspect("p")


async def test_a_plugin_that_takes_leave_is_forgotten_two_leases_later(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        registration_id = s.add()
        s.registry.report_health("p", UNHEALTHY)
        s.registry.unregister("p", registration_id)
        assert not s.offered()
        await trio.sleep(29.9)
        assert s.gone == []  # it may have calls to finish
        await trio.sleep(0.2)
        assert s.why_gone == {"p": "it has taken its leave"}
        assert s.registry.health("p") == Health()


async def test_a_plugin_that_takes_leave_and_comes_back_is_not_forgotten(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        for plugin in ("registers", "is well"):
            s.registry.report_health(plugin, UNHEALTHY)
            s.registry.unregister(plugin, s.add(plugin))
        await trio.sleep(20)
        s.add("registers")
        s.registry.report_health("is well", Health(HealthState.HEALTHY))
        await trio.sleep(14)
        assert s.gone == []


async def test_who_takes_leave_again_and_again_has_its_two_leases_from_the_last_time_on(
    autojump_clock: MockClock,
) -> None:
    async with supervising() as s:
        for _ in range(50):
            s.registry.report_health("p", UNHEALTHY)
            s.registry.unregister("p", s.add())
            await trio.sleep(1)
        assert s.liveness.is_leaving("p")
        tasks = trio.lowlevel.current_statistics().tasks_living
        await trio.sleep(28.9)
        assert s.gone == []
        await trio.sleep(0.2)
        assert s.gone == ["p"]
        assert trio.lowlevel.current_statistics().tasks_living == tasks - 1
        assert not s.liveness.is_leaving("p")


async def test_each_leave_has_its_own_time(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        s.registry.report_health("p", UNHEALTHY)
        s.registry.unregister("p", s.add())
        await trio.sleep(20)
        s.registry.unregister("p", s.add())
        await trio.sleep(29.9)
        assert s.gone == []
        await trio.sleep(0.2)
        assert s.gone == ["p"]


@pytest.mark.parametrize("_time", range(8))  # in which order tasks run is up to chance
async def test_a_plugin_that_registers_anew_at_the_moment_of_its_end_is_not_removed(
    autojump_clock: MockClock, _time: int
) -> None:
    async with supervising() as s:
        registration_id = s.add()

        async def at_the_end() -> None:
            await trio.sleep(30)
            with suppress(UnknownRegistrationError):
                s.registry.unregister("p", registration_id)
            s.add()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(at_the_end)
        await trio.sleep(1)
        assert s.offered()


async def test_a_plugin_that_was_gone_can_register_anew(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        s.add()
        await trio.sleep(31)
        s.add()
        await trio.sleep(14)
        assert s.offered()
        assert s.gone == ["p"]


# What happens to the host


async def beat(s: Setting, *plugins: str) -> None:
    """Report health as plugins do, late when everything is late."""
    while True:
        for plugin in plugins:
            s.liveness.beat(plugin)
        await trio.sleep(LEASES.heartbeat_s)


async def test_a_host_that_was_held_up_hears_its_plugins_before_it_gives_them_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervising() as s, trio.open_nursery() as nursery:
        for plugin in ("beats", "answers", "dead"):
            s.add(plugin)
        s.answering.add("answers")
        nursery.start_soon(beat, s, "beats")
        await trio.sleep(12.1)
        lapsed: list[str] = []
        s.registry.changes.add(
            lambda _: lapsed.extend(p for p in s.registry.plugins() if not s.registry.health(p).callable)
        )
        autojump_clock.jump(2.5 * LEASES.lease_s)
        await wait_all_tasks_blocked()
        assert lapsed == []
        assert "this host was held up for 36.9 s" in caplog.text
        await trio.sleep(LEASES.lease_s - 12 + 1)
        assert set(lapsed) == {"dead"}  # which has had as long as if nothing had been
        await trio.sleep(LEASES.lease_s)
        assert s.gone == ["dead"]
        nursery.cancel_scope.cancel()


async def test_a_host_that_is_held_up_again_and_again_notices_who_is_gone_all_the_same(
    autojump_clock: MockClock,
) -> None:
    async with supervising() as s:
        s.add("dead")
        for _ in range(10):
            await trio.sleep(4)
            autojump_clock.jump(1)
        assert s.gone == ["dead"]


async def test_a_plugin_whose_lease_ends_with_the_hold_up_is_asked_before_it_lapses(
    autojump_clock: MockClock,
) -> None:
    async with supervising() as s:
        s.add()
        await trio.sleep(14.5)
        s.answering.add("p")
        asked = len(s.probed)
        autojump_clock.jump(100)
        await trio.sleep(1)
        assert len(s.probed) == asked + 1
        assert s.offered()


async def test_the_time_of_a_probe_is_not_over_because_the_host_was_held_up(
    autojump_clock: MockClock,
) -> None:
    asked: list[float] = []

    async def slow(_: str) -> bool:
        asked.append(trio.current_time())
        await trio.sleep(0.5)
        return True

    async with supervising() as s:
        s.liveness._probe = slow
        s.add()
        await trio.sleep(7.6)  # it is being asked
        assert len(asked) == 1
        autojump_clock.jump(60)
        await trio.sleep(1)
        assert len(asked) == 2
        assert s.liveness._leases["p"].last_sign == asked[1] + 0.5


async def test_who_could_not_be_reached_as_the_host_was_held_up_is_not_suspected(
    autojump_clock: MockClock,
) -> None:
    async with supervising() as s:
        s.add()
        autojump_clock.jump(10)
        s.liveness.suspect("p")
        await wait_all_tasks_blocked()
        assert s.offered()
        await trio.sleep(3)
        s.liveness.suspect("p")
        await wait_all_tasks_blocked()
        assert not s.offered()


async def test_a_plugin_that_the_host_cannot_ask_is_neither_alive_nor_dead(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def cannot(_: str) -> bool:
        raise CannotAskError("too many open files")

    async with supervising() as s:
        s.liveness._probe = cannot
        for plugin in ("p", "q"):
            s.add(plugin)
        await trio.sleep(3600)
        assert s.registry.plugins() == ["p", "q"]
        assert s.offered()
        told = caplog.text.count("cannot be asked how they are: too many open files")
        assert 50 <= told <= 61
        s.liveness.suspect("p")  # a call could be made, and did not get there
        await wait_all_tasks_blocked()
        assert not s.registry.health("p").callable
        s.answering.add("q")
        s.liveness._probe = s.probe
        await trio.sleep(2 * LEASES.lease_s)
        assert s.gone == ["p"]
        assert s.offered()


@asynccontextmanager
async def restored(*runtime_ids: str, answering: str = "") -> AsyncIterator[Setting]:
    """Begin with plugins that were registered before, and have not been heard of."""
    setting = Setting()
    setting.answering.update(answering)
    for runtime_id in runtime_ids:
        setting.registry.set_lapsed(runtime_id, NOT_HEARD_OF)
        setting.add(runtime_id)
    async with trio.open_nursery() as nursery:
        await nursery.start(setting.liveness.run)
        yield setting
        nursery.cancel_scope.cancel()


async def test_who_was_there_before_is_asked_at_once_and_offered_if_it_answers(
    autojump_clock: MockClock,
) -> None:
    started = trio.current_time()
    async with restored(*"abcdefgh", answering="acdefgh") as s:
        assert trio.current_time() == started
        assert sorted(s.probed) == list("abcdefgh")
        assert all(s.registry.health(plugin).callable for plugin in "acdefgh")
        assert s.registry.health("b") == Health(HealthState.UNHEALTHY, NOT_HEARD_OF)
        await trio.sleep(14.9)
        assert s.registry.health("b").reason == NOT_HEARD_OF


async def test_who_was_there_before_and_is_silent_is_probed_on_and_gone_after_two_leases(
    autojump_clock: MockClock,
) -> None:
    async with restored("p") as s:
        await trio.sleep(29.9)
        assert len(s.probed) >= 4
        assert s.registry.registrations("p")
        await trio.sleep(0.2)
        assert s.gone == ["p"]


@pytest.mark.parametrize("sign", ["beat", "probe"])
async def test_who_was_there_before_is_back_at_its_first_sign_of_life(
    autojump_clock: MockClock, sign: str
) -> None:
    async with restored("p") as s:
        await trio.sleep(6)
        assert not s.offered()
        if sign == "beat":
            s.liveness.beat("p")
        else:
            s.answering.add("p")
            await trio.sleep(2)
        await wait_all_tasks_blocked()
        assert s.offered()
        s.answering.clear()
        await trio.sleep(16)
        assert s.registry.health("p").reason == "no sign of life"
        await trio.sleep(15)
        assert s.gone == ["p"]


async def test_plugins_that_hang_cost_no_other_its_probes(autojump_clock: MockClock) -> None:
    at_once: list[int] = []
    probing: set[str] = set()

    async def hang(runtime_id: str) -> bool:
        probing.add(runtime_id)
        at_once.append(len(probing))
        try:
            await trio.sleep(0.1 if runtime_id == "alive" else 1000)
        finally:
            probing.remove(runtime_id)
        return True

    plugins = [f"p{number}" for number in range(600)]
    setting = Setting()
    setting.liveness._probe = hang
    for runtime_id in (*plugins, "alive"):
        setting.add(runtime_id)
    async with trio.open_nursery() as nursery:
        started = trio.current_time()
        await nursery.start(setting.liveness.run)
        assert trio.current_time() - started == pytest.approx(LEASES.probe_timeout_s)
        await trio.sleep(60)
        assert sorted(setting.gone) == sorted(plugins)
        assert setting.registry.plugins() == ["alive"]
        nursery.cancel_scope.cancel()
    assert max(at_once) == 250


async def test_a_probe_that_fails_is_no_answer_and_harms_nobody_else(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Setting):
        async def probe(self, runtime_id: str) -> bool:
            if runtime_id == "bad":
                raise ValueError("it makes no sense")
            return await super().probe(runtime_id)

    s = Failing()
    async with trio.open_nursery() as nursery:
        await nursery.start(s.liveness.run)
        s.add("bad", "b")
        s.answering.add(s.add("good") and "good")
        await trio.sleep(31)
        assert s.gone == ["bad"]
        assert s.offered()
        nursery.cancel_scope.cancel()
    assert "ValueError: it makes no sense" in caplog.text


# The table of states


def test_a_lease_comes_to_an_end_from_every_state_and_leaves_no_final_one() -> None:
    for state in State:
        reached, new = {state}, {state}
        while new:
            new = {after for each in new for after in TRANSITIONS[each].values()} - reached
            reached |= new
        assert {State.GONE, State.LEFT, State.ENDED} & reached
        if state in {State.GONE, State.LEFT, State.ENDED}:
            assert reached == {state}


async def test_a_plugin_that_has_lapsed_and_unregisters_one_of_two_services_gets_no_calls(
    autojump_clock: MockClock,
) -> None:
    async with supervising() as s:
        s.add()
        other = s.add(service_type="u")
        s.liveness.lapse("p", "it could not be reached")
        s.registry.unregister("p", other)
        assert not s.offered()
        assert s.registry.has_lapsed("p")
        await trio.sleep(31)
        assert s.gone == ["p"]


async def test_a_plugin_that_had_lapsed_and_registers_anew_is_alive(autojump_clock: MockClock) -> None:
    async with supervising() as s:
        registration_id = s.add()
        s.liveness.lapse("p", "it could not be reached")
        s.registry.unregister("p", registration_id)
        assert not s.registry.has_lapsed("p")
        assert not s.liveness.is_leaving("p")
        s.add()
        assert s.offered()
