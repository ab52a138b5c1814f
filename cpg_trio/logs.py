"""What a process of this project writes to standard error: one line for each event, newest last.

Libraries only log; whoever runs a process calls `configure_logging`. The prefix is that of the other
implementations, so that what reads their logs reads ours.

Who logs never waits for who reads. A line is put into a buffer, and a thread writes what has gathered: with
one call, some 60 times a second at most, or at once from WARNING up. Whoever reads too slowly gets the last
lines that there was room for, and is told how many are missing. The thread is a daemon, since nothing tells a
thread in time that a program has come to its end; `logging` flushes and closes its handlers after that, and
waits for this one's thread for some seconds, but not for a reader who has stopped reading. Before a traceback
the lines that led to it are written. A process that is killed, or leaves through `os._exit`, takes the last
moment's lines with it. Processes that share a pipe have their lines whole as long as the pipe has room.
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

LONGEST_LINE = 32 * 1024  # characters: of a line, and of a traceback below one


class _BoundedFormatter(logging.Formatter):
    """Writes no more than `LONGEST_LINE` characters of a record, whatever is in it.

    What this project logs is one line, so that nothing that somebody else has said can pass for another one.
    What others log, and tracebacks, may have several.
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


# Loggers of what this project requires, which tell at INFO of each request, statement or frame.
_LIBRARIES = (
    *("asyncio", "h2", "hpack", "httpcore", "httpx", "hypercorn", "psycopg", "sqlalchemy", "trio-websocket"),
)
_FORMATTER = _BoundedFormatter("%(asctime)s %(message)s", DATE_FORMAT)
_ROOM = 8 * 1024 * 1024  # characters that wait to be written
_GATHER_S = 0.015
_PATIENCE_S = 3.0  # with a reader, when a process ends; it is waited for at most twice


def configure_logging(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Write the log to `stream`, standard error by default. What stood there before is replaced.

    What is written to anything but a file or a pipe can be read there after `flush`.
    """
    use_handler(LineHandler(sys.stderr if stream is None else stream), level)
    if not isinstance(sys.excepthook, _LinesFirst):
        sys.excepthook = _LinesFirst()


def use_handler(handler: logging.Handler, level: int = logging.INFO) -> None:
    """Send the log of a program to `handler`: of this project and its author's from `level` up.

    Of the libraries that this project stands on, only warnings, unless somebody has given them a level.
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
    """Wait until what has been logged is written, if somebody reads it; for `_PATIENCE_S` at most."""
    for handler in logging.getLogger().handlers:
        handler.flush()


class LineLog:
    """A logger for lines that are written many thousand times a second, all of them at INFO.

    Where they go is for `logging` to say, at each line anew: its levels, filters and handlers hold as for
    everybody. Only when nothing but the handler of `configure_logging` would get a line is it put there
    without a record being made of it, for less than a tenth of what that costs.
    """

    __slots__ = ("_logger", "_second")

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._second = 0.0, 0.0, ""  # its beginning, its end, and how it is written

    @property
    def enabled(self) -> bool:
        """Whether a line would be logged at all: ask before making one that is dear to make."""
        return self._logger.isEnabledFor(logging.INFO)

    def info(self, text: str) -> None:
        """Log one line. The caller answers for it that all of `text` is printable: it is written as it is."""
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
        """Return the handler that gets a line and does nothing else with it, or None if in any doubt."""
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
    """Writes lines to a stream, in a thread of its own that there is once there is something to write.

    Adding a line takes no lock, which would cost as much as all the rest of it. `_lines` is one list for
    good: anybody appends to it, and who writes cuts off its front; neither can be seen half done. The thread
    says that it rests and then looks whether there are lines; who adds one looks afterwards whether the
    thread rests: so one of them sees the other. `_added` may miss a line if two threads count at once.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self.setFormatter(_FORMATTER)
        self._sink = _Sink(stream)
        self._begin()
        _handlers.add(self)

    def _begin(self) -> None:
        """Begin with nothing: at first, and in a process that was forked, where no other thread is left."""
        self._lines: list[str] = []
        self._added = self._gone = 0  # characters, of which the thread alone counts what is gone
        self._dropped = 0  # lines
        self._resting = True  # whoever adds a line has to see to it that it is written
        self._urgent = self._closing = self._stuck = False
        self._taken = self._written = 0  # how often
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition(threading.RLock())  # a signal's handler may log, too

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, as soon as there is time."""
        try:
            self.append(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - as with any handler: what cannot be formatted is told of there
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self._urgent = True
            self._wake()

    def append(self, line: str) -> None:
        """Have a whole line, and perhaps more that belongs to it, written as soon as there is time."""
        size = len(line)
        if self._added - self._gone + size > _ROOM:
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
        """See to it that the thread writes, or write."""
        if self._thread is None and not self._start():
            self._write()
            return
        with self._changed:
            self._resting = False
            self._changed.notify_all()

    def _start(self) -> bool:
        """Start the thread, unless it is too late in the life of the process: then whoever logs writes."""
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
        """Wait until there is enough to write. Return whether there ever will be."""
        with self._changed:
            self._resting = True
            while not (self._lines or self._closing or (self._dropped and not self._stuck)):
                self._changed.wait()
                self._resting = True  # it was woken for a line that it had already written
            self._resting = False
            self._changed.wait_for(lambda: self._urgent or self._closing, _GATHER_S)
            return bool(self._lines) or not self._closing

    def _write(self) -> None:
        """Write what there is."""
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
        """Return the line that says how many were dropped in its place, if any were."""
        dropped, self._dropped = self._dropped, 0
        if not dropped:
            return ""
        return f"{_prefix(time.time())}{dropped} lines are missing here: they were not read in time\n"

    def flush(self) -> None:
        """Wait until what there is has been written, for `_PATIENCE_S` at most."""
        if self._thread is None:
            self._write()
            return
        with self._changed:
            target = self._taken + bool(self._lines)
            self._urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._written >= target, _PATIENCE_S)

    def close(self) -> None:
        """Write what there is, and let the thread end. What is logged later is written by who logs it."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_PATIENCE_S)
        if self._thread is None or not self._thread.is_alive():
            self._thread = None
            self._resting = True
            self._write()
        super().close()


class _Sink:
    """Where lines end up: a file descriptor, if the stream has one, or else the stream.

    The interpreter flushes its streams when it ends, and gives up with a fatal error when a thread is held up
    in one of them; so none of ours is.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None: the process was started without a standard error

    def write(self, text: str) -> bool:
        """Write all of `text`, however long it takes. Return whether that could be done."""
        try:
            self._write(text)
        except (OSError, ValueError):  # nobody is there any more, the disk is full, the stream is closed
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
        except BlockingIOError:  # so whoever shares it has it
            room = select.poll()
            room.register(descriptor, select.POLLOUT)
            room.poll()


def _prefix(now: float) -> str:
    return time.strftime(DATE_FORMAT, time.localtime(now)) + " "


class _LinesFirst:
    """Shows an exception that nobody has caught below the lines that were logged before it."""

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
