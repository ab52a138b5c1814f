"""The providers of a service, for watches that are told of several of them, each by itself.

    WatchedService   all providers of a service type that is followed
    Candidates       how many of them satisfy a requirement, and which have changed last
    ProviderView     what one watch has been told of them, and has yet to be told

A change of a provider costs constant time for each requirement, and for each watch. A view is a conflating
cell: it holds at most one entry for each provider that its watcher knows or gets, however many changes there
have been. It holds ids, and no registration, so it keeps nothing alive that is gone.

Where more providers get calls than a watch follows, each watch has those that rank first for it: rendezvous
hashing, by watcher and provider. So all providers get their part of the watchers, and one that comes or goes
moves hardly anything. A view knows twice as many as it follows, so it looks at all only when half of those
have gone.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import islice
from typing import Protocol, TypeAlias

import attrs

from cpg_trio.host.directory.providers import why_incompatible
from cpg_trio.host.directory.registration import Registration
from cpg_trio.host.directory.registry import Registry
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.versions import Requirement

MAX_PROVIDERS = 20  # that a watch is told of
STATUS_BYTES = 100  # of an update, for a provider without its texts
REMOVED_BYTES = 150  # of an update, for a provider that gets no calls any more

_MAX_LOG = 8  # changes that views take one by one; a view that has missed more looks at all providers
_MAX_REASON_BYTES = 600  # of a reason with three versions and a requirement
_WEIGHT_BITS = (1 << 64) - 1


@attrs.frozen
class ProviderState:
    """What there is to know of a provider, without its registration."""

    registration_id: str
    version: str
    is_callable: bool
    is_degraded: bool
    is_drained: bool
    weight: int
    """A number of 64 bits that only the provider's id decides."""


_Known: TypeAlias = "ProviderState | None"  # None: it gets no calls, or is none
_Rank: TypeAlias = tuple[bool, int, str]  # whether it is degraded, its weight for a watcher, and its id


@attrs.frozen
class ProviderNews:
    """What a watcher is told of the providers of a service."""

    changed: Sequence[tuple[Registration, bool]]
    """Providers that get calls, and whether each is degraded: new ones, and those that are otherwise now."""
    removed: Sequence[str]
    """The ids of those that get no calls any more."""
    complete: bool
    """With this, all have been told of."""
    reason: str
    """If there is none: why."""


class Follower(Protocol):
    """Who follows several providers of service types: a watch, or somebody else in the host.

    It holds the view that it is given, and takes from that.
    """

    def note_changed(self, service_type: str) -> None:
        """Note that a type has to be looked at."""

    def look(self) -> None:
        """Look at the types that have changed. Called soon after, and maybe more than once."""


def weight_of(plugin_id: str) -> int:
    """Return a number of 64 bits that an id decides."""
    return int.from_bytes(hashlib.blake2b(plugin_id.encode(), digest_size=8).digest(), "big")


class WatchedService:
    """The providers of a service type that is followed, with those that get no calls."""

    __slots__ = ("_registry", "by_requirement", "providers", "service_type")

    def __init__(self, registry: Registry, service_type: str) -> None:
        self._registry = registry
        self.service_type = service_type
        self.providers = {
            r.runtime_id: self._state(r, weight_of(r.runtime_id)) for r in registry.providers(service_type)
        }
        self.by_requirement: dict[Requirement, Candidates] = {}

    def registration(self, runtime_id: str) -> Registration:
        """Return the registration of a provider that is there."""
        registration = self._registry.provider(self.service_type, runtime_id)
        if registration is None:
            raise AssertionError("a change of the registry is told before anything else happens")
        return registration

    def versions(self) -> dict[str, int]:
        """Return how many providers there are of each version."""
        return self._registry.versions(self.service_type)

    def candidates(self, requirement: Requirement) -> Candidates:
        """Return the providers that satisfy a requirement."""
        candidates = self.by_requirement.get(requirement)
        if candidates is None:
            candidates = self.by_requirement[requirement] = Candidates(self, requirement)
        return candidates

    def change(self, runtime_id: str) -> Iterator[Follower]:
        """Note that a provider has changed; yield the watches that this concerns."""
        before = self.providers.get(runtime_id)
        registration = self._registry.provider(self.service_type, runtime_id)
        if registration is None:
            now = None
            self.providers.pop(runtime_id, None)
        else:
            weight = before.weight if before is not None else weight_of(runtime_id)
            now = self.providers[runtime_id] = self._state(registration, weight)
        if now != before:
            for candidates in self.by_requirement.values():
                if candidates.change(runtime_id, before, now):
                    yield from candidates.watches

    def _state(self, registration: Registration, weight: int) -> ProviderState:
        runtime_id = registration.runtime_id
        return ProviderState(
            registration.id,
            registration.version,
            registration.id in self._registry.callable_ids,
            self._registry.health(runtime_id).service_state == pb.SERVICE_STATE_DEGRADED,
            self._registry.is_drained(runtime_id),
            weight,
        )


class Candidates:
    """The providers of a service type that satisfy a requirement."""

    __slots__ = (
        "_compatible",
        "_drained",
        "_log",
        "callable_count",
        "changes",
        "reason",
        "requirement",
        "service",
        "watches",
    )

    def __init__(self, service: WatchedService, requirement: Requirement) -> None:
        self.service = service
        self.requirement = requirement
        self.watches: dict[Follower, None] = {}
        compatible = [p for p in service.providers.values() if requirement.admits(p.version)]
        self._compatible = len(compatible)
        self._drained = sum(p.is_drained for p in compatible)
        self.callable_count = sum(p.is_callable for p in compatible)
        """How many get calls."""
        self.changes = 0
        """How many changes there have been of those that get calls."""
        self._log: list[tuple[str, _Known]] = []
        self.reason = self._why_none()
        """Why none gets calls; empty if one does."""

    def change(self, runtime_id: str, before: _Known, now: _Known) -> bool:
        """Take a change of a provider; return whether watches have to look."""
        was, is_ = self._if_compatible(before), self._if_compatible(now)
        for state, count in ((was, -1), (is_, 1)):
            if state is not None:
                self._compatible += count
                self._drained += count * state.is_drained
                self.callable_count += count * state.is_callable
        was, is_ = _if_callable(was), _if_callable(is_)
        if differs := was != is_:
            self.changes += 1
            self._log.append((runtime_id, is_))
            if len(self._log) > 2 * _MAX_LOG:
                del self._log[:_MAX_LOG]
        reason, self.reason = self.reason, self._why_none()
        return differs or reason != self.reason

    def _if_compatible(self, state: _Known) -> _Known:
        return state if state is not None and self.requirement.admits(state.version) else None

    def since(self, changes: int) -> Sequence[tuple[str, _Known]] | None:
        """Return the changes after so many, each a provider's id and what holds after it; None if unknown."""
        missed = self.changes - changes
        if missed > len(self._log):
            return None
        return self._log[len(self._log) - missed :]

    def callable(self) -> Iterator[tuple[str, ProviderState]]:
        """Yield the ids and states of those that get calls. Looks at all providers of the type."""
        for runtime_id, state in self.service.providers.items():
            if state.is_callable and self.requirement.admits(state.version):
                yield runtime_id, state

    def _why_none(self) -> str:
        if self.callable_count:
            return ""
        if not self.service.providers:
            return f"nobody provides {self.service.service_type}"
        if not self._compatible:
            return why_incompatible(self.service.versions(), self.requirement)
        are = "unhealthy or drained" if self._drained else "unhealthy"
        are = "drained" if self._drained == self._compatible else are
        return f"all {self._compatible} providers are {are}" if self._compatible > 1 else f"it is {are}"


def _if_callable(state: _Known) -> _Known:
    return state if state is not None and state.is_callable else None


class ProviderView:
    """What a watch has been told of the providers of a service type, and has yet to be told.

    `most`: how many it follows, for `places` that its hub counts. `factor`: an odd number that the watcher's
    id decides.
    """

    __slots__ = (
        "_factor",
        "_is_cut",
        "_is_told_all",
        "_ranked",
        "_seen",
        "_told_reason",
        "_unsent",
        "candidates",
        "most",
        "places",
        "told",
    )

    def __init__(self, candidates: Candidates, factor: int, most: int, places: int) -> None:
        self.candidates = candidates
        self._factor = factor
        self.places = places
        self.most = most
        self._ranked: list[_Rank] | None  # only if more get calls than it follows: the first ones
        self._is_cut = False  # whether there are others behind the ranked ones
        self.forget_told()

    def forget_told(self) -> None:
        """Begin anew: the watcher knows of no provider."""
        self._seen = self.candidates.changes
        self._ranked = None
        self.told: dict[str, ProviderState] = {}
        self._told_reason = ""
        self._is_told_all = False
        self._unsent: dict[str, _Known] = {}
        self._compare_all()

    @property
    def requirement(self) -> Requirement:
        """Which versions count."""
        return self.candidates.requirement

    @property
    def has_news(self) -> bool:
        """Whether there is something that the watcher has not been told."""
        return bool(self._unsent) or not self._is_told_all or self._told_reason != self.candidates.reason

    def look(self) -> None:
        """Take what has changed since the last look."""
        candidates = self.candidates
        changes = candidates.since(self._seen)
        self._seen = candidates.changes
        is_ranked = candidates.callable_count > self.most
        if changes is None or is_ranked != (self._ranked is not None):
            self._ranked = None
            self._compare_all()
        elif not is_ranked:
            for runtime_id, state in changes:
                self._compare(runtime_id, state)
        elif self._rank(changes):
            self._compare_all()

    # What the watcher gets

    def _compare(self, runtime_id: str, state: _Known) -> None:
        if self.told.get(runtime_id) == state:
            self._unsent.pop(runtime_id, None)
        else:
            self._unsent[runtime_id] = state

    def _compare_all(self) -> None:
        chosen = self._chosen()
        for runtime_id in {**self._unsent, **self.told, **chosen}:
            self._compare(runtime_id, chosen.get(runtime_id))

    def _chosen(self) -> Mapping[str, ProviderState]:
        """Return the providers that the watcher gets."""
        if self.candidates.callable_count <= self.most:
            return dict(self.candidates.callable())
        if self._ranked is None:
            self._rank_all()
        providers = self.candidates.service.providers
        return {runtime_id: providers[runtime_id] for *_, runtime_id in islice(self._ranked or (), self.most)}

    def _rank_all(self) -> None:
        ranks = (self._rank_of(runtime_id, state) for runtime_id, state in self.candidates.callable())
        self._ranked = nsmallest(2 * self.most, ranks)
        self._is_cut = self.candidates.callable_count > len(self._ranked)

    def _rank_of(self, runtime_id: str, state: ProviderState) -> _Rank:
        # Multiply-shift hashing (Dietzfelbinger et al., 1997): one multiplication for the two ids.
        return state.is_degraded, state.weight * self._factor & _WEIGHT_BITS, runtime_id

    def _rank(self, changes: Sequence[tuple[str, _Known]]) -> bool:
        """Bring the ranks up to date; return whether that concerns the providers that the watcher gets."""
        ranked, most = self._ranked or [], self.most
        concerns = False
        for runtime_id, state in dict(changes).items():
            index = next((i for i, rank in enumerate(ranked) if rank[2] == runtime_id), None)
            if index is not None:
                concerns |= index < most
                del ranked[index]
            if state is None:
                continue
            rank = self._rank_of(runtime_id, state)
            if self._is_cut and (not ranked or rank > ranked[-1]):
                continue
            insort(ranked, rank)
            concerns |= rank <= ranked[min(most, len(ranked)) - 1]
        if len(ranked) > 2 * most:
            del ranked[2 * most :]
            self._is_cut = True
        elif len(ranked) < most:
            self._ranked = None
        return concerns

    # What is sent

    def size(self, room: int) -> int:
        """Return the bytes, or some more, of what `take` would return."""
        return self._next(room)[1]

    def take(self, room: int) -> ProviderNews:
        """Return what to tell the watcher next: what is about as large as the room, or one provider."""
        changed: list[tuple[Registration, bool]] = []
        removed: list[str] = []
        for runtime_id in self._next(room)[0]:
            state = self._unsent.pop(runtime_id)
            if state is None:
                del self.told[runtime_id]
                removed.append(runtime_id)
            else:
                self.told[runtime_id] = state
                changed.append((self.candidates.service.registration(runtime_id), state.is_degraded))
        complete = not self._unsent and not self._is_told_all
        self._is_told_all |= complete
        self._told_reason = self.candidates.reason
        return ProviderNews(changed, removed, complete, self._told_reason)

    def _next(self, room: int) -> tuple[Sequence[str], int]:
        """Return the providers to tell of next, those that get no calls any more first, and the bytes."""
        names: list[str] = []
        size = _MAX_REASON_BYTES if self.candidates.reason else 0
        for runtime_id in sorted(self._unsent, key=lambda each: self._unsent[each] is not None):
            more = self._size(runtime_id)
            if names and size + more > room:
                break
            names.append(runtime_id)
            size += more
        return names, size

    def _size(self, runtime_id: str) -> int:
        if self._unsent[runtime_id] is None:
            return REMOVED_BYTES
        r = self.candidates.service.registration(runtime_id)
        metadata = sum(len(text.encode()) for entry in r.metadata.items() for text in entry)
        return STATUS_BYTES + 2 * len(r.runtime_id) + len(r.service_type) + len(r.version) + metadata
