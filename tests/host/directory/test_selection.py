"""The selection of a provider, apart from the registry."""

from __future__ import annotations

import random
from collections import Counter

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


def test_a_weighted_choice_has_the_same_chances_where_all_are_busy() -> None:
    busy = {"p-1": 999, "p-2": 1999, "p-3": 1999}
    selector = Selector({"t": Selection.WEIGHTED}, Selection.FIRST, busy.__getitem__, random.Random(1))
    providers = good()
    chosen = Counter(selector.choose("discover", "t", providers).runtime_id for _ in range(2000))
    assert 900 < chosen["p-1"] < 1100
    assert 400 < chosen["p-2"] < 600
