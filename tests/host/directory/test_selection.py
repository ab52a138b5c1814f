"""The selection of a provider, apart from the registry."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from cpg_trio.calls.outcome import Outcome
from cpg_trio.host.directory.registration import Registration
from cpg_trio.host.directory.selection import Selection, Selector


def good() -> list[Registration]:
    return [Registration(f"reg-{n}", f"p-{n}", "t", "1.0.0", "/", {}, sequence=n) for n in range(1, 4)]


def test_whose_turn_it_is_is_forgotten_with_the_service_type() -> None:
    selector = Selector({}, Selection.ROUND_ROBIN, lambda _: 0, random.Random(1))
    first, second, _ = providers = good()
    for asker in ("discover", "watch"):
        assert selector.choose(asker, "t", providers) is first
    selector.forget("t")
    for asker in ("discover", "watch"):
        assert selector.choose(asker, "t", providers) is first
        assert selector.choose(asker, "t", providers) is second


def test_the_least_loaded_is_chosen_by_calls_in_flight_and_by_latency() -> None:
    busy = {"p-1": 0, "p-2": 0, "p-3": 3}
    selector = Selector({}, Selection.LEAST_LOADED, busy.__getitem__, random.Random(1), lambda: 100.0)
    providers = good()
    slow = providers[1]
    for provider in providers:
        for _ in range(2):
            provider.load.begin(100)
            provider.load.end(Outcome.SUCCESS, 0.2 if provider is slow else 0.01, 100)
    chosen = Counter(selector.choose("discover", "t", providers).runtime_id for _ in range(1000))
    assert chosen["p-1"] > 600
    assert chosen["p-2"] < 100
    assert chosen["p-3"] < 400


def test_a_call_goes_to_the_least_loaded_where_its_type_has_no_strategy() -> None:
    selector = Selector({"u": Selection.FIRST}, Selection.FIRST, lambda _: 0, random.Random(1))
    providers = good()
    assert {selector.choose("discover", "t", providers) for _ in range(99)} == {providers[0]}
    assert {selector.choose("call", "u", providers) for _ in range(99)} == {providers[0]}
    assert {selector.choose("call", "t", providers) for _ in range(99)} == set(providers)


def test_weighted_is_the_former_name_of_least_loaded() -> None:
    assert Selection("weighted") is Selection.WEIGHTED is Selection("least-loaded")
    with pytest.raises(ValueError, match="heaviest"):
        Selection("heaviest")
