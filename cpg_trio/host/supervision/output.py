"""What plugins write: their last lines, and who reads them.

Each line also goes to the host's log, so that it has the format and the levels of that. What is kept is
bounded for each plugin, in lines and in bytes: none pushes out what others have written.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from heapq import merge
from typing import TypeAlias

import attrs

from cpg_trio._lines import one_line
from cpg_trio._log_formats import log_source
from cpg_trio.host.supervision.readers import Reader, Readers
from cpg_trio.host.supervision.state import replica_title

MOST_CHARACTERS = 4096
"""So many characters of a line are kept."""
_LOGGER = "cpg_trio.output"
_LINE_BYTES = 300  # that a line takes beside its text
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


OutputReader: TypeAlias = Reader[OutputLine]
"""One reader's place in the book."""


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
        self._readers = Readers(self.after, "output")

    def writer(self, plugin: str, replica: int) -> Callable[[str], None]:
        """Return what takes each line of a replica, as `Assignment.output` does: keep it, and log it."""
        logger = logging.getLogger(f"{_LOGGER}.{plugin}")
        prefix = replica_title(plugin, replica)

        def write(text: str) -> None:
            text = self.add(plugin, replica, text)
            if logger.isEnabledFor(logging.INFO):
                with log_source(plugin):
                    logger.info("%s | %s", prefix, text)

        return write

    def add(self, plugin: str, replica: int, text: str) -> str:
        """Keep a line without logging it, as one that is in the log already; return it as it is kept."""
        text = printable(text)
        self._readers.last += 1
        kept = self._kept.setdefault(plugin, _Kept())
        kept.add(OutputLine(self._readers.last, self._wall_clock(), plugin, replica, text))
        while len(kept.lines) > self._most_lines or kept.bytes > self._most_bytes:
            self._readers.dropped(kept.drop())
        self._readers.added()
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

    def after(self, sequence: int) -> Sequence[OutputLine]:
        """Return the lines after a sequence that are kept, the oldest first."""
        found: list[OutputLine] = []
        for line in self._backwards(""):
            if line.sequence <= sequence:
                break
            found.append(line)
        return found[::-1]

    def forget(self, plugin: str) -> None:
        """Drop the lines of a plugin that is not there any more."""
        self._kept.pop(plugin, None)

    def reading(
        self, plugin: str = "", replica: int = 0, after: int = 0
    ) -> AbstractContextManager[OutputReader]:
        """Return a block with a reader of the lines after a sequence; 0 is all that are kept.

        Raises, when entered: ConnectError `resource_exhausted` if there are too many readers.
        """
        return self._readers.reading(
            after, lambda line: plugin in ("", line.plugin) and replica in (0, line.replica)
        )

    def close(self) -> None:
        """End the readers that follow, once they have read what is there."""
        self._readers.close()

    def _backwards(self, plugin: str) -> Iterator[OutputLine]:
        if plugin:
            kept = self._kept.get(plugin)
            return iter(()) if kept is None else reversed(kept.lines)
        newest_first = (reversed(kept.lines) for kept in self._kept.values())
        return merge(*newest_first, key=lambda line: -line.sequence)
