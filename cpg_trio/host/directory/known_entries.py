"""Which entries of plugins a store has, as far as this host knows. Plain synchronous state.

What is known comes from the first load, from this host's own commits, and from the changes that it follows.
Own commits are known before they are followed, so that what is followed may be older than what is known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from cpg_trio.host.directory.documents import (
    SERVICES,
    drained_key,
    ended_key,
    plugin_key,
    runtime_id_of,
    service_key,
)
from cpg_trio.store import Commit


class KnownEntries:
    """Revisions by key. `followed`: somebody follows the changes of the store."""

    def __init__(self, *, followed: bool) -> None:
        self._followed = followed
        self._revisions: dict[str, int] = {}
        self._deleted: dict[
            str, int
        ] = {}  # by this host, until that has been followed; in the order of revisions
        self._types: dict[str, list[str]] = {}  # of services/, by runtime id
        self._committing: dict[str, bytes | None] = {}
        self._unread = set[str]()

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry."""
        return key in self._revisions

    def revision(self, key: str) -> int:
        """Return the revision of an entry, 0 for one that is not there."""
        return self._revisions.get(key, 0)

    def types(self, runtime_id: str) -> Collection[str]:
        """Return the service types for which there are entries of a plugin."""
        return self._types.get(runtime_id, ())

    def keys(self, runtime_id: str) -> list[str]:
        """Return the keys of all that there is of a plugin, beside that it has ended."""
        keys = [plugin_key(runtime_id), drained_key(runtime_id)]
        keys += [service_key(each, runtime_id) for each in self.types(runtime_id)]
        return [key for key in keys if key in self._revisions]

    def all(self) -> Collection[str]:
        """Return all keys of which there is an entry."""
        return list(self._revisions)

    @contextmanager
    def reading(self, key: str) -> Iterator[None]:
        """Note whether what is under a key could be applied, which is done within the block."""
        if key in self._revisions:
            self._unread.add(key)
        yield
        self._unread.discard(key)

    def is_unread(self, key: str) -> bool:
        """Whether there is an entry that cannot be read."""
        return key in self._unread

    def has_unread(self) -> bool:
        """Whether there is any such entry."""
        return bool(self._unread)

    def plugins(self) -> Iterator[str]:
        """Yield the runtime ids of which there is something; some of them several times."""
        yield from (runtime_id_of(key) for key in self._revisions if "/" in key)

    def leaves_something(self, runtime_id: str) -> bool:
        """Whether a plugin has ended, and something of it is there yet."""
        return ended_key(runtime_id) in self._revisions and bool(self.keys(runtime_id))

    def applied(self, key: str, revision: int, value: bytes | None) -> bool:
        """Note what has been read under a key, None for nothing; return whether it is news."""
        while self._deleted and self._deleted[first := next(iter(self._deleted))] < revision:
            del self._deleted[first]
        is_own = key in self._committing and self._committing[key] == value
        if value is None:
            if self._revisions.get(key, revision + 1) > revision:
                return False
            self._remove(key)
            return not is_own
        if revision <= max(self._revisions.get(key, 0), self._deleted.get(key, 0)):
            return False
        self._set(key, revision)
        return not is_own

    @contextmanager
    def committing(self, commit: Commit) -> Iterator[None]:
        """Commit within the block: what is read of it before its answer has come is no news."""
        self._committing = {**dict.fromkeys(commit.deletes), **commit.puts}
        try:
            yield
        finally:
            self._committing = {}

    def committed(self, commit: Commit, revision: int) -> None:
        """Note what this host has changed."""
        for key in commit.deletes:
            if key in self._revisions:
                self._remove(key)
                if self._followed:
                    self._deleted.pop(key, None)
                    self._deleted[key] = revision
        for key in commit.puts:
            self._set(key, max(revision, self._revisions.get(key, 0)))

    def take_over(self, key: str, revision: int) -> None:
        """Note what was found under a key, 0 for nothing."""
        if revision:
            self._set(key, revision)
        elif key in self._revisions:
            self._remove(key)

    def take_over_types(self, runtime_id: str, types: Iterable[str], revision: int) -> None:
        """Note for which types there are entries of a plugin, as its document says."""
        for each in {*self.types(runtime_id), *types}:
            self.take_over(service_key(each, runtime_id), revision if each in types else 0)

    def _set(self, key: str, revision: int) -> None:
        if key not in self._revisions and key.startswith(SERVICES):
            self._types.setdefault(runtime_id_of(key), []).append(key.split("/")[1])
        self._revisions[key] = revision
        self._unread.discard(key)

    def _remove(self, key: str) -> None:
        del self._revisions[key]
        self._unread.discard(key)
        if key.startswith(SERVICES):
            types = self._types[runtime_id_of(key)]
            types.remove(key.split("/")[1])
            if not types:
                del self._types[runtime_id_of(key)]
