"""The readers of a log that is kept in memory, and bounded: of lines, or of events.

A reader costs a constant amount of memory: it holds a position, and reads the log that all share. One that is
slow misses the oldest entries, and is told how many of its own it has missed.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from cpg_trio._cell import Cell
from cpg_trio.rpc import Code, ConnectError

_MOST = 32
_BATCH = 100  # entries that a reader gets at once


class Entry(Protocol):
    """What a log keeps."""

    @property
    def sequence(self) -> int:
        """Its number among all, from 1."""
        ...


E = TypeVar("E", bound=Entry)


class Readers(Generic[E]):
    """Those who read one log. `after` returns what is kept after a sequence, the oldest first."""

    def __init__(self, after: Callable[[int], Sequence[E]], what: str) -> None:
        self.after = after
        self._what = what
        self._readers: set[Reader[E]] = set()
        self.changes = Cell(0)
        """Changes with each entry while there are readers."""
        self.last = 0
        """The sequence of the newest entry."""

    def __len__(self) -> int:
        return len(self._readers)

    @contextmanager
    def reading(self, after: int, wants: Callable[[E], bool]) -> Iterator[Reader[E]]:
        """Yield a reader of the entries after a sequence that it wants; 0 is all that are kept.

        Raises: ConnectError `resource_exhausted` if there are too many readers.
        """
        if len(self._readers) >= _MOST:
            raise ConnectError(Code.RESOURCE_EXHAUSTED, f"too many readers of {self._what} (max: {_MOST})")
        if after > self.last:  # of the host that was here before
            after = 0
        reader = Reader(self, after, wants)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def added(self) -> None:
        """Tell the readers of the newest entry."""
        if self._readers:
            self.changes.set(self.last)

    def dropped(self, entry: E) -> None:
        """Note that an entry is not kept any more."""
        for reader in self._readers:
            reader.note_dropped(entry)

    def close(self) -> None:
        """End the readers that follow, once they have read what is there."""
        self.changes.close()


class Reader(Generic[E]):
    """One reader's place in a log, and what it wants to read."""

    def __init__(self, log: Readers[E], after: int, wants: Callable[[E], bool]) -> None:
        self._log = log
        self._read = after
        self._wants = wants
        self._missed = 0
        self._changes = log.changes.reader()

    def note_dropped(self, entry: E) -> None:
        """Note that an entry is not kept any more; it is missed if this reader has not read it."""
        self._missed += entry.sequence > self._read and self._wants(entry)

    def next(self) -> tuple[Sequence[E], int]:
        """Return the next entries, up to a hundred, and how many were missed before. Does not wait."""
        wanted: list[E] = []
        for entry in self._log.after(self._read):
            if self._wants(entry):
                if len(wanted) == _BATCH:
                    break
                wanted.append(entry)
            self._read = entry.sequence
        missed, self._missed = self._missed, 0
        return wanted, missed

    async def batches(self, *, follow: bool) -> AsyncGenerator[tuple[Sequence[E], int], None]:
        """Yield what `next` returns: with `follow` until the log is closed, else what there is already.

        What comes meanwhile is left out then, or a log that grows faster than it is read would have no end.
        """
        newest = math.inf if follow else self._log.last
        while self._read < newest:
            entries, missed = self.next()
            entries = [entry for entry in entries if entry.sequence <= newest]
            if entries or missed:
                yield entries, missed
            elif not (follow and await self.wait()):
                return

    async def wait(self) -> bool:
        """Wait until there may be more; return False if there will not be."""
        async for last in self._changes:
            if last > self._read or self._log.last > self._read:
                return True
        return False
