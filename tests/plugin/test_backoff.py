"""The waits between tries: longer each time, up to a bound, and different for each plugin."""

from __future__ import annotations

from itertools import islice

import pytest

from cpg_trio.plugin._backoff import FIRST_S, LONGEST_S, backoff


@pytest.mark.parametrize(
    ("bound", "longest"), [(LONGEST_S, LONGEST_S), (0.5, 0.5), (0.01, 0.01), (60.0, LONGEST_S)]
)
def test_waits_double_up_to_the_bound_and_are_cut_by_up_to_half(bound: float, longest: float) -> None:
    for index, wait in enumerate(islice(backoff(bound), 50)):
        whole = min(FIRST_S * 2**index, longest)
        assert whole / 2 <= wait <= whole


def test_no_two_plugins_wait_alike() -> None:
    assert len({next(backoff()) for _ in range(50)}) == 50
