"""What plugins write: their last lines, and who reads them.

Each line also goes to the host's log, so that it has the format and the levels of that. What is kept is
bounded for each plugin, in lines and in bytes: none pushes out what others have written. A reader costs a
constant amount of memory: it holds a position, and is told how many lines it has missed.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import merge

import attrs

from cpg_trio._cell import Cell
from cpg_trio._lines import one_line
from cpg_trio._log_formats import log_source
from cpg_trio.rpc import Code, ConnectError

MOST_CHARACTERS = 4096  # of a line that is kept
_LOGGER = "cpg_trio.output"
_LINE_BYTES = 300  # that a line takes beside its text
_MOST_READERS = 32
_BATCH = 100  # lines that a reader gets at once
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def printable(text: str) -> str:
    """Return what a plugin has written as one line of a log: no colours, what does not print escaped."""
    if text.isprintable() and len(text) <= MOST_CHARACTERS:
        return text
    text = _COLOUR.sub("", text[: 4 * MOST_CHARACTERS].rstrip("\r")).expandtabs(4)
    return one_line(text, MOST_CHARACTERS)


@attrs.frozen
class OutputLine:
    """A line that a plugin has written."""

    sequence: int
    """Of all lines of the book, from 1."""
    at: float
    """In seconds since 1970."""
    plugin: str
    """The name of the plugin on its platform."""
    replica: int
    text: str
    """Printable, and of a bounded length."""

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return _LINE_BYTES + len(self.text) * (1 if self.text.isascii() else 4)


class _Kept:
    """The last lines of one plugin."""

    def __init__(self) -> None:
        self.lines: deque[OutputLine] = deque()
        self.bytes = 0

    def add(self, line: OutputLine) -> None:
        self.lines.append(line)
        self.bytes += line.size

    def drop(self) -> OutputLine:
        dropped = self.lines.popleft()
        self.bytes -= dropped.size
        return dropped


class OutputBook:
    """The last lines of each plugin. `wall_clock` gives seconds since 1970."""

    def __init__(
        self,
        *,
        lines: int = 1000,
        size_bytes: int = 512 * 1024,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._most_lines = lines
        self._most_bytes = size_bytes
        self._wall_clock = wall_clock
        self._kept: dict[str, _Kept] = {}
        self._readers: set[OutputReader] = set()
        self._changes = Cell(0)
        self.last_sequence = 0

    def writer(self, plugin: str, replica: int) -> Callable[[str], None]:
        """Return what takes each line of a replica, as `Assignment.output` does: keep it, and log it."""
        logger = logging.getLogger(f"{_LOGGER}.{plugin}")
        prefix = plugin if replica == 1 else f"{plugin}/{replica}"

        def write(text: str) -> None:
            text = self.add(plugin, replica, text)
            if logger.isEnabledFor(logging.INFO):
                with log_source(plugin):
                    logger.info("%s | %s", prefix, text)

        return write

    def add(self, plugin: str, replica: int, text: str) -> str:
        """Keep a line without logging it, as one that is in the log already; return it as it is kept."""
        text = printable(text)
        self.last_sequence += 1
        kept = self._kept.setdefault(plugin, _Kept())
        kept.add(OutputLine(self.last_sequence, self._wall_clock(), plugin, replica, text))
        while len(kept.lines) > self._most_lines or kept.bytes > self._most_bytes:
            dropped = kept.drop()
            for reader in self._readers:
                reader.note_dropped(dropped)
        if self._readers:
            self._changes.set(self.last_sequence)
        return text

    def last(self, plugin: str, lines: int = 100, replica: int = 0) -> Sequence[OutputLine]:
        """Return the last lines that are kept of a plugin, the oldest first; replica 0 is all of them.

        An empty name is all plugins.
        """
        found: list[OutputLine] = []
        for line in self._backwards(plugin):
            if len(found) >= lines:
                break
            if replica in (0, line.replica):
                found.append(line)
        return found[::-1]

    def after(self, sequence: int, plugin: str = "") -> Sequence[OutputLine]:
        """Return the lines after a sequence that are kept, the oldest first."""
        found: list[OutputLine] = []
        for line in self._backwards(plugin):
            if line.sequence <= sequence:
                break
            found.append(line)
        return found[::-1]

    def forget(self, plugin: str) -> None:
        """Drop the lines of a plugin that is not there any more."""
        self._kept.pop(plugin, None)

    @contextmanager
    def reading(self, plugin: str = "", replica: int = 0, after: int = 0) -> Iterator[OutputReader]:
        """Yield a reader of the lines after a sequence; 0 is all that are kept.

        Raises: ConnectError `resource_exhausted` if there are too many readers.
        """
        if len(self._readers) >= _MOST_READERS:
            raise ConnectError(Code.RESOURCE_EXHAUSTED, f"too many readers of output (max: {_MOST_READERS})")
        if after > self.last_sequence:  # of the host that was here before
            after = 0
        reader = OutputReader(self, plugin, replica, after)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def close(self) -> None:
        """End the readers that follow, once they have read what is there."""
        self._changes.close()

    def changes(self) -> Cell[int]:
        """Return the cell that changes with each line while there are readers."""
        return self._changes

    def _backwards(self, plugin: str) -> Iterator[OutputLine]:
        if plugin:
            kept = self._kept.get(plugin)
            return iter(()) if kept is None else reversed(kept.lines)
        newest_first = (reversed(kept.lines) for kept in self._kept.values())
        return merge(*newest_first, key=lambda line: -line.sequence)


class OutputReader:
    """One reader's place in the book, and what it wants to read."""

    def __init__(self, book: OutputBook, plugin: str, replica: int, after: int) -> None:
        self._book = book
        self._plugin = plugin
        self._replica = replica
        self._read = after
        self._missed = 0
        self._changes = book.changes().reader()

    def note_dropped(self, line: OutputLine) -> None:
        """Note that a line is not kept any more; it is missed if this reader has not read it."""
        self._missed += line.sequence > self._read and self._wants(line)

    def next(self) -> tuple[Sequence[OutputLine], int]:
        """Return the next lines, up to a hundred, and how many were missed before. Does not wait."""
        wanted: list[OutputLine] = []
        for line in self._book.after(self._read, self._plugin):
            if self._wants(line):
                if len(wanted) == _BATCH:
                    break
                wanted.append(line)
            self._read = line.sequence
        missed, self._missed = self._missed, 0
        return wanted, missed

    async def wait(self) -> bool:
        """Wait until there may be more; return False if there will not be."""
        async for last in self._changes:
            if last > self._read or self._book.last_sequence > self._read:
                return True
        return False

    def _wants(self, line: OutputLine) -> bool:
        return self._plugin in ("", line.plugin) and self._replica in (0, line.replica)
