"""The writer of the log: a thread that writes lines, so that nothing that logs waits for its reader.

It writes all lines that wait with one call: some 60 times a second at most, and at once for a warning or
worse. If the reader is too slow, lines above `_MAX_WAITING` are dropped, and a line in their place has their
number.

The thread is a daemon, as a thread that is none keeps a program from ending. `logging` flushes and closes
handlers at the end of a program, and that waits some seconds for the thread, but not for a reader that has
stopped reading. The lines before a traceback are written before it. A process that is killed, or leaves by
`os._exit`, loses the lines of the last moment. Processes that share a pipe write whole lines while the pipe
has room.

Tried before: a line takes `logging.StreamHandler` ten times as long, for its record, its lock and its write.
`logging.handlers.QueueHandler` saves only the write.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import TextIO
from weakref import WeakSet

from cpg_trio._log_formats import Formatter, TextFormatter, current_source
from cpg_trio.call_context import NO_CALL

_MAX_WAITING = 8 * 1024 * 1024  # characters that wait to be written
_GATHER_S = 0.015  # from the first line that waits until the lines are written
_NAME = "cpg_trio"  # of the logger of the lines that say how many are missing
_FLUSH_TIMEOUT_S = 3.0  # at the end of a process it passes at most twice


class _Dropped:
    """How many lines of this process were dropped."""

    lines = 0


def dropped_lines() -> int:
    """Return how many lines this process has dropped, as nobody has read them in time."""
    return _Dropped.lines


class LineHandler(logging.Handler):
    """Writes lines to a stream, in a thread that starts with the first line.

    To add a line takes no lock: that would double the cost. `_lines` is never replaced. Any thread appends to
    it, and the writing thread deletes its front; both are atomic. No wake-up is lost: the writing thread sets
    `_resting` and then looks for lines, and a thread that adds one looks at `_resting` afterwards. `_added`
    may miss a line when two threads add at once.
    """

    def __init__(self, stream: TextIO | None, form: Formatter | None = None) -> None:
        super().__init__()
        self.own_formatter = form or TextFormatter()  # also of the lines that say how many are missing
        self.setFormatter(self.own_formatter)
        self._sink = Sink(stream, self.own_formatter.encoding)
        self._begin()
        _handlers.add(self)

    def _begin(self) -> None:
        """Begin without lines: at first, and in a forked process, which has no other thread."""
        self._lines: list[str] = []
        self._added = self._gone = 0  # characters; only the writing thread changes `_gone`
        self._dropped = 0  # lines
        self._resting = True  # a thread that adds a line has to wake the writing one
        self._urgent = self._closing = self._stuck = False
        self._taken = self._written = 0  # batches
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition(threading.RLock())  # a signal's handler may log, too

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written."""
        try:
            line = self.format(record)
            self.append(f"{line}\n")
            if (source := current_source.get()) is not None and source.output is not None:
                source.output(line)
        except Exception:  # noqa: BLE001 - as every handler does: a record that cannot be formatted
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self._urgent = True
            self._wake()

    def append(self, line: str) -> None:
        """Have a whole line written, or several that belong together."""
        size = len(line)
        if self._added - self._gone + size > _MAX_WAITING:
            self._dropped += 1
            _Dropped.lines += 1
            return
        if self._dropped:
            line = self._missing() + line
            size = len(line)
        self._added += size
        self._lines.append(line)
        if self._resting:
            self._wake()

    def _wake(self) -> None:
        """Wake the writing thread, or write if there can be none."""
        if self._thread is None and not self._start():
            self._write()
            return
        with self._changed:
            self._resting = False
            self._changed.notify_all()

    def _start(self) -> bool:
        """Start the thread; return False at the end of a process, when none can be started."""
        with self._changed:
            if self._closing or self._thread is not None:
                return not self._closing
            thread = threading.Thread(target=self._run, name="cpg_trio log", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
            return True

    def _run(self) -> None:
        while self._gather():
            self._write()

    def _gather(self) -> bool:
        """Wait for lines, and then for more of them. Return False if there will be none any more."""
        with self._changed:
            self._resting = True
            while not (self._lines or self._closing or (self._dropped and not self._stuck)):
                self._changed.wait()
                self._resting = True  # woken for a line that was written already
            self._resting = False
            self._changed.wait_for(lambda: self._urgent or self._closing, _GATHER_S)
            return bool(self._lines) or not self._closing

    def _write(self) -> None:
        """Write the lines that wait."""
        with self._changed:
            self._urgent = False
            self._taken += 1
            count = len(self._lines)
            lines = self._lines[:count]
            del self._lines[:count]
        text = "".join(lines)
        written = self._sink.write(text + self._missing())
        with self._changed:
            self._gone += len(text)
            self._stuck = not written
            if not written:
                self._dropped += count
                _Dropped.lines += count
            self._written += 1
            self._changed.notify_all()

    def _missing(self) -> str:
        """Return a line with the number of lines that were dropped, empty if none were."""
        dropped, self._dropped = self._dropped, 0
        if not dropped:
            return ""
        text = f"{dropped} lines are missing here: they were not read in time"
        return self.own_formatter.line(_NAME, text, NO_CALL, "warning")

    def flush(self) -> None:
        """Wait until the lines that wait are written, for `_FLUSH_TIMEOUT_S` at most."""
        if self._thread is None:
            self._write()
            return
        with self._changed:
            target = self._taken + bool(self._lines)
            self._urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._written >= target, _FLUSH_TIMEOUT_S)

    def close(self) -> None:
        """Write the lines that wait, and end the thread. A line that is logged later is written at once."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_FLUSH_TIMEOUT_S)
        if self._thread is None or not self._thread.is_alive():
            self._thread = None
            self._resting = True
            self._write()
        super().close()


class Sink:
    """The target of lines: the stream's file descriptor, or the stream if it has none.

    The interpreter flushes its streams at its end, and dies with a fatal error if a daemon thread holds the
    lock of one of them. So the thread does not use the stream where it can do without.
    """

    def __init__(self, stream: TextIO | None, encoding: str) -> None:
        self._stream = stream  # None: the process was started without a standard error
        self._encoding = encoding  # empty: that of the stream

    def write(self, text: str) -> bool:
        """Write all of `text`, however long it takes. Return False if that is not possible."""
        try:
            self._write(text)
        except (OSError, ValueError):  # no reader, a full disk, a closed stream
            return False
        return True

    def _write(self, text: str) -> None:
        if self._stream is None or not text:
            return
        try:
            descriptor = self._stream.fileno()
        except OSError:  # it has none
            self._stream.write(text)
            self._stream.flush()
        else:
            _write_all(descriptor, text.encode(self._encoding or self._stream.encoding, "backslashreplace"))


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:  # another process has set it to non-blocking
            room = select.poll()
            room.register(descriptor, select.POLLOUT)
            room.poll()


_handlers: WeakSet[LineHandler] = WeakSet()


def _forget_all() -> None:
    for handler in _handlers:
        handler._begin()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_forget_all)
