"""The providers of one service, as one caller sees them: who is there, who may be called, who is called next.

    update ──▶ members ──▶ whose breaker admits ──▶ not tried, not held off, not degraded ──▶ balancer ──▶ one

Synchronous and without I/O. A member that has left is not chosen any more; its calls in flight end with it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import Generic, TypeVar

import trio

from cpg_trio.calls.balancing import Balancer, balancer
from cpg_trio.calls.breaker import Breaker, BreakerChange, BreakerState, Ejections
from cpg_trio.calls.load import Load
from cpg_trio.calls.outcome import Outcome
from cpg_trio.calls.policy import CallPolicy

P = TypeVar("P")


class Member(Generic[P]):
    """A provider of the service. What it has is kept for as long as it is there."""

    __slots__ = (
        *("_clock", "breaker", "calls", "degraded", "failures", "held_until", "id", "load", "provider"),
        "sequence",
    )

    def __init__(
        self,
        member_id: str,
        sequence: int,
        provider: P,
        load: Load,
        breaker: Breaker,
        clock: Callable[[], float],
    ) -> None:
        self.id = member_id
        self.sequence = sequence
        self.provider = provider
        self.load = load
        self.breaker = breaker
        self.degraded = False
        """Whether it is called only while nobody else is there."""
        self.held_until: float = -inf
        """Until when it is called only while nobody else is there: see `Group.hold_off`."""
        self.calls: int = 0
        """Attempts that were sent to it."""
        self.failures: int = 0
        """Those that have failed by its fault."""
        self._clock = clock

    @property
    def in_flight(self) -> int:
        """Its calls that have begun and not ended."""
        return self.load.in_flight

    def begin(self) -> int:
        """Note that a call to it begins. Return a token for its `end`, which must follow, once."""
        self.calls += 1
        self.load.begin(self._clock())
        return self.breaker.begin()

    def answered(self, token: int, latency_s: float) -> None:
        """Note the first message of a call that goes on, as streams do: their end may be hours from now.

        At most once a call, whose `end` is given no latency then.
        """
        self.load.answered(latency_s, self._clock())
        self.breaker.answered(token)

    def end(self, token: int, outcome: Outcome, latency_s: float | None, why: str = "") -> None:
        """Note that a call has ended. A call that was cancelled ends with `Outcome.NOTHING`.

        `latency_s` counts until the first message, or until the end if there was none; None if `answered` was
        told it. `why` is a word for a failure, as the code of its error.
        """
        self.failures += outcome is Outcome.FAILURE
        self.load.end(outcome, latency_s, self._clock())
        self.breaker.end(token, outcome, why)


class Group(Generic[P]):
    """The members of a service. A provider `P` is whatever sends requests to it.

    `clock` returns seconds, `rng` decides where chance does.
    """

    def __init__(
        self,
        service_type: str,
        policy: CallPolicy,
        *,
        clock: Callable[[], float] = trio.current_time,
        rng: random.Random | None = None,
    ) -> None:
        self.service_type = service_type
        self._clock = clock
        self._balancer: Balancer[Member[P]] = balancer(policy.balance, rng or random.Random())  # noqa: S311 - spreads load
        self.ejections: Ejections = Ejections(policy.breaking, clock)
        """The breakers of the members."""
        self.ejections.changes.add(self._breaker_changed)
        self._by_id: dict[str, Member[P]] = {}  # in the order of the sequence numbers
        self._joined = 0
        self._has_degraded = False
        self._held_until = -inf  # the latest of all members

    @property
    def members(self) -> Collection[Member[P]]:
        """Those that are there, in the order in which they came."""
        return self._by_id.values()

    @property
    def available(self) -> bool:
        """Whether somebody may be called now."""
        return any(member.breaker.admits() for member in self._by_id.values())

    @property
    def admits_at(self) -> float | None:
        """The time at which somebody may be called; None if nobody is there."""
        return min((member.breaker.admits_at for member in self._by_id.values()), default=None)

    def update(self, providers: Mapping[str, P], degraded: Collection[str] = ()) -> None:
        """Take the providers that are there now, by their ids. One that stays keeps its numbers.

        The share of one that joins others grows for some seconds (slow start). If all are new, they start
        alike.
        """
        for gone in self._by_id.keys() - providers.keys():
            self.ejections.remove(self._by_id.pop(gone).breaker)
        joined_at = self._clock() if self._by_id else -inf
        for member_id, provider in providers.items():
            member = self._by_id.get(member_id)
            if member is None:
                self._by_id[member_id] = self._new(member_id, provider, joined_at)
            else:
                member.provider = provider
        for member in self._by_id.values():
            member.degraded = member.id in degraded
        self._has_degraded = any(member.degraded for member in self._by_id.values())

    def choose(self, key: str = "", tried: Collection[str] = ()) -> Member[P] | None:
        """Return who is called next; None if nobody may be called.

        `key` is what a consistent hash goes by. Members with ids in `tried` are avoided while another is
        there, and so are those that are held off, and those that are degraded.
        """
        if len(self._by_id) == 1:  # the usual case, so the short way
            (only,) = self._by_id.values()
            return only if only.breaker.admits() else None
        now = self._clock()
        candidates = [member for member in self._by_id.values() if member.breaker.admits()]
        if not candidates:
            return None
        if tried or self._has_degraded or now < self._held_until:
            candidates = _best(candidates, tried, now)
        return self._balancer.choose(candidates, key, now)

    def hold_off(self, member: Member[P], wait_s: float) -> None:
        """Avoid a member for a while, as it has asked for: it is there, and has no room."""
        member.held_until = self._clock() + wait_s
        self._held_until = max(self._held_until, member.held_until)

    def _new(self, member_id: str, provider: P, joined_at: float) -> Member[P]:
        self._joined += 1
        breaker = self.ejections.add(member_id)
        return Member(member_id, self._joined, provider, Load(joined_at), breaker, self._clock)

    def _breaker_changed(self, change: BreakerChange) -> None:
        """Have the share of a member grow slowly that gets calls again."""
        if change.state is BreakerState.CLOSED and (member := self._by_id.get(change.provider)) is not None:
            member.load.joined_at = self._clock()


def _best(candidates: list[Member[P]], tried: Collection[str], now: float) -> list[Member[P]]:
    """Return those with the fewest reasons to avoid them; a reason counts more than all that follow it."""
    reasons = [(member.id in tried, now < member.held_until, member.degraded) for member in candidates]
    fewest = min(reasons)
    return [member for member, against in zip(candidates, reasons, strict=True) if against == fewest]
