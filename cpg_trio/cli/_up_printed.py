"""What the program of `cpg-trio up` prints, as lines among those of its plugins.

A text that is written past the screen breaks its picture, and one between JSON documents is none. So
standard output and standard error are streams of lines here: a line that a plugin prints which is a task is
its output, as that of a process is, and all others are lines of the host.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from cpg_trio._log_formats import current_source
from cpg_trio._pieces import Pieces
from cpg_trio.cli._up_view import UpView

_DEBUGGERS = frozenset({"bdb", "cmd", "pdb"})  # modules that write where a program stands still
_PDB = ("", "0", "pdb.set_trace")  # as PYTHONBREAKPOINT names it, or none


@contextmanager
def printed_lines(view: UpView) -> Iterator[None]:
    """Have a view show each line that is printed in the block, unless it is a plugin's. Any thread may print.

    A debugger has the terminal: from its first line on, all is printed as ever.
    """
    printed = _Printed(view.line)
    streams = sys.stdout, sys.stderr
    breakpointhook = sys.breakpointhook

    def restore() -> None:
        sys.stdout, sys.stderr = streams
        printed.end()

    def make_way() -> None:
        restore()
        view.make_room()

    def debug(*args: Any, **kwargs: Any) -> Any:
        make_way()
        return breakpointhook(*args, **kwargs)

    for name in ("stdout", "stderr"):
        if (real := getattr(sys, name)) is not None:  # None: the process was started without it
            setattr(sys, name, cast(TextIO, _Stream(real, printed, make_way)))
    if os.environ.get("PYTHONBREAKPOINT", "") not in _PDB:
        sys.breakpointhook = debug  # pdb would stop here, and not where it is to; it is known by its lines
    try:
        yield
    finally:
        sys.breakpointhook = breakpointhook
        restore()


class _Printed:
    """Tells whose each line is."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show
        self._pieces = Pieces()
        self._lock = threading.Lock()
        self._busy = threading.local()
        self._has_ended = False

    def write(self, text: str) -> bool:
        """Take a piece. Return whether it will be shown: False within what shows one, and after the end."""
        if self._has_ended or getattr(self._busy, "is_busy", False):
            return False
        self._busy.is_busy = True
        try:
            source = current_source.get()
            if source is not None and source.printed is not None:
                source.printed(text)
            else:
                with self._lock:
                    lines = self._pieces.add(text)
                self._show_each(lines)
        finally:
            self._busy.is_busy = False
        return True

    def end(self) -> None:
        """Show what has no end as lines, and take nothing more."""
        with self._lock:
            lines, self._has_ended = self._pieces.end(), True
        self._show_each(lines)

    def _show_each(self, lines: str) -> None:
        for line in lines.split("\n")[:-1]:
            self._show(line)


class _Stream(io.TextIOBase):
    """In the place of a stream of the process, whose descriptor it has."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, real: TextIO, printed: _Printed, make_way: Callable[[], None]) -> None:
        self._real = real
        self._printed = printed
        self._make_way = make_way
        self.buffer = _Bytes(self)

    def write(self, text: str, /) -> int:
        """See `io.TextIOBase`."""
        if sys._getframe(1).f_globals.get("__name__") in _DEBUGGERS:  # noqa: SLF001 - as debuggers do
            self._make_way()
        return len(text) if self._printed.write(text) else self._real.write(text)

    def flush(self) -> None:
        """See `io.IOBase`. A line without its end waits for that."""
        self._real.flush()

    def fileno(self) -> int:
        """See `io.IOBase`."""
        return self._real.fileno()

    def writable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def close(self) -> None:
        """Do nothing: a plugin that closes its standard output does not close the host's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Bytes(io.RawIOBase):
    """The binary side of a stream."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def write(self, data: Any, /) -> int:
        """See `io.RawIOBase`."""
        view = memoryview(data)
        self._stream.write(bytes(view).decode("utf-8", "backslashreplace"))
        return view.nbytes

    def writable(self) -> bool:
        """See `io.IOBase`."""
        return True
