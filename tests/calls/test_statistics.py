"""What a dependency tells of its calls."""

from __future__ import annotations

import logging

import pytest
from trio.testing import MockClock

from cpg_trio.calls import BreakerState, CallCounts, CallPolicy, Concurrency, ProviderStatistics
from cpg_trio.calls.breaker import BreakerLog
from cpg_trio.calls.budget import RetryBudget
from cpg_trio.calls.concurrency import InFlight
from cpg_trio.calls.group import Group
from cpg_trio.calls.outcome import Outcome
from cpg_trio.calls.statistics import statistics_of


async def test_the_statistics_have_what_the_parts_count(mock_clock: MockClock) -> None:
    group: Group[str] = Group("storage", CallPolicy())
    counts = CallCounts(calls=7, failures=2, retries=3)
    budget, in_flight = RetryBudget(0.0), InFlight("storage", Concurrency())
    group.update({"storage-1": "one", "storage-2": "two"})
    one, two = group.members
    for _ in range(2):  # the latency of the first call says little: it has to connect
        one.end(one.begin(), Outcome.SUCCESS, 0.25)
    two.end(two.begin(), Outcome.FAILURE, 0.1, "unavailable")
    one.begin()
    budget.take()
    await in_flight.take()
    mock_clock.jump(4.0)

    statistics = statistics_of(group, counts, budget, in_flight)

    assert (statistics.service_type, statistics.calls, statistics.failures) == ("storage", 7, 2)
    assert (statistics.retries, statistics.retries_refused, statistics.refused) == (3, 1, 0)
    assert (statistics.in_flight, statistics.waiting, statistics.ejections) == (1, 0, 1)
    first, second = statistics.providers
    assert first == ProviderStatistics(
        runtime_id="storage-1",
        calls=3,
        failures=0,
        in_flight=1,
        latency_s=0.25,
        state=BreakerState.CLOSED,
        state_for_s=4.0,
        why="",
    )
    assert second.latency_s is None
    assert (second.calls, second.failures, second.in_flight) == (1, 1, 0)
    assert (second.state, second.state_for_s) == (BreakerState.OPEN, 4.0)
    assert second.why == "its first call has failed (unavailable)"


async def test_changes_of_breakers_are_in_the_log_and_the_same_again_only_once_in_a_while(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cpg_trio.calls")
    group: Group[str] = Group("storage", CallPolicy())
    group.ejections.changes.add(BreakerLog("api", "storage"))
    group.update({"storage-1": ""})
    (alone,) = group.members
    for _ in range(3):
        alone.end(alone.begin(), Outcome.FAILURE, 0.1, "unavailable")
    for _ in range(25):
        mock_clock.jump(1.0)
        alone.end(alone.begin(), Outcome.FAILURE, 0.1, "unavailable")
    mock_clock.jump(1.0)
    alone.end(alone.begin(), Outcome.SUCCESS, 0.1)

    out = "api: storage is not called at storage-1 for 1 s: "
    tried = out + "the call that tried it has failed (unavailable)"
    assert caplog.messages == [
        out + "3 failures in a row (unavailable)",
        tried,
        tried + " (and 9 more since the last time)",
        tried + " (and 9 more since the last time)",
        "api: storage is called at storage-1 again: it has answered",
    ]
