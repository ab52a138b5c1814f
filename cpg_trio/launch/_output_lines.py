"""The lines that a process writes, from the bytes of a pipe. No I/O.

A process may write faster than anybody reads, and lines without an end. What is kept is bounded: a line is
cut, and of a flood only so many lines a second are taken; the rest is counted.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from cpg_trio.host.supervision import MOST_CHARACTERS, printable

_MOST_BYTES = 4 * MOST_CHARACTERS  # of a line; the rest of it is left out
_BURST = 5_000  # lines
_LINES_PER_S = 1_000
_BURST_BYTES = 4 * 1024 * 1024
_BYTES_PER_S = 1024 * 1024
_LONGEST_EXPLANATION = 300  # characters
_LAST = 30  # lines that may explain the end
_PANIC = re.compile(r"(panic|fatal error|thread '.*' .*panicked at|error\[?.*\]?):? ")
_FRAME = re.compile(r"[\s|+\-^~]*")


class _Bucket:
    """Lets so much through at once, and so much a second."""

    def __init__(self, most: float, per_s: float, now: float) -> None:
        self._most = most
        self._per_s = per_s
        self._left = most
        self._at = now

    def left(self, now: float) -> float:
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        return self._left

    def take(self, amount: float) -> None:
        self._left -= amount


class OutputLines:
    """Splits what a process writes into lines. `clock` gives seconds."""

    def __init__(self, output: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._output = output
        self._clock = clock
        self._part = b""  # of a line without its end
        self._skips = False  # the rest of the line that has been cut
        self._lines = _Bucket(_BURST, _LINES_PER_S, clock())
        self._bytes = _Bucket(_BURST_BYTES, _BYTES_PER_S, clock())
        self._last: deque[str] = deque(maxlen=_LAST)
        self.left_out = 0
        """Lines that were too many, and that `note_left_out` has not told yet."""

    def feed(self, data: bytes) -> None:
        """Take what the process has written."""
        now = self._clock()
        most = min(self._lines.left(now), self._bytes.left(now))
        # A flood is shown in pieces: all of the lines of a moment, and then how many were left out.
        most = 0 if most < (_LINES_PER_S if self.left_out else 1) else int(self._lines.left(now))
        if most:
            self.note_left_out()
        *whole, rest = data.split(b"\n", most)
        for line in whole:
            self._end_line(line)
        if (skipped := rest.count(b"\n")) > 0:
            self.left_out += skipped
            self._part, self._skips = b"", False
            rest = rest[rest.rfind(b"\n") + 1 :]
        self._add(rest)
        self._lines.take(len(whole))
        self._bytes.take(len(data) - len(rest) if whole else 0)

    def end(self) -> None:
        """Take what there is as the last line: the process has ended."""
        self.note_left_out()
        if self._part:
            self._end_line(b"")

    def note_left_out(self) -> None:
        """Tell in the output how many lines have been left out since the last time."""
        if self.left_out:
            self._output(f"({self.left_out:,} lines left out: more than {_LINES_PER_S:,} a second)")
            self.left_out = 0

    def explanation(self) -> str:
        """Return the line that says best why it has ended, printable and cut; empty if there is none.

        That is the last line with a word in it, as of a traceback; but a panic comes before its stack.
        """
        for line in self._last:
            if _PANIC.match(line):
                return line[:_LONGEST_EXPLANATION]
        return self._last[-1][:_LONGEST_EXPLANATION] if self._last else ""

    def _add(self, data: bytes) -> None:
        if not self._skips:
            self._part += data[: _MOST_BYTES - len(self._part) + 1]
            self._skips = len(self._part) > _MOST_BYTES

    def _end_line(self, data: bytes) -> None:
        self._add(data)
        text = self._part.decode("utf-8", "backslashreplace")
        self._part, self._skips = b"", False
        self._output(text)
        text = printable(text)
        if any(map(str.isalnum, text)):
            frame = _FRAME.match(text)
            self._last.append(text[frame.end() if frame else 0 :].rstrip())
