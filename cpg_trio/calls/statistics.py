"""What a dependency tells of its calls, to people who look into a plugin that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import trio

from cpg_trio.calls.breaker import BreakerState
from cpg_trio.calls.budget import RetryBudget
from cpg_trio.calls.concurrency import InFlight
from cpg_trio.calls.group import Group, Member


@attrs.define(slots=True)
class CallCounts:
    """What is counted of a dependency's calls. Written by whoever makes the calls."""

    calls: int = 0
    """Calls that have begun; one that is sent again is one."""
    failures: int = 0
    """Calls that have ended with an error, after all their attempts."""
    retries: int = 0
    """How often a call was sent again."""


@attrs.frozen(kw_only=True)
class ProviderStatistics:
    """One provider, as a caller sees it."""

    runtime_id: str
    calls: int
    """Attempts that were sent to it."""
    failures: int
    """Those that have failed by its fault."""
    in_flight: int
    latency_s: float | None
    """Its mean latency of late, in seconds; None if no call has ended."""
    state: BreakerState
    state_for_s: float
    """For how many seconds its breaker has been in its state; half-open counts from its call."""
    why: str
    """Why its breaker is open; empty if it is not."""


@attrs.frozen(kw_only=True)
class DependencyStatistics:
    """The calls of a dependency since the process began, and its providers now."""

    service_type: str
    calls: int
    """Calls that have begun; one that is sent again is one."""
    failures: int
    """Calls that have ended with an error, after all their attempts."""
    retries: int
    """How often a call was sent again."""
    retries_refused: int
    """How often it was not, as the retry budget was spent."""
    refused: int
    """Calls that were refused, as too many were in flight."""
    in_flight: int
    waiting: int
    """Calls that wait for one of those in flight to end."""
    ejections: int
    """How often a breaker has opened."""
    providers: tuple[ProviderStatistics, ...]


def statistics_of(
    group: Group[Any],
    counts: CallCounts,
    budget: RetryBudget,
    in_flight: InFlight,
    clock: Callable[[], float] = trio.current_time,
) -> DependencyStatistics:
    """Return what the parts of a dependency tell."""
    now = clock()
    return DependencyStatistics(
        service_type=group.service_type,
        calls=counts.calls,
        failures=counts.failures,
        retries=counts.retries,
        retries_refused=budget.refused,
        refused=in_flight.refused,
        in_flight=in_flight.in_flight,
        waiting=in_flight.waiting,
        ejections=group.ejections.openings,
        providers=tuple(_of_member(member, now) for member in group.members),
    )


def _of_member(member: Member[Any], now: float) -> ProviderStatistics:
    breaker = member.breaker
    return ProviderStatistics(
        runtime_id=member.id,
        calls=member.calls,
        failures=member.failures,
        in_flight=member.in_flight,
        latency_s=member.load.latency_s or None,
        state=breaker.state,
        state_for_s=now - breaker.since,
        why=breaker.why if breaker.is_out else "",
    )
