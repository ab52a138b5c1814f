"""The log of a process on standard error: one line for each event, newest last.

Libraries only log; the program calls `configure_logging`. The prefix of a line is that of the other
implementations, so that tools that read their logs read these.

A thread writes the lines, so that nothing that logs waits for the reader of the log. It writes all lines that
wait with one call: some 60 times a second at most, and at once for a warning or worse. If the reader is too
slow, lines above `_MAX_WAITING` are dropped, and a line in their place has their number.

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
import sys
import threading
import time
from types import TracebackType
from typing import TextIO
from weakref import WeakSet

from cpg_trio._lines import one_line

DATE_FORMAT = "%Y/%m/%d %H:%M:%S"

LONGEST_LINE = 32 * 1024  # characters, also of a traceback


class _BoundedFormatter(logging.Formatter):
    """Formats a record as at most `LONGEST_LINE` characters.

    A message of this project becomes one line, so that no text of a stranger in it can pass for another line.
    Messages of other libraries, and tracebacks, may have several lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the library
        text = super().formatMessage(record)
        if text.isprintable() or record.name.partition(".")[0] != "cpg_trio":
            return text
        return one_line(text, LONGEST_LINE)

    def format(self, record: logging.LogRecord) -> str:
        return _bounded(super().format(record))


def _bounded(text: str) -> str:
    if len(text) <= LONGEST_LINE:
        return text
    return f"{text[:LONGEST_LINE]}… ({len(text) - LONGEST_LINE} more characters)"


# Loggers of libraries that log each request, statement or frame at INFO.
_LIBRARIES = (
    *("asyncio", "h2", "hpack", "httpcore", "httpx", "hypercorn", "psycopg", "sqlalchemy", "trio-websocket"),
)
_FORMATTER = _BoundedFormatter("%(asctime)s %(message)s", DATE_FORMAT)
_MAX_WAITING = 8 * 1024 * 1024  # characters that wait to be written
_GATHER_S = 0.015  # from the first line that waits until the lines are written
_FLUSH_TIMEOUT_S = 3.0  # at the end of a process it passes at most twice


def configure_logging(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Write the log to `stream`, standard error by default, in place of all handlers that there were.

    A stream without a file descriptor, such as `io.StringIO`, has the lines after `flush`.
    """
    use_handler(LineHandler(sys.stderr if stream is None else stream), level)
    if not isinstance(sys.excepthook, _FlushingExcepthook):
        sys.excepthook = _FlushingExcepthook()


def use_handler(handler: logging.Handler, level: int = logging.INFO) -> None:
    """Send the log of a program to `handler`: messages from `level` up.

    The libraries that this project requires log only warnings, unless they have been given a level.
    """
    root = logging.getLogger()
    before, root.handlers[:] = root.handlers[:], [handler]
    root.setLevel(level)
    logging.getLogger("cpg_trio").setLevel(level)
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        if library.level == logging.NOTSET:
            library.setLevel(max(level, logging.WARNING))
    for replaced in before:
        if isinstance(replaced, LineHandler):
            replaced.close()


def flush() -> None:
    """Wait until the lines are written, for `_FLUSH_TIMEOUT_S` at most."""
    for handler in logging.getLogger().handlers:
        handler.flush()


class LineLog:
    """A logger for lines at INFO that are written many thousand times a second.

    The levels, filters and handlers of `logging` apply, and are looked up for each line. If only the handler
    of `configure_logging` gets a line, the line goes there without a `LogRecord`, for less than a tenth of
    the cost.
    """

    __slots__ = ("_logger", "_second")

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._second = 0.0, 0.0, ""  # of the last line: its begin, its end, and the prefix that it gives

    def info(self, text: str) -> None:
        """Log one line. It is written as it is: the caller makes sure that all of `text` is printable."""
        handler = self._only_handler()
        if len(text) > LONGEST_LINE:
            text = _bounded(text)
        if handler is None:
            self._logger.info(text, stacklevel=2)
            return
        now = time.time()
        begin, end, prefix = self._second
        if not begin <= now < end:
            begin, prefix = now // 1, _prefix(now)
            self._second = begin, begin + 1, prefix
        handler.append(f"{prefix}{text}\n")

    def _only_handler(self) -> LineHandler | None:
        """Return the handler if it is the only one that gets a line, and gets all of it; otherwise None."""
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO) or logger.filters:
            return None
        at = logger
        while not at.handlers and at.propagate and (parent := at.parent):
            at = parent
        if len(at.handlers) != 1 or (at.parent is not None and at.propagate):
            return None
        handler = at.handlers[0]
        if handler.__class__ is not LineHandler or handler.level > logging.INFO or handler.filters:
            return None
        plain = handler.formatter is _FORMATTER and logger.__class__ is logging.Logger
        return handler if plain and logging.getLogRecordFactory() is logging.LogRecord else None


class LineHandler(logging.Handler):
    """Writes lines to a stream, in a thread that starts with the first line.

    To add a line takes no lock: that would double the cost. `_lines` is never replaced. Any thread appends to
    it, and the writing thread deletes its front; both are atomic. No wake-up is lost: the writing thread sets
    `_resting` and then looks for lines, and a thread that adds one looks at `_resting` afterwards. `_added`
    may miss a line when two threads add at once.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self.setFormatter(_FORMATTER)
        self._sink = _Sink(stream)
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
            self.append(self.format(record) + "\n")
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
            self._written += 1
            self._changed.notify_all()

    def _missing(self) -> str:
        """Return a line with the number of lines that were dropped, empty if none were."""
        dropped, self._dropped = self._dropped, 0
        if not dropped:
            return ""
        return f"{_prefix(time.time())}{dropped} lines are missing here: they were not read in time\n"

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


class _Sink:
    """The target of the lines: the stream's file descriptor, or the stream if it has none.

    The interpreter flushes its streams at its end, and dies with a fatal error if a daemon thread holds the
    lock of one of them. So the thread does not use the stream where it can do without.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None: the process was started without a standard error

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
            _write_all(descriptor, text.encode(self._stream.encoding, "backslashreplace"))


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:  # another process has set it to non-blocking
            room = select.poll()
            room.register(descriptor, select.POLLOUT)
            room.poll()


def _prefix(now: float) -> str:
    return time.strftime(DATE_FORMAT, time.localtime(now)) + " "


class _FlushingExcepthook:
    """Writes the lines that wait before the traceback of an exception that nothing has caught."""

    def __init__(self) -> None:
        self._show = sys.excepthook

    def __call__(
        self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        flush()
        self._show(kind, error, traceback)


_handlers: WeakSet[LineHandler] = WeakSet()


def _forget_all() -> None:
    for handler in _handlers:
        handler._begin()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_forget_all)
