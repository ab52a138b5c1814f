"""The providers of one service type, indexed by what is asked for.

Each change costs the same however many providers there are: lists are kept in the order of registration, and
changed where the change is. (To insert into a list moves what comes after it: 40 kB for 5,000 providers,
about a microsecond.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from itertools import islice
from operator import attrgetter

from cpg_trio.host.directory.registration import Registration
from cpg_trio.versions import ANY_VERSION, Requirement

_MAX_KEPT = 8  # requirements for which the callable providers are kept
_MANY = 16  # providers, for which that is worth the memory
_MAX_VERSIONS = 3  # that a message names
_in_order = attrgetter("sequence", "id")  # two hosts may give the same sequence


class Providers:
    """The providers of one service type. `callable_ids` has the ids of the registrations that get calls."""

    __slots__ = ("_at", "_callable", "_callable_ids", "by_plugin", "names", "versions")

    def __init__(self, callable_ids: Collection[str]) -> None:
        self._callable_ids = callable_ids
        self.by_plugin: dict[str, Registration] = {}
        self.names: dict[str, int] = {}
        """How many plugins of each name provide it."""
        self.versions: dict[str, int] = {}
        """How many there are of each version, the latest version last."""
        self._at: dict[tuple[str, str, str], dict[str, Registration]] = {}  # by place, then by plugin
        self._callable: dict[Requirement, list[Registration]] = {}

    def add(self, registration: Registration, name: str) -> None:
        """Add the registration of a plugin that has none here, and has this name."""
        self.by_plugin[registration.runtime_id] = registration
        self.names[name] = self.names.get(name, 0) + 1
        self.versions[registration.version] = self.versions.get(registration.version, 0) + 1
        if (place := registration.place) is not None:
            self._at.setdefault(place, {})[registration.runtime_id] = registration

    def remove(self, registration: Registration, name: str) -> None:
        """Remove a registration."""
        del self.by_plugin[registration.runtime_id]
        _count_down(self.names, name)
        _count_down(self.versions, registration.version)
        if (place := registration.place) is not None:
            del self._at[place][registration.runtime_id]
            if not self._at[place]:
                del self._at[place]
        for good in self._callable.values():
            _put(good, registration, is_in=False)

    def update(self, registration: Registration) -> None:
        """Bring up to date whether a registration gets calls."""
        is_callable = registration.id in self._callable_ids
        for requirement, good in self._callable.items():
            is_in = is_callable and requirement.admits(registration.version)
            _put(good, registration, is_in=is_in)

    def at(self, place: tuple[str, str, str]) -> Collection[Registration]:
        """Return the registrations at a place."""
        return self._at.get(place, {}).values()

    def in_order(self) -> Sequence[Registration]:
        """Return all, in the order of registration."""
        return sorted(self.by_plugin.values(), key=_in_order)

    def are_compatible(self, requirement: Requirement) -> bool:
        """Whether one of them satisfies a requirement, whether it gets calls or not."""
        return any(map(requirement.admits, self.versions))

    def callable(self, requirement: Requirement) -> Sequence[Registration]:
        """Return those that get calls and satisfy a requirement, in the order of registration.

        Not to be changed.
        """
        good = self._callable.get(requirement)
        if good is None:
            good = [
                r for r in self.in_order() if requirement.admits(r.version) and r.id in self._callable_ids
            ]
            if requirement == ANY_VERSION or len(self.by_plugin) >= _MANY:
                if len(self._callable) >= _MAX_KEPT:
                    del self._callable[next(iter(self._callable))]
                self._callable[requirement] = good
        return good


def why_incompatible(versions: dict[str, int], requirement: Requirement) -> str:
    """Say that no provider satisfies a requirement, and which versions there are."""
    names = list(islice(reversed(versions), _MAX_VERSIONS))
    if (others := len(versions) - len(names)) > 0:
        names.append(f"{others} more")
    there = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f"{there} {'is' if len(names) == 1 else 'are'} there and {requirement} is required"


def _count_down(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


def _put(good: list[Registration], registration: Registration, *, is_in: bool) -> None:
    """Have a registration in a list or not, in its order."""
    index = bisect_left(good, _in_order(registration), key=_in_order)
    was_in = index < len(good) and good[index] is registration
    if is_in and not was_in:
        good.insert(index, registration)
    elif was_in and not is_in:
        del good[index]
