"""What a directory is kept in: entries, changed by compare-and-set, and followed from a revision.

An entry has a key, which is a path, and a value. Each commit has a revision, which grows. All of a commit is
done, or nothing. What an entry means is not known here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, Self

import attrs
import trio

from cpg_trio.errors import CpgTrioError

MAX_OPERATIONS = 126  # etcd's 128, of which its store needs two
"""The most entries that a commit puts and deletes, and the most that it expects something of."""
MAX_VALUE_BYTES = 1024 * 1024
"""Bytes. The largest value."""
MAX_COMMIT_BYTES = MAX_VALUE_BYTES + 256 * 1024  # etcd takes 1.5 MiB
"""Bytes. The most that the keys and values of a commit have together."""


class StoreError(CpgTrioError):
    """A store cannot be reached, read or written; the message says why. A commit may have been done."""


class ConflictError(CpgTrioError):
    """A commit expected something else than there is. Nothing has changed."""


class CompactedError(StoreError):
    """The changes from a revision are not there any more: load, and follow from there."""


class ReplacedError(StoreError):
    """This is not the store that was opened: it has been restored from a backup, or is another one."""


@attrs.frozen
class Entry:
    """What is kept under a key."""

    key: str
    value: bytes = attrs.field(repr=False)
    revision: int
    """Of the commit that has last changed it."""


@attrs.frozen
class Snapshot:
    """All entries, as of one revision."""

    id: str
    """Which store this is: random, the same for all that open it. Another one means that all was lost."""
    revision: int
    entries: Sequence[Entry]


@attrs.frozen(kw_only=True)
class Commit:
    """What is changed together, and what has to be true for that: all as it was before.

    One that changes nothing asks whether that is true, and the revision does not grow.
    Raises: ValueError for more than every store can do at once (`MAX_OPERATIONS` and so on), or without keys.
    """

    puts: Mapping[str, bytes] = attrs.field(factory=dict, repr=lambda puts: str(sorted(puts)))
    deletes: Collection[str] = ()
    """Keys. One that is not there is no error."""
    expected: Mapping[str, int] = attrs.field(factory=dict)
    """The revisions of entries, by key; 0 for one that is not there."""
    uniform: Mapping[str, bytes] = attrs.field(factory=dict)
    """By prefix: each entry whose key begins with it has this value. True also if there is none."""

    def __attrs_post_init__(self) -> None:
        if max(len(self.puts) + len(self.deletes), len(self.expected) + len(self.uniform)) > MAX_OPERATIONS:
            raise ValueError(f"a commit changes and expects at most {MAX_OPERATIONS} entries")
        if any(len(value) > MAX_VALUE_BYTES for value in self.puts.values()):
            raise ValueError(f"a value has at most {MAX_VALUE_BYTES} bytes")
        pairs = (*self.puts.items(), *self.uniform.items())
        if sum(len(key) + len(value) for key, value in pairs) > MAX_COMMIT_BYTES:
            raise ValueError(f"the entries of a commit have at most {MAX_COMMIT_BYTES} bytes")
        if not all((*self.puts, *self.deletes, *self.expected, *self.uniform)):
            raise ValueError("a key is not empty")


@attrs.frozen
class Changed:
    """The changes of one revision, or several: for each key the last one. None: it has been deleted."""

    revision: int
    """What was changed until this revision has been told."""
    values: Mapping[str, Entry | None]
    """Empty if only the revision has grown."""


class Presence(Protocol):
    """An entry that is there for as long as its host renews it."""

    @property
    def revision(self) -> int:
        """The revision of the entry. Commits that expect it fail once the entry has lapsed."""

    @property
    def valid_until(self) -> float:
        """Until when the store keeps it for sure, on Trio's clock; each renewal moves it."""

    @property
    def lost(self) -> trio.Event:
        """Set when the store does not have it any more."""


class Store(Protocol):
    """Where a directory is kept.

    It is opened and closed by `async with`. To enter raises http.StartError, with what to do, for a store
    that cannot be used. Its methods may be called by several tasks at once, and be cancelled. They return or
    raise within seconds.
    """

    shared: bool
    """Whether several hosts may have it open, each of which follows the changes of the others. Where they
    may not, nothing is followed, and nobody is present."""

    async def check(self) -> bool:
        """Check that it could be opened, as far as can be told; change nothing. Raises: http.StartError.

        Return whether it has been begun: one that is not is made when it is opened.
        """

    async def __aenter__(self) -> Self:
        """Open it."""

    async def __aexit__(self, *_: object) -> None:
        """Close it."""

    async def load(self, prefix: str = "") -> Snapshot:
        """Return all that is kept, or all whose key begins so, by key, as of now. Raises: StoreError."""

    async def commit(self, commit: Commit) -> int:
        """Change entries; return the revision. Raises: ConflictError; StoreError.

        After a StoreError, or if it is cancelled, it may have been done. It is not done later.
        """

    async def revision(self) -> int:
        """Return the revision of the last commit of anybody that has been answered. Raises: StoreError."""

    def changes(self, after: int) -> AbstractAsyncContextManager[AsyncIterator[Changed]]:
        """Follow what is changed after a revision, in order and without a gap, within the block.

        A store that is silent for long yields its revision, or raises. Raises: StoreError, also from the
        iterator.
        """

    def present(self, key: str, value: bytes, ttl_s: float) -> AbstractAsyncContextManager[Presence]:
        """Keep an entry that lapses `ttl_s` seconds after the last sign of life of this process.

        It is renewed within the block, in the background, and deleted at the end. It replaces an entry of
        that key. Raises: StoreError.
        """
