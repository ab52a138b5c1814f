"""Which of the callable providers of a service gets a call: one balancer for each way to choose, by name.

A balancer chooses among the providers that it is given, and keeps no list of them: who may be called is for
`Group`, or for a host's directory, to say.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import ceil
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from cpg_trio.calls.load import Load

_LEAST_BOUND = 16  # calls in flight of a member that are not too many for a hash, however few the others have
_BOUND = 2.0  # calls in flight of a member that are not too many for a hash, as a multiple of the mean


class Candidate(Protocol):
    """A provider that may be called."""

    @property
    def id(self) -> str:
        """Its name, the same for all callers."""

    @property
    def sequence(self) -> int:
        """Grows with each one that joins."""

    @property
    def load(self) -> Load:
        """What is known of it."""


C = TypeVar("C", bound=Candidate)
C_contra = TypeVar("C_contra", bound=Candidate, contravariant=True)

_by_sequence = attrgetter("sequence")
_in_flight = attrgetter("load.in_flight")


class Balancer(Protocol[C]):
    """A way to choose."""

    def choose(self, candidates: Sequence[C], key: str, now: float, /) -> C:
        """Choose one of at least one, which are in the order of their sequence numbers."""


class LeastLoaded(Generic[C]):
    """The less loaded of two that are drawn (power of two choices), most of the time: see `Load.weight`.

    `in_flight` returns how many calls one is busy with.
    """

    def __init__(self, rng: random.Random, in_flight: Callable[[C], int] = _in_flight) -> None:
        self._random = rng.random
        self._in_flight = in_flight

    def choose(self, candidates: Sequence[C], _key: str, now: float, /) -> C:
        """See `Balancer`."""
        count = len(candidates)
        if count == 1:
            return candidates[0]
        first, second = (0, 1) if count == 2 else self._draw_two(count)  # noqa: PLR2004 - one pair
        one, other = candidates[first], candidates[second]
        a, b = one.load, other.load
        by_latency = a.latency_s > 0 and b.latency_s > 0
        weight = a.weight(self._in_flight(one), now, by_latency=by_latency)
        against = b.weight(self._in_flight(other), now, by_latency=by_latency)
        return one if self._random() * (weight + against) < weight else other

    def _draw_two(self, count: int) -> tuple[int, int]:
        first, second = int(self._random() * count), int(self._random() * (count - 1))
        return first, second + (second >= first)


class First(Generic[C]):
    """The one that joined first."""

    def choose(self, candidates: Sequence[C], _key: str, _now: float, /) -> C:
        """See `Balancer`."""
        return candidates[0]


class RoundRobin(Generic[C]):
    """Each in turn, in the order in which they joined."""

    def __init__(self) -> None:
        self._last = 0  # the sequence number of the one that was chosen last

    def choose(self, candidates: Sequence[C], _key: str, _now: float, /) -> C:
        """See `Balancer`."""
        # By sequence number and not by index: they come and go, and none is skipped.
        after = bisect_right(candidates, self._last, key=_by_sequence)
        chosen = candidates[after] if after < len(candidates) else candidates[0]
        self._last = chosen.sequence
        return chosen


class Random(Generic[C]):
    """Any, with equal chances."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random

    def choose(self, candidates: Sequence[C], _key: str, _now: float, /) -> C:
        """See `Balancer`."""
        return candidates[int(self._random() * len(candidates))]


class ConsistentHash(Generic[C]):
    """The same one for the same key, for all callers (rendezvous hashing). Without a key the least loaded.

    When one of N joins or leaves, 1/N of the keys move. A key whose member has far more calls in flight than
    the others goes to the next one for that time (consistent hashing with bounded loads).
    """

    def __init__(self, rng: random.Random) -> None:
        self._without_key = LeastLoaded[C](rng)

    def choose(self, candidates: Sequence[C], key: str, now: float, /) -> C:
        """See `Balancer`."""
        if not key:
            return self._without_key.choose(candidates, key, now)
        chosen = max(candidates, key=lambda candidate: rendezvous(key, candidate.id))
        if chosen.load.in_flight < _LEAST_BOUND:
            return chosen
        in_flight = sum(candidate.load.in_flight for candidate in candidates)
        bound = max(_LEAST_BOUND, ceil(_BOUND * (in_flight + 1) / len(candidates)))
        free = [candidate for candidate in candidates if candidate.load.in_flight < bound]
        return max(free, key=lambda candidate: rendezvous(key, candidate.id))


def rendezvous(key: str, candidate: str) -> bytes:
    """Return the rank of a candidate for a key: the one with the highest has it.

    The same in all processes. Ids and keys are separated, as both are of any length.
    """
    return blake2b(key.encode("utf-8", "surrogatepass"), key=_hash_key(candidate), digest_size=8).digest()


def _hash_key(candidate: str) -> bytes:
    name = candidate.encode("utf-8", "surrogatepass")
    return name if len(name) <= 64 else blake2b(name).digest()  # noqa: PLR2004 - the longest key of BLAKE2b


BALANCERS = ("least-loaded", "first", "round-robin", "random", "consistent-hash")
"""The names of the balancers."""


def balancer(name: str, rng: random.Random) -> Balancer[C]:
    """Return a new balancer; `rng` decides where chance does. Raises: ValueError for an unknown name."""
    match name:
        case "least-loaded":
            return LeastLoaded(rng)
        case "first":
            return First()
        case "round-robin":
            return RoundRobin()
        case "random":
            return Random(rng)
        case "consistent-hash":
            return ConsistentHash(rng)
    raise ValueError(f"unknown balancer {name!r} (known: {', '.join(BALANCERS)})")
