"""The registry: what discovery returns is registered, compatible and healthy enough, and whose turn it is."""

from __future__ import annotations

import math
import random
import re
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from cpg_trio import HealthState, wire
from cpg_trio.host.directory.registration import (
    Change,
    ChangeKind,
    Health,
    NoProviderError,
    Registration,
    UnknownRegistrationError,
)
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.selection import Selection
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.versions import Requirement
from tests.host.directory.held_call import HeldCall

UNHEALTHY = Health(HealthState.UNHEALTHY)
DEGRADED = Health(HealthState.DEGRADED)
HEALTHY = Health(HealthState.HEALTHY)


def add(registry: Registry, runtime_id: str, service_type: str = "t", version: str = "1.0.0") -> Registration:
    return registry.register(runtime_id, service_type, version, "/x/", {"base_url": "http://h:1"})


def changes_of(registry: Registry) -> list[tuple[ChangeKind, str]]:
    """Return a list that gets the kind and the service type of each change from now on."""
    changes: list[tuple[ChangeKind, str]] = []
    registry.changes.add(lambda change: changes.append((change.kind, change.registration.service_type)))
    return changes


def discovered(registry: Registry, times: int = 1, min_version: str = "") -> list[str]:
    return [registry.discover("t", Requirement.parse(min_version))[0].runtime_id for _ in range(times)]


def test_a_registration_id_is_reg_and_16_hex_digits() -> None:
    assert re.fullmatch(r"reg-[0-9a-f]{16}", add(Registry(), "a").id)


def test_what_is_registered_is_discovered_at_a_relative_url() -> None:
    registry = Registry()
    registration = add(registry, "a-1")
    found, single = registry.discover("t")
    assert found is registration
    assert single
    assert found.endpoint_url == "/services/t/a-1"
    assert found.base_url == "http://h:1"


def test_a_bad_registration_changes_nothing() -> None:
    registry = Registry()
    heard: list[Change] = []
    registry.changes.add(heard.append)
    with pytest.raises(wire.InvalidError):
        registry.register("a", "t", "v1", "/x/", {})
    assert heard == []
    assert registry.service_types() == []


def test_nobody_is_offered_in_the_protocols_words() -> None:
    registry = Registry()
    with pytest.raises(NoProviderError, match=re.escape('no providers for service "t"')):
        registry.discover("t")
    add(registry, "a", version="1.2.0")
    with pytest.raises(
        NoProviderError, match=re.escape('no compatible providers for service "t" (min version: 9.0.0)')
    ):
        registry.discover("t", Requirement("9.0.0"))
    registry.report_health("a", UNHEALTHY)
    with pytest.raises(
        NoProviderError, match=re.escape('no available providers for service "t" (all unhealthy)')
    ):
        registry.discover("t")


def test_of_several_major_versions_that_are_there_a_range_gets_its_own() -> None:
    registry = Registry()
    for version in ("1.0.0", "1.5.0", "2.0.0", "3.0.0-rc.1"):
        add(registry, f"p-{version}", version=version)
    for version_range, found in (("<1.2", "p-1.0.0"), (">=1.2,<2", "p-1.5.0"), ("~=2.0", "p-2.0.0")):
        requirement = Requirement.parse("", version_range)
        assert registry.discover("t", requirement)[0].runtime_id == found
        assert registry.status("t", None, requirement).provider is registry.provider("t", found)


def test_who_requires_a_range_that_nobody_is_in_is_told_which_versions_there_are() -> None:
    registry = Registry()
    for number in range(5):
        add(registry, f"p-{number}", version=f"1.{number}.0")
    there = "(1.4.0, 1.3.0, 1.2.0 and 2 more are there and >=3.0.0,<4 is required)"
    with pytest.raises(NoProviderError, match=re.escape(there)):
        registry.discover("t", Requirement.parse("3.0.0", "<4"))
    for number in range(1, 5):
        registry.remove_plugin(f"p-{number}")
    with pytest.raises(NoProviderError, match=re.escape("(1.0.0 is there and >=3 is required)")):
        registry.discover("t", Requirement.parse("", ">=3"))


def test_what_is_kept_for_requirements_is_bounded_and_stays_right() -> None:
    registry = Registry()
    for number in range(20):
        add(registry, f"p-{number}", version=f"1.{number}.0")
    ranges = [Requirement.parse("", f"==1.{number}") for number in range(20)]
    for _ in range(2):
        for number, requirement in enumerate(ranges):
            assert registry.discover("t", requirement)[0].runtime_id == f"p-{number}"
    assert len(registry._by_type["t"]._callable) <= 8
    registry.report_health("p-19", UNHEALTHY)
    with pytest.raises(NoProviderError):
        registry.discover("t", ranges[19])


def test_versions_are_compared_as_numbers() -> None:
    registry = Registry()
    add(registry, "a", version="1.10.0")
    assert discovered(registry, min_version="1.2.0") == ["a"]
    assert discovered(registry, min_version="1.9.0") == ["a"]


def test_a_degraded_or_silent_provider_is_offered_and_an_unhealthy_one_is_not() -> None:
    registry = Registry()
    for name in ("silent", "degraded", "unhealthy"):
        add(registry, name)
    registry.report_health("degraded", DEGRADED)
    registry.report_health("unhealthy", UNHEALTHY)
    rotating = {
        registry.status("t", registry.provider("t", name)).provider for name in ("silent", "degraded")
    }
    assert {r.runtime_id for r in rotating if r} == {"silent", "degraded"}
    status = registry.status("t", registry.provider("t", "unhealthy"))
    assert status.provider
    assert status.provider.runtime_id == "silent"


def test_single_provider_counts_those_that_could_have_been_chosen() -> None:
    registry = Registry()
    add(registry, "old", version="1.0.0")
    add(registry, "new", version="2.0.0")
    add(registry, "sick", version="2.0.0")
    registry.report_health("sick", UNHEALTHY)
    assert registry.discover("t")[1] is False
    assert registry.discover("t", Requirement("2.0.0"))[1] is True


def test_several_services_of_a_plugin_are_told_apart() -> None:
    registry = Registry()
    p, q = add(registry, "m", "p"), add(registry, "m", "q")
    for _ in range(40):
        assert registry.provider("p", "m") is p
        assert registry.provider("q", "m") is q
    assert registry.provider("r", "m") is None


def test_a_second_registration_of_a_type_replaces_the_first() -> None:
    registry = Registry()
    first = add(registry, "a", version="1.0.0")
    second = add(registry, "a", version="2.0.0")
    assert registry.discover("t") == (second, True)
    with pytest.raises(UnknownRegistrationError):
        registry.unregister("a", first.id)


def test_what_is_restored_takes_its_old_place_and_that_of_what_replaced_it() -> None:
    registry = Registry()
    first = add(registry, "a")
    add(registry, "b")
    add(registry, "a", version="2.0.0")
    assert discovered(registry) == ["b"]
    registry.restore(first)
    assert registry.discover("t") == (first, False)
    assert len(registry.registrations("a")) == 1
    assert add(registry, "c").sequence == 4


def test_the_next_registration_comes_after_all_that_are_restored() -> None:
    registry = Registry()
    registry.restore(Registration("reg-0", "a", "t", "1.0.0", "/", {}, sequence=7))
    registry.restore(Registration("reg-1", "b", "t", "1.0.0", "/", {}, sequence=3))
    assert add(registry, "c").sequence == 8
    assert [r.runtime_id for r in registry.providers("t")] == ["b", "a", "c"]


def test_one_that_has_lapsed_is_unhealthy_for_the_reason_that_was_given() -> None:
    registry = Registry()
    registry.set_lapsed("a", "not heard of")
    add(registry, "a")
    assert registry.has_lapsed("a")
    assert registry.health("a") == Health(HealthState.UNHEALTHY, "not heard of")
    registry.set_lapsed("a", "")
    assert not registry.has_lapsed("a")
    assert registry.available("t")


def test_a_plugin_unregisters_only_what_is_its_own() -> None:
    registry = Registry()
    registration = add(registry, "victim")
    with pytest.raises(UnknownRegistrationError, match=f"registration not found: {registration.id}"):
        registry.unregister("attacker", registration.id)
    assert discovered(registry) == ["victim"]
    registry.unregister("victim", registration.id)
    with pytest.raises(NoProviderError):
        registry.discover("t")


def test_the_names_of_the_providers_of_a_type_are_those_of_plugins_that_provide_it_now() -> None:
    registry = Registry(name_of=lambda runtime_id: runtime_id.partition("-")[0])
    first, second, other = add(registry, "p-1"), add(registry, "p-2"), add(registry, "q-1")
    assert registry.provider_names("t") == {"p", "q"}
    registry.unregister("p-1", first.id)
    registry.unregister("q-1", other.id)
    assert registry.provider_names("t") == {"p"}
    registry.unregister("p-2", second.id)
    assert not registry.provider_names("t")


def test_what_is_at_a_place_is_what_is_registered_there_now() -> None:
    registry = Registry()
    first, second = add(registry, "a"), add(registry, "b")
    assert set(registry.at_place_of(first)) == {first, second}
    registry.unregister("b", second.id)
    assert set(registry.at_place_of(first)) == {first}
    nowhere = registry.register("c", "t", "1.0.0", "/", {})
    assert not registry.at_place_of(nowhere)
    registry.unregister("a", first.id)
    assert registry.providers("t") == [nowhere]
    assert not registry._by_type["t"]._at


def test_the_callable_providers_are_kept_for_a_few_minimum_versions() -> None:
    registry = Registry()
    add(registry, "a", version="5.0.0")
    for number in range(15):  # where there are few providers, nothing is kept
        add(registry, f"b-{number}", version="5.0.0")
    for number in range(50):
        assert discovered(registry, min_version=f"{number % 5}.{number}.0") == ["a"]
        assert len(registry._by_type["t"]._callable) == min(8, number + 1)


def test_removing_a_plugin_removes_all_of_it_and_says_so() -> None:
    registry = Registry()
    add(registry, "m", "p")
    add(registry, "m", "q")
    add(registry, "n", "q")
    registry.report_health("m", UNHEALTHY)
    changes = changes_of(registry)
    registry.remove_plugin("m")
    assert changes == [(ChangeKind.UNREGISTERED, "p"), (ChangeKind.UNREGISTERED, "q")]
    assert registry.service_types() == ["q"]
    assert registry.health("m") == Health()


def test_a_health_report_is_told_once_for_each_type_and_only_if_it_differs() -> None:
    registry = Registry()
    add(registry, "m", "p")
    add(registry, "m", "q")
    changes = changes_of(registry)
    registry.report_health("m", DEGRADED)
    registry.report_health("m", DEGRADED)
    assert changes == [(ChangeKind.HEALTH, "p"), (ChangeKind.HEALTH, "q")]


def test_a_first_report_and_another_reason_change_nothing_for_who_counts_the_plugin_as_healthy() -> None:
    registry = Registry()
    add(registry, "m")
    changes = changes_of(registry)
    registry.report_health("m", HEALTHY)
    registry.report_health("m", Health(HealthState.HEALTHY, "fine"))
    assert changes == [(ChangeKind.REPORT, "t")] * 2
    registry.report_health("m", UNHEALTHY)
    registry.set_lapsed("m", "silent")
    assert changes[2:] == [(ChangeKind.HEALTH, "t"), (ChangeKind.REPORT, "t")]


def test_first_offers_the_one_that_registered_first() -> None:
    registry = Registry()
    for name in "abc":
        add(registry, name)
    assert discovered(registry, 3) == ["a", "a", "a"]


def test_round_robin_offers_each_in_turn_and_asking_otherwise_takes_no_turn() -> None:
    registry = Registry(selection={"t": Selection.ROUND_ROBIN})
    for name in "abc":
        add(registry, name)
    offered: list[str] = []
    for _ in range(6):
        assert registry.available("t")
        offered += discovered(registry)
    assert offered == list("abcabc")


def test_watchers_take_turns_of_their_own() -> None:
    registry = Registry(default_selection=Selection.ROUND_ROBIN)
    for name in "ab":
        add(registry, name)
    offered: list[str] = []
    watching: list[str] = []
    for _ in range(4):
        offered += discovered(registry)
        provider = registry.status("t").provider
        assert provider
        watching.append(provider.runtime_id)
    assert offered == watching == list("abab")


def test_round_robin_skips_nobody_when_providers_come_and_go() -> None:
    registry = Registry(default_selection=Selection.ROUND_ROBIN)
    for name in "abc":
        add(registry, name)
    assert discovered(registry) == ["a"]
    registry.report_health("b", UNHEALTHY)
    assert discovered(registry) == ["c"]
    registry.report_health("b", HEALTHY)
    add(registry, "d")
    assert discovered(registry, 4) == ["d", "a", "b", "c"]


def test_random_offers_everybody() -> None:
    registry = Registry(default_selection=Selection.RANDOM, rng=random.Random(1))
    for name in "abc":
        add(registry, name)
    assert set(discovered(registry, 100)) == {"a", "b", "c"}


def test_least_loaded_offers_the_busy_less_often() -> None:
    registry = Registry(default_selection=Selection.LEAST_LOADED, rng=random.Random(1))
    add(registry, "idle")
    add(registry, "busy").load.joined_at = -math.inf  # not new any more
    calls = [HeldCall() for _ in range(3)]
    for call in calls:
        registry.calls.begin("caller", "busy", call)
    assert registry.calls.count("busy") == 3
    shares = Counter(discovered(registry, 1000))
    for call in calls:
        registry.calls.end("caller", "busy", call)
    assert 900 < shares["idle"] < 980  # sixteen chances to one
    assert registry.calls.count("busy") == 0


def test_a_watcher_keeps_its_provider_until_that_gets_no_calls() -> None:
    registry = Registry(default_selection=Selection.ROUND_ROBIN)
    a, b = add(registry, "a"), add(registry, "b")
    status = registry.status("t", b)
    assert status.provider is b
    registry.report_health("b", DEGRADED)
    assert registry.status("t", b).state == pb.SERVICE_STATE_DEGRADED
    registry.report_health("b", UNHEALTHY)
    assert registry.status("t", b).provider is a
    registry.report_health("a", UNHEALTHY)
    assert registry.status("t", b).state == pb.SERVICE_STATE_UNAVAILABLE


_steps = st.lists(
    st.tuples(
        st.sampled_from(["register", "unregister", "remove", "sick", "well"]),
        st.sampled_from("abc"),
        st.sampled_from("pq"),
        st.sampled_from(["1.0.0", "1.10.0", "2.0.0"]),
    ),
    max_size=40,
)


@given(_steps, st.sampled_from(Selection))
def test_discovery_agrees_with_a_simple_model_after_any_history(
    steps: list[tuple[str, str, str, str]], selection: Selection
) -> None:
    registry = Registry(default_selection=selection, rng=random.Random(0))
    model: dict[tuple[str, str], Registration] = {}
    sick: set[str] = set()
    for step, plugin, service_type, version in steps:
        match step:
            case "register":
                model[service_type, plugin] = add(registry, plugin, service_type, version)
            case "unregister":
                if (mine := model.pop((service_type, plugin), None)) is not None:
                    registry.unregister(plugin, mine.id)
            case "remove":
                registry.remove_plugin(plugin)
                model = {key: value for key, value in model.items() if key[1] != plugin}
                sick.discard(plugin)
            case "sick" | "well":
                registry.report_health(plugin, UNHEALTHY if step == "sick" else HEALTHY)
                (sick.add if step == "sick" else sick.discard)(plugin)
        assert registry.callable_ids == {r.id for (_, p), r in model.items() if p not in sick}
        for asked in "pq":
            good = [r for (t, p), r in model.items() if t == asked and p not in sick]
            assert registry.available(asked) == bool(good)
            if good:
                found, single = registry.discover(asked)
                assert found in good
                assert single == (len(good) == 1)


@given(st.permutations(range(6)))
def test_registrations_of_several_hosts_are_in_the_same_order_at_each(order: list[int]) -> None:
    made = [
        Registration(f"reg-{number}", f"p-{number}", "t", "1.0.0", "/x/", {}, number // 3)
        for number in range(6)
    ]
    registry = Registry()
    for number in order:
        registry.add(made[number])
        assert registry.discover("t")[0] is min(
            (made[each] for each in order[: order.index(number) + 1]), key=lambda r: (r.sequence, r.id)
        )
    assert registry.providers("t") == made
    for number in order:
        registry.unregister(f"p-{number}", f"reg-{number}")
    assert not registry.provides("t")


def test_a_revision_that_is_that_of_a_store_grows_by_that_alone() -> None:
    registry = Registry()
    registry.counts_changes, registry.revision = False, 7
    add(registry, "a")
    assert registry.revision == 7
