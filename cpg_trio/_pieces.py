"""Lines from the pieces in which programs print them. No I/O."""

from __future__ import annotations

import threading

_MOST_THREADS = 100  # that have begun a line
_MOST_CHARACTERS = 16 * 1024  # of a line without its end; the rest of it is left out


class Pieces:
    """Joins pieces to lines, those of each thread for itself: `print` writes a text and its end apart.

    Its owner sees to it that one thread at a time calls it.
    """

    def __init__(self) -> None:
        self._begun: dict[int, str] = {}  # by thread

    def add(self, text: str) -> str:
        """Add a piece of the thread of now; return the lines that are whole, with their ends."""
        thread = threading.get_ident()
        begun = self._begun.pop(thread, "")
        whole, end, rest = text.rpartition("\n")
        if end:
            whole, begun = begun + whole + end, ""
        if rest := (begun + rest)[:_MOST_CHARACTERS] if len(begun) < _MOST_CHARACTERS else begun:
            self._begun[thread] = rest
        if len(self._begun) > _MOST_THREADS:  # of which most have ended
            whole += self._begun.pop(next(iter(self._begun))) + "\n"
        return whole

    def end(self) -> str:
        """Return what has been begun, as whole lines."""
        lines = "".join(f"{each}\n" for each in self._begun.values())
        self._begun.clear()
        return lines
