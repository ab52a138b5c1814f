"""What the fuzzer looks for holds for what it begins with, and for a little of what it might come up with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings, strategies as st

from tests.fuzz.costs import end_readers, traced
from tests.fuzz.targets import TARGETS
from tests.http.mutations import mutations

COSTS = "costs"
# The others have tests of their own, in tests/http and tests/host.
PARSERS = sorted(set(TARGETS) - {"request", "response", "relay", COSTS})


@pytest.fixture(autouse=True, scope="module")
def _end_readers() -> Iterator[None]:
    """Leave no thread behind, which would disturb tests that come later: it takes random numbers, too."""
    yield
    end_readers()


@pytest.mark.parametrize("name", PARSERS)
def test_the_property_holds_for_the_seeds(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].check(seed)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60)
@given(data=st.data())
def test_the_property_holds_for_what_is_like_them(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    target.check(data.draw(st.one_of(mutations(target.seeds), st.binary(max_size=200))))


def test_no_seed_costs_more_than_its_size_allows() -> None:
    with traced():
        for seed in TARGETS[COSTS].seeds:
            TARGETS[COSTS].check(seed)


def test_nothing_that_is_like_them_costs_more_than_its_size_allows() -> None:
    @settings(max_examples=30)
    @given(data=mutations(TARGETS[COSTS].seeds))
    def check(data: bytes) -> None:
        TARGETS[COSTS].check(data)

    with traced():
        check()
