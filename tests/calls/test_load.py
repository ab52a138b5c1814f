"""What a choice goes by: latency, calls in flight, failures, newness."""

from __future__ import annotations

import pytest

from cpg_trio.calls.load import SLOW_START_S, SMALLEST_SHARE, Load
from cpg_trio.calls.outcome import Outcome


def load_of(*latencies_s: float, every_s: float = 1.0, first_at: float = 0.0) -> Load:
    """Return what is known after calls that end one after the other, the last at `every_s * len(...)`."""
    load = Load()
    for at, latency_s in enumerate((latencies_s[0], *latencies_s)):
        now = first_at + at * every_s
        load.begin(now - latency_s)
        load.end(Outcome.SUCCESS, latency_s, now)
    return load


def test_the_first_call_does_not_count_as_it_had_to_connect() -> None:
    load = Load()
    load.begin(0)
    load.end(Outcome.SUCCESS, 5.0, 5)
    assert load.latency_s == 0
    load.begin(6)
    load.end(Outcome.SUCCESS, 0.01, 6.01)
    assert load.latency_s == 0.01


@pytest.mark.parametrize("every_s", [0.001, 0.5, 10])
def test_a_latency_that_changes_is_known_within_some_calls(every_s: float) -> None:
    steady = [0.01] * 10
    slow = load_of(*steady, *[0.2] * 20, every_s=every_s)
    assert slow.latency_s > 0.15
    fast = load_of(*[0.2] * 10, *[0.01] * 80, every_s=every_s)
    assert fast.latency_s < 0.02


@pytest.mark.parametrize("every_s", [0.001, 0.5, 10])
def test_one_slow_call_raises_the_latency_and_not_without_bound(every_s: float) -> None:
    paused = load_of(*[0.01] * 10, 3.0, every_s=every_s)
    assert 0.015 < paused.latency_s <= 0.0401


def test_the_latency_rises_faster_than_it_falls() -> None:
    up, down = load_of(0.01, 0.02, every_s=0.01), load_of(0.02, 0.01, every_s=0.01)
    assert up.latency_s - 0.01 > 2 * (0.02 - down.latency_s) > 0


def test_without_calls_the_latency_falls_so_that_a_slow_one_is_looked_at_again() -> None:
    slow, fast = load_of(0.2), load_of(0.01)
    ratios = [
        fast.weight(0, 1, by_latency=True) / slow.weight(0, 1 + idle, by_latency=True) for idle in (0, 40)
    ]
    assert ratios[0] > 300
    assert 1 < ratios[1] < 20


def test_a_call_without_an_answer_counts_once_it_takes_longer_than_usual() -> None:
    load = load_of(*[0.01] * 5)
    load.begin(10)
    usual = load.weight(1, 10.005, by_latency=True)
    assert load.weight(1, 10.5, by_latency=True) < usual / 1000
    load.answered(0.5, 10.5)  # a stream: it goes on, and is no stall
    load.begin(10.6)
    load.end(Outcome.SUCCESS, 0.01, 10.61)
    assert load.in_flight == 1
    assert load.weight(1, 1000, by_latency=True) > usual
    load.end(Outcome.SUCCESS, None, 2000)
    assert load.in_flight == 0


def test_a_cancelled_call_says_that_it_would_have_taken_no_less() -> None:
    load = load_of(*[0.01] * 5)
    before = load.latency_s
    load.begin(10)
    load.end(Outcome.NOTHING, 0.001, 10.001)
    assert load.latency_s == before
    load.begin(11)
    load.end(Outcome.NOTHING, 0.5, 11.5)
    assert load.latency_s > 3 * before


def test_failures_count_until_a_success_and_are_forgotten_in_time() -> None:
    load = load_of(*[0.01] * 5)
    well = load.weight(0, 6, by_latency=False)
    weights = []
    for at in range(6, 9):
        load.begin(at)
        load.end(Outcome.FAILURE, 0.0001, at)
        weights.append(load.weight(0, at, by_latency=False))
    assert well / 50 > weights[0] > weights[1] > weights[2] > 0
    assert load.latency_s == pytest.approx(0.01)  # that it failed fast does not make it fast
    assert load.weight(0, 400, by_latency=False) > well / 2
    load.begin(9)
    load.end(Outcome.SUCCESS, 0.01, 9.01)
    assert load.weight(0, 9.01, by_latency=False) == well


@pytest.mark.parametrize(
    ("age_s", "share"), [(0, SMALLEST_SHARE), (1, 0.2), (2.5, 0.5), (SLOW_START_S, 1), (99, 1)]
)
def test_the_share_of_a_new_provider_grows(age_s: float, share: float) -> None:
    new, old = Load(joined_at=100), Load()
    now = 100 + age_s
    assert new.weight(0, now, by_latency=False) == pytest.approx(share * old.weight(0, now, by_latency=False))


def test_the_weight_falls_with_the_square_of_the_calls_in_flight() -> None:
    load = Load()
    assert [round(1 / load.weight(calls, 0, by_latency=False)) for calls in range(4)] == [1, 4, 9, 16]
