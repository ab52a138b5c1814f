"""Retries are a share of the calls, whatever happens, and whoever makes them."""

from __future__ import annotations

import random

import pytest

from cpg_trio.calls.budget import RetryBudget


class Clock:
    def __init__(self) -> None:
        self.now = 5_000.0

    def __call__(self) -> float:
        return self.now


def takes(budget: RetryBudget, most: int = 10_000) -> int:
    """Return how many retries a budget has at this moment."""
    return next((taken for taken in range(most) if not budget.take()), most)


@pytest.mark.parametrize(
    ("share", "calls", "retries"),
    [
        (0.2, 0, 3),  # the floor: a caller that begins
        (0.2, 10, 3),  # half of the share
        (0.2, 100, 10),
        (1.0, 100, 50),
        (0.0, 100, 0),
    ],
)
def test_what_a_budget_has(share: float, calls: int, retries: int) -> None:
    budget = RetryBudget(share, Clock())
    for _ in range(calls):
        budget.note_call()
    assert takes(budget) == retries
    assert budget.refused == 1


def test_the_reserve_is_that_of_the_last_ten_seconds() -> None:
    clock = Clock()
    budget = RetryBudget(0.2, clock)
    for _ in range(600):
        budget.note_call()
        clock.now += 0.1
    assert 8 <= takes(budget) <= 10


def test_the_reserve_is_forgotten_and_the_floor_comes_back() -> None:
    clock = Clock()
    budget = RetryBudget(0.2, clock)
    for _ in range(1_000):
        budget.note_call()
    clock.now += 100
    assert takes(budget) == 3
    assert takes(budget) == 0
    clock.now += 12
    assert 1 <= takes(budget) <= 3


@pytest.mark.parametrize(("consumers", "rate"), [(30, 200.0), (30, 600.0), (1, 200.0), (40, 200.0)])
def test_an_outage_multiplies_the_load_by_the_budget_at_most(consumers: int, rate: float) -> None:
    """All calls fail from a moment on, after quiet times; each would be sent three times."""
    clock, rng = Clock(), random.Random(7)
    budgets = [RetryBudget(0.2, clock) for _ in range(consumers)]
    offered = load = 0
    outage_at = clock.now + 30
    for _ in range(int(rate * 90)):
        clock.now += rng.expovariate(rate)
        budget = rng.choice(budgets)
        budget.note_call()
        if clock.now < outage_at:
            continue
        offered += 1
        load += 1
        load += budget.take() and 1 + budget.take()
        if clock.now > outage_at + 10:  # at each moment from then on, and not only at the end
            assert load <= 1.2 * offered
    assert load > 1.05 * offered, "the budget is used"


def test_a_provider_that_is_lost_fails_many_calls_at_once_and_all_are_sent_again() -> None:
    clock = Clock()
    budget = RetryBudget(0.2, clock)
    for _ in range(7 * 60):  # a caller of seven calls a second
        budget.note_call()
        clock.now += 1 / 7
    assert takes(budget, most=6) == 6
