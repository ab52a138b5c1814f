"""The watch of several providers: each watcher has those that get calls, and each change costs it little."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import wait_all_tasks_blocked

from cpg_trio import HealthState
from cpg_trio.host.access.limits import LimitError, Limits
from cpg_trio.host.directory.registration import Health, Registration
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.watch import Update, Watch
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.host.directory.watched_service import (
    MAX_PROVIDERS,
    Candidates,
    ProviderNews,
    ProviderState,
    ProviderView,
    WatchedService,
)
from cpg_trio.versions import Requirement
from cpg_trio.wire import InvalidError

HEALTHY, DEGRADED, UNHEALTHY = (
    Health(state) for state in (HealthState.HEALTHY, HealthState.DEGRADED, HealthState.UNHEALTHY)
)


def add(registry: Registry, runtime_id: str, version: str = "1.0.0", **metadata: str) -> str:
    return registry.register(runtime_id, "t", version, "/x/", metadata).id


def view_of(watch: Watch) -> ProviderView:
    view = watch._followed["t"]
    assert isinstance(view, ProviderView)
    return view


class Watcher:
    """What a watcher of `t` knows: what it does with the updates that it reads."""

    def __init__(self, watch: Watch, version_range: str = "", min_version: str = "") -> None:
        self.watch = watch
        self.providers: dict[str, bool] = {}
        self.is_complete = False
        self.reason = ""
        self.updates = 0
        watch.subscribe("t", min_version, version_range, MAX_PROVIDERS)

    def hear(self, update: Update) -> None:
        self.updates += 1
        news = update.providers["t"]
        for runtime_id in news.removed:
            del self.providers[runtime_id]
        for registration, is_degraded in news.changed:
            self.providers[registration.runtime_id] = is_degraded
        self.is_complete |= news.complete
        self.reason = news.reason

    async def read_all(self) -> Watcher:
        async def read() -> None:
            async for update in self.watch:
                self.hear(update)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return self


async def test_a_watcher_is_told_of_all_providers_and_then_of_each_change_alone() -> None:
    registry = Registry()
    for name in "abc":
        add(registry, name)
    with WatchHub(registry).watch("w") as watch:
        watcher = await Watcher(watch).read_all()
        assert watcher.is_complete
        assert watcher.providers == dict.fromkeys("abc", False)
        registry.report_health("b", DEGRADED)
        update = await anext(watch)
        assert [(r.runtime_id, bad) for r, bad in update.providers["t"].changed] == [("b", True)]
        assert not update.providers["t"].complete
        assert not update.statuses
        registry.remove_plugin("a")
        update = await anext(watch)
        assert (update.providers["t"].changed, update.providers["t"].removed) == ([], ["a"])


@pytest.mark.parametrize("how", ["unhealthy", "lapsed", "drained", "unregistered"])
async def test_a_provider_that_gets_no_calls_any_more_is_removed_at_once(how: str) -> None:
    registry = Registry()
    add(registry, "a")
    registration_id = add(registry, "b")
    with WatchHub(registry).watch("w") as watch:
        watcher = await Watcher(watch).read_all()
        if how == "unhealthy":
            registry.report_health("b", UNHEALTHY)
        elif how == "lapsed":
            registry.set_lapsed("b", "no sign of life")
        elif how == "drained":
            registry.drain("b", "an upgrade")
        else:
            registry.unregister("b", registration_id)
        assert (await watcher.read_all()).providers == {"a": False}


async def test_why_there_is_none_is_said_in_words() -> None:
    registry = Registry()
    with WatchHub(registry).watch("w") as watch:
        watcher = Watcher(watch, ">=3")
        reasons = [(await watcher.read_all()).reason]
        add(registry, "a")
        reasons.append((await watcher.read_all()).reason)
        add(registry, "b", "3.0.0")
        assert (await watcher.read_all()).reason == ""
        registry.report_health("b", UNHEALTHY)
        reasons.append((await watcher.read_all()).reason)
        add(registry, "c", "3.1.0")
        registry.drain("c", "an upgrade")
        reasons.append((await watcher.read_all()).reason)
        registry.drain("b", "an upgrade")
        reasons.append((await watcher.read_all()).reason)
        assert reasons == [
            "nobody provides t",
            "1.0.0 is there and >=3 is required",
            "it is unhealthy",
            "all 2 providers are unhealthy or drained",
            "all 2 providers are drained",
        ]
        registry.undrain("c")
        assert (await watcher.read_all()).providers == {"c": False}


async def test_changes_that_are_undone_before_they_are_read_are_not_told() -> None:
    registry = Registry()
    add(registry, "a")
    with WatchHub(registry).watch("w") as watch:
        watcher = await Watcher(watch).read_all()
        for number in range(100):
            registry.report_health("a", (UNHEALTHY, HEALTHY)[number % 2])
            add(registry, f"p-{number}")
            registry.remove_plugin(f"p-{number}")
        before = watcher.updates
        assert (await watcher.read_all()).updates == before


async def test_a_watcher_that_does_not_read_holds_few_ids_and_nothing_of_registrations_that_are_gone() -> (
    None
):
    registry = Registry()
    with WatchHub(registry).watch("w") as watch:
        watcher = await Watcher(watch).read_all()
        for number in range(1000):
            add(registry, f"p-{number}", k="v" * 4000)
            if number >= 30:
                registry.remove_plugin(f"p-{number - 30}")
        assert len(view_of(watch)._unsent) <= 2 * MAX_PROVIDERS
        for number in range(970, 1000):
            registry.remove_plugin(f"p-{number}")
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, Registration)]
        assert (await watcher.read_all()).providers == {}


async def test_updates_stay_small_and_the_last_piece_says_that_all_is_told() -> None:
    registry = Registry()
    for number in range(20):
        add(registry, f"p-{number}", k="v" * 1000)
    with WatchHub(registry).watch("w") as watch:
        watch.subscribe("t", max_providers=20)
        pieces: list[ProviderNews] = []
        while not pieces or not pieces[-1].complete:
            pieces.append((await anext(watch)).providers["t"])
        assert [len(piece.changed) for piece in pieces] == [3, 3, 3, 3, 3, 3, 2]
        assert [piece.complete for piece in pieces] == [False] * 6 + [True]


async def test_a_watcher_is_told_of_the_end_of_each_provider_however_many_came_and_went() -> None:
    registry = Registry()
    stays = [f"s-{number}" for number in range(MAX_PROVIDERS - 1)]
    for name in stays:
        add(registry, name)
    hub = WatchHub(registry)
    with hub.watch("w") as watch:
        watcher = await Watcher(watch).read_all()
        for number in range(100):
            add(registry, f"p-{number}")
            await watcher.read_all()
            registry.remove_plugin(f"p-{number}")
            await watcher.read_all()
        assert len(hub.told_of) <= 2 * MAX_PROVIDERS + 1
        for name in stays:
            registry.cancel_calls(name)
        assert set((await anext(watch)).gone) == set(stays)
    assert not hub.told_of
    assert not hub._services
    assert not hub._places.total
    assert not hub.range_bytes.total


async def test_who_stops_waiting_for_room_for_a_large_provider_is_told_when_it_reads_again(
    autojump_clock: object,
) -> None:
    registry = Registry(limits=Limits(max_metadata_bytes_per_plugin=2**21))
    add(registry, "large", **{f"k{number}": "v" * 4000 for number in range(100)})
    hub = WatchHub(registry)
    with ExitStack() as stack:
        holding = [stack.enter_context(hub.watch(f"holding-{number}")) for number in range(4)]
        for watch in holding:
            watch.subscribe("t", max_providers=20)
            await anext(watch)
        waiting = stack.enter_context(hub.watch("waiting"))
        waiting.subscribe("t", max_providers=20)
        with trio.move_on_after(0.01) as stopped:
            await anext(waiting)
        assert stopped.cancelled_caught
        registry.report_health("large", DEGRADED)
        for watch in holding:
            watch.end()
        ((registration, is_degraded),) = (await anext(waiting)).providers["t"].changed
        assert (registration.runtime_id, is_degraded) == ("large", True)
    assert not hub.budget._shares.total


# Many providers and many watchers


def fleet(registry: Registry, stack: ExitStack, providers: int, watchers: int) -> list[Watcher]:
    for number in range(providers):
        add(registry, f"p-{number}")
    hub = WatchHub(registry, limits=Limits(max_watched_providers=10**6))
    return [Watcher(stack.enter_context(hub.watch(f"w-{number}"))) for number in range(watchers)]


def chosen(watcher: Watcher) -> set[str]:
    watcher.watch.look()
    return set(view_of(watcher.watch)._chosen())


def test_each_watcher_of_many_providers_has_twenty_and_each_provider_its_part_of_the_watchers() -> None:
    with ExitStack() as stack:
        watchers = fleet(Registry(), stack, 100, 500)
        counts = Counter(name for watcher in watchers for name in chosen(watcher))
        assert {len(chosen(watcher)) for watcher in watchers} == {MAX_PROVIDERS}
        assert 60 < min(counts.values()) <= max(counts.values()) < 145  # 100, and 5 standard deviations


def test_a_provider_that_comes_or_goes_moves_hardly_anything_and_makes_nobody_look_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry()
    looks: list[int] = []
    with ExitStack() as stack:
        watchers = fleet(registry, stack, 200, 50)
        before = [chosen(watcher) for watcher in watchers]
        everyone = Candidates.callable

        def counted(candidates: Candidates) -> Iterator[tuple[str, ProviderState]]:
            looks.append(1)
            return everyone(candidates)

        monkeypatch.setattr(Candidates, "callable", counted)
        for number in range(10):
            registry.remove_plugin(f"p-{number}")
            add(registry, f"new-{number}")
        after = [chosen(watcher) for watcher in watchers]
        moved = [len(a - b) for a, b in zip(after, before, strict=True)]
        assert sum(moved) / len(moved) < 4  # 10 of 200 went and 10 came: 1 and 1 of 20
        assert len(looks) == 0


def test_healthy_providers_come_before_degraded_ones() -> None:
    registry = Registry()
    with ExitStack() as stack:
        (watcher,) = fleet(registry, stack, 60, 1)
        for name in chosen(watcher):
            registry.report_health(name, DEGRADED)
        mine = chosen(watcher)
        assert len(mine) == MAX_PROVIDERS
        assert all(registry.health(name).state is not HealthState.DEGRADED for name in mine)


def test_a_change_costs_each_watcher_one_look_at_one_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    with ExitStack() as stack:
        watchers = fleet(registry, stack, 20, 100)
        states: list[str] = []
        state = WatchedService._state

        def counted(service: WatchedService, registration: Registration, weight: int) -> ProviderState:
            states.append(registration.runtime_id)
            return state(service, registration, weight)

        monkeypatch.setattr(WatchedService, "_state", counted)
        registry.report_health("p-7", DEGRADED)
        assert states == ["p-7"]  # once for all watchers
        assert all(chosen(watcher) for watcher in watchers)


# Strangers


def test_a_range_that_nobody_can_read_is_refused_and_changes_nothing() -> None:
    hub = WatchHub(Registry())
    with hub.watch("w") as watch:
        for bad in ("two", "x" * 2**20):
            with pytest.raises(InvalidError):
                watch.subscribe("t", "", bad, 20)
        assert not hub._services
        assert len(watch) == hub.subscriptions.total == 0


def test_what_ranges_and_wishes_take_is_bounded_over_all_watches() -> None:
    hub = WatchHub(Registry(), limits=Limits(max_version_range_bytes=20_000, max_watched_providers=100))
    with hub.watch("w") as watch, pytest.raises(LimitError, match="bytes of version ranges"):
        for number in range(10_000):
            watch.subscribe(f"t-{number}", "", f"=={number}.*", 2**32 - 1)
    with hub.watch("w") as watch:
        for number in range(50):
            watch.subscribe(f"t-{number}", "", "", 2**32 - 1)
        assert hub._places.total <= 100
        assert len(watch) == 50  # who finds no place gets one provider
    assert not hub._places.total


# Any history


steps = st.lists(
    st.tuples(
        st.sampled_from(("add1", "add2", "remove", "degrade", "sick", "well", "drain", "undrain", "read")),
        st.integers(0, 60),
    ),
    max_size=120,
)


@given(steps, st.integers(0, 60))
@settings(max_examples=150)
def test_after_any_history_a_watcher_knows_those_that_get_calls(
    history: list[tuple[str, int]], already: int
) -> None:
    async def run() -> None:
        registry = Registry()
        for number in range(already):
            add(registry, f"p-{number}")
        hub = WatchHub(registry)
        with hub.watch("w") as one, hub.watch("x") as other:
            watchers = {Watcher(one): Requirement(), Watcher(other, "~=1.0"): Requirement.parse("", "~=1.0")}
            for what, number in history:
                take(registry, what, f"p-{number}")
                if what == "read":
                    for watcher in watchers:
                        await watcher.read_all()
            for watcher, requirement in watchers.items():
                await watcher.read_all()
                good = registry._good("t", requirement)
                expected = {
                    r.runtime_id: registry.health(r.runtime_id).state is HealthState.DEGRADED for r in good
                }
                assert watcher.is_complete
                assert watcher.providers.items() <= expected.items()
                assert len(watcher.providers) == min(MAX_PROVIDERS, len(expected))
                assert bool(watcher.reason) is not bool(expected)
                if not all(expected.values()) and any(watcher.providers.values()):
                    assert sum(not bad for bad in expected.values()) < MAX_PROVIDERS

    trio.run(run)


def take(registry: Registry, what: str, name: str) -> None:
    if what in {"add1", "add2"}:
        add(registry, name, f"{what[-1]}.0.0")
    elif what == "remove":
        registry.remove_plugin(name)
    elif what == "drain":
        registry.drain(name, "a test")
    elif what == "undrain":
        registry.undrain(name)
    elif what != "read":
        registry.report_health(name, {"degrade": DEGRADED, "sick": UNHEALTHY, "well": HEALTHY}[what])
