"""A bounded table in which nobody's entries push out those of others. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class FairTable(Generic[_K, _V]):
    """At most `most` entries, the oldest first. If there is one too many, whoever has most loses its oldest.

    A cause is whoever an entry counts for: the address that a plugin comes from, say.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[_K, tuple[str, _V]] = OrderedDict()
        self._of_cause: dict[str, OrderedDict[_K, None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[_V]:
        """Yield the values, the oldest first."""
        return (value for _, value in self._entries.values())

    def __reversed__(self) -> Iterator[_V]:
        """Yield the values, the newest first."""
        return (value for _, value in reversed(self._entries.values()))

    def get(self, key: _K) -> _V | None:
        """Return a value, None if it is not there."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None else None

    def put(self, key: _K, value: _V, cause: str) -> _V | None:
        """Keep a value as the newest one; return the one that was dropped for it, if one was."""
        self.pop(key)
        self._entries[key] = cause, value
        self._of_cause.setdefault(cause, OrderedDict())[key] = None
        if len(self._entries) <= self._most:
            return None
        most = max(self._of_cause.values(), key=len)
        return self.pop(next(iter(most)))

    def pop(self, key: _K) -> _V | None:
        """Remove a value and return it, None if it is not there."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        cause, value = entry
        of_cause = self._of_cause[cause]
        del of_cause[key]
        if not of_cause:
            del self._of_cause[cause]
        return value
