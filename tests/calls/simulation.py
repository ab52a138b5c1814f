"""Callers and providers in virtual time: which provider gets how many calls.

A simulation of events, not of tasks: it has a clock and a queue of what happens next, so that a thousand
seconds of calls take less than one.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count

import attrs

from cpg_trio.calls import CallPolicy
from cpg_trio.calls.group import Group
from cpg_trio.calls.outcome import Outcome

SUCCESS, FAILURE = Outcome.SUCCESS, Outcome.FAILURE


@attrs.define
class Replica:
    """A provider. Its calls take `latency_s` on average, from half of it to twice and more."""

    name: str
    latency_s: float = 0.005
    failing: bool = False
    """Whether each call fails, at once."""
    room: int = 1000
    """How many calls it works on at once; others wait."""
    busy: int = 0
    waiting: list[Callable[[], None]] = attrs.field(factory=list)


class World:
    """A clock, and what happens at which time."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.time = 1000.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()

    def clock(self) -> float:
        return self.time

    def after(self, wait_s: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.time + wait_s, next(self._order), what))

    def run(self, for_s: float) -> None:
        end = self.time + for_s
        while self._events and self._events[0][0] <= end:
            self.time, _, what = heapq.heappop(self._events)
            what()
        self.time = end


class Fleet:
    """Callers that each make `rate` calls a second to the same providers."""

    def __init__(
        self,
        callers: int,
        rate: float,
        replicas: Iterable[Replica],
        *,
        seed: int = 1,
        policy: CallPolicy | None = None,
    ) -> None:
        self.world = World(seed)
        self.replicas = {replica.name: replica for replica in replicas}
        self.calls: list[tuple[float, int, str]] = []
        """Each attempt: when, of which caller, to whom."""
        self._rate = rate
        self.groups = [
            Group[Replica](
                "t",
                policy or CallPolicy(),
                clock=self.world.clock,
                rng=random.Random(self.world.rng.random()),
            )
            for _ in range(callers)
        ]
        self.tell()
        for caller in range(callers):
            self.world.after(self._pause(), lambda caller=caller: self._call(caller))  # type: ignore[misc]

    def tell(self) -> None:
        """Tell all callers which providers there are."""
        for group in self.groups:
            group.update(self.replicas)

    def join(self, replica: Replica) -> None:
        self.replicas[replica.name] = replica
        self.tell()

    def run(self, for_s: float) -> Counter[str]:
        """Go on for so long; return how many calls each provider got in that time."""
        before = len(self.calls)
        self.world.run(for_s)
        return Counter(name for _, _, name in self.calls[before:])

    def by_caller(self) -> Iterator[list[str]]:
        """Yield whom each caller has called, in order."""
        for caller in range(len(self.groups)):
            yield [name for _, who, name in self.calls if who == caller]

    def _pause(self) -> float:
        return self.world.rng.expovariate(self._rate)

    def _call(self, caller: int) -> None:
        self.world.after(self._pause(), lambda: self._call(caller))
        self._attempt(caller, ())

    def _attempt(self, caller: int, tried: tuple[str, ...]) -> None:
        member = self.groups[caller].choose(tried=tried)
        if member is None:
            return
        self.calls.append((self.world.time, caller, member.id))
        token = member.begin()
        began, replica = self.world.time, member.provider

        def start() -> None:
            replica.busy += 1
            takes = replica.latency_s * self.world.rng.lognormvariate(-0.1, 0.45)
            self.world.after(0.0002 if replica.failing else takes, end)

        def end() -> None:
            replica.busy -= 1
            if replica.waiting:
                replica.waiting.pop(0)()
            member.end(token, FAILURE if replica.failing else SUCCESS, self.world.time - began)
            if replica.failing and not tried:
                self._attempt(caller, (member.id,))

        if replica.busy < replica.room:
            start()
        else:
            replica.waiting.append(start)


def share(calls: Counter[str], name: str) -> float:
    return calls[name] / calls.total()
