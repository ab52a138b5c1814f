"""A cache that is bounded in entries and in bytes. No I/O."""

from __future__ import annotations

from typing import TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")

_ENTRY_BYTES = 200  # that an entry takes beside its key and its value


class BoundedCache(dict[_K, _V]):
    """Values that can be worked out again, by key. At either bound all of them are forgotten.

    Whoever keeps something says how many bytes it takes; an estimate will do. A look-up is the dictionary's
    own. To forget one entry at a time would make each look-up dearer, and look-ups are what a cache is for.
    """

    __slots__ = ("_bytes", "_max_bytes", "_max_entries")

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        super().__init__()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0

    @property
    def kept_bytes(self) -> int:
        """How many bytes the entries take, as far as is known."""
        return self._bytes

    def keep(self, key: _K, value: _V, size: int) -> None:
        """Keep a value that takes `size` bytes together with its key."""
        size += _ENTRY_BYTES
        if len(self) >= self._max_entries or self._bytes + size > self._max_bytes:
            self.clear()
        self._bytes += size
        self[key] = value

    def take(self, size: int) -> None:
        """Count bytes that something in the cache takes in addition."""
        if self._bytes + size > self._max_bytes:
            self.clear()
        self._bytes += size

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._bytes = 0
