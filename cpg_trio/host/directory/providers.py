"""The providers of one service type, indexed by what is asked for.

Each change costs the same however many providers there are: lists are kept in the order of registration, and
changed where the change is. (To insert into a list moves what comes after it: 40 kB for 5,000 providers,
about a microsecond.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from operator import attrgetter

from cpg_trio.host.directory.registration import Registration
from cpg_trio.versions import satisfies

_MAX_MINIMA = 8  # minimum versions for which the callable providers are kept
_by_sequence = attrgetter("sequence")


class Providers:
    """The providers of one service type. `callable_ids` has the ids of the registrations that get calls."""

    __slots__ = ("_at", "_callable", "_callable_ids", "by_plugin", "names")

    def __init__(self, callable_ids: Collection[str]) -> None:
        self._callable_ids = callable_ids
        self.by_plugin: dict[str, Registration] = {}
        self.names: dict[str, int] = {}
        """How many plugins of each name provide it."""
        self._at: dict[tuple[str, str, str], dict[str, Registration]] = {}  # by place, then by plugin
        self._callable: dict[str, list[Registration]] = {}  # by minimum version

    def add(self, registration: Registration, name: str) -> None:
        """Add the registration of a plugin that has none here, and has this name."""
        self.by_plugin[registration.runtime_id] = registration
        self.names[name] = self.names.get(name, 0) + 1
        if (place := registration.place) is not None:
            self._at.setdefault(place, {})[registration.runtime_id] = registration

    def remove(self, registration: Registration, name: str) -> None:
        """Remove a registration."""
        del self.by_plugin[registration.runtime_id]
        self.names[name] -= 1
        if not self.names[name]:
            del self.names[name]
        if (place := registration.place) is not None:
            del self._at[place][registration.runtime_id]
            if not self._at[place]:
                del self._at[place]
        for good in self._callable.values():
            _put(good, registration, is_in=False)

    def update(self, registration: Registration) -> None:
        """Bring up to date whether a registration gets calls."""
        is_callable = registration.id in self._callable_ids
        for min_version, good in self._callable.items():
            is_in = is_callable and satisfies(registration.version, min_version)
            _put(good, registration, is_in=is_in)

    def at(self, place: tuple[str, str, str]) -> Collection[Registration]:
        """Return the registrations at a place."""
        return self._at.get(place, {}).values()

    def in_order(self) -> Sequence[Registration]:
        """Return all, in the order of registration."""
        return sorted(self.by_plugin.values(), key=_by_sequence)

    def are_compatible(self, min_version: str) -> bool:
        """Whether one of them is new enough, whether it gets calls or not."""
        return any(satisfies(r.version, min_version) for r in self.by_plugin.values())

    def callable(self, min_version: str) -> Sequence[Registration]:
        """Return those that get calls and are new enough, in the order of registration. Not to be changed."""
        good = self._callable.get(min_version)
        if good is None:
            if len(self._callable) >= _MAX_MINIMA:
                del self._callable[next(iter(self._callable))]
            good = self._callable[min_version] = [
                r for r in self.in_order() if satisfies(r.version, min_version) and r.id in self._callable_ids
            ]
        return good


def _put(good: list[Registration], registration: Registration, *, is_in: bool) -> None:
    """Have a registration in a list or not, in its order."""
    index = bisect_left(good, registration.sequence, key=_by_sequence)
    was_in = index < len(good) and good[index] is registration
    if is_in and not was_in:
        good.insert(index, registration)
    elif was_in and not is_in:
        del good[index]
