"""What a plugin that is a task prints, as the lines of a process are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cpg_trio._on_loop import OnLoop
from cpg_trio._pieces import Pieces
from cpg_trio.launch._output_lines import OutputLines


class TaskOutput:
    """Gives `output` each line in the thread of the loop that makes this, with the limits of a process.

    Any thread may write.
    """

    def __init__(self, output: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._output = OnLoop(output)
        self._taken: list[str] = []
        self._lines = OutputLines(self._taken.append, clock)
        self._pieces = Pieces()
        self._lock = threading.Lock()  # never held while `output` runs, which may log, and so lock

    def write(self, text: str) -> None:
        """Take a piece of what is printed."""
        with self._lock:
            lines = self._feed(self._pieces.add(text))
        for line in lines:
            self._output(line)

    def close(self) -> None:
        """Take what has no end as lines: the plugin has ended."""
        with self._lock:
            lines = self._feed(self._pieces.end())
            self._lines.end()
            lines += self._feed("")
        for line in lines:
            self._output(line)

    def _feed(self, text: str) -> list[str]:
        if text:
            self._lines.feed(text.encode("utf-8", "backslashreplace"))
        taken = self._taken[:]
        self._taken.clear()
        return taken
