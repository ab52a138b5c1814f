"""The log of a process on standard error: one line for each event, newest last.

Libraries only log; the program calls `configure_logging`, which `process.run` does. What a line looks like is
in `_log_formats`, and how it is written in `_log_writer`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from difflib import get_close_matches
from enum import Enum
from types import TracebackType
from typing import Any, TextIO

import attrs
import trio

from cpg_trio import call_context
from cpg_trio._log_formats import (
    IDS,
    JSON_FIELDS,
    LONGEST_LINE,
    Formatter,
    JsonFormatter,
    TextFormatter,
    bounded,
    current_source,
    identify,
    log_source,
)
from cpg_trio._log_writer import LineHandler, dropped_lines
from cpg_trio.call_context import CallContext

__all__ = [
    "JSON_FIELDS",
    "LEVELS",
    "LineHandler",
    "LineLog",
    "LogConfig",
    "LogFormat",
    "TemporaryLevels",
    "add_call_context",
    "configure_if_needed",
    "configure_logging",
    "current_source",
    "dropped_lines",
    "flush",
    "giving_output",
    "identify",
    "ids",
    "log_source",
    "parse_levels",
    "report",
    "use_handler",
]

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
"""The levels by their names."""

# Loggers of libraries that log each request, statement or frame at INFO.
_LIBRARIES = (
    *("asyncio", "h2", "hpack", "httpcore", "httpx", "hypercorn", "psycopg", "sqlalchemy", "trio-websocket"),
)
_PROJECT = "cpg_trio"
_MOST_CHANGED = 100  # loggers whose level is another for a while


class LogFormat(Enum):
    """What a line of the log looks like."""

    TEXT = "text"
    JSON = "json"

    def formatter(self) -> Formatter:
        """Return a formatter of this format."""
        return JsonFormatter() if self is LogFormat.JSON else TextFormatter()


@attrs.frozen
class LogConfig:
    """The format of the log, and the levels from which loggers log."""

    format: LogFormat = LogFormat.TEXT
    levels: Mapping[str, int] = attrs.field(factory=dict)
    """By logger; that of "" is for all others, and is INFO if it is not there."""


def parse_levels(text: str) -> dict[str, int]:
    """Return the levels that `info,cpg_trio.router=warning` says. Raises: ValueError."""
    return dict(map(_parse_level, filter(None, map(str.strip, text.split(",")))))


def _parse_level(part: str) -> tuple[str, int]:
    logger, _, name = part.rpartition("=")
    level = LEVELS.get(name.strip().lower())
    if level is None or ("=" in part and not logger.strip()):
        raise ValueError(
            "must be like 'info' or 'info,cpg_trio.router=warning', a level and levels of loggers, where"
            f" levels are {', '.join(LEVELS)}; not {part!r}"
        )
    return logger.strip(), level


def configure_logging(
    level: int = logging.INFO,
    stream: TextIO | None = None,
    *,
    config: LogConfig | None = None,
) -> None:
    """Write the log to `stream`, standard error by default, in place of all handlers that there were.

    The levels of `config` come before `level`. A stream without a file descriptor, such as `io.StringIO`, has
    the lines after `flush`. With JSON, warnings of Python and tracebacks of exceptions that nothing has
    caught are lines of the log, too.
    """
    config = config or LogConfig()
    handler = LineHandler(sys.stderr if stream is None else stream, config.format.formatter())
    use_handler(handler, level)
    _set_levels(config.levels)
    if config.format is LogFormat.JSON:
        logging.captureWarnings(capture=True)
    if not isinstance(sys.excepthook, _FlushingExcepthook):
        sys.excepthook = _FlushingExcepthook()


def configure_if_needed(config: LogConfig) -> None:
    """Configure the log of a program, unless the program has done that itself.

    Handlers of the program stay, with their format. But a program that has set no level, so that Python's
    WARNING holds, logs from INFO up, and levels that `config` names hold in any case. The handler that
    `logging` itself adds when somebody calls `logging.info(...)` before the log is configured is replaced.
    """
    root = logging.getLogger()
    if all(map(_is_left_over, root.handlers)):
        configure_logging(config=config)
        return
    if config.levels or root.level == logging.WARNING:
        _apply_level(config.levels.get("", logging.INFO if root.level == logging.WARNING else root.level))
        _set_levels(config.levels)
    if config.format is not LogFormat.TEXT:
        logging.getLogger(_PROJECT).warning(
            "LOG_FORMAT is not used: the program has handlers of its own for its log"
        )


def _is_left_over(handler: logging.Handler) -> bool:
    """Whether a handler is as `logging.basicConfig()` adds it, and nobody has set a level."""
    record = logging.makeLogRecord({"levelname": "level", "name": "name", "msg": "message"})
    return (
        type(handler) is logging.StreamHandler
        and handler.stream in (sys.stderr, sys.__stderr__)
        and handler.format(record) == "level:name:message"  # logging.BASIC_FORMAT
        and logging.getLogger().level == logging.WARNING
    )


def use_handler(handler: logging.Handler, level: int = logging.INFO) -> None:
    """Send the log of a program to `handler`: messages from `level` up.

    The libraries that this project requires log only warnings, unless they have been given a level.
    """
    root = logging.getLogger()
    before, root.handlers[:] = root.handlers[:], [handler]
    _apply_level(level)
    for replaced in before:
        if isinstance(replaced, LineHandler):
            replaced.close()


def _apply_level(level: int) -> None:
    logging.getLogger().setLevel(level)
    logging.getLogger(_PROJECT).setLevel(level)
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        if library.level == logging.NOTSET:
            library.setLevel(max(level, logging.WARNING))


def _set_levels(levels: Mapping[str, int]) -> None:
    if "" in levels:
        _apply_level(levels[""])
    for name, level in levels.items():
        if name:
            logging.getLogger(name).setLevel(level)


def flush() -> None:
    """Wait until the lines are written, for some seconds at most."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def report(reasons: Iterable[str]) -> None:
    """Write why a program ends: below the lines that wait, and as lines of the log if those are JSON."""
    if _is_json():
        for reason in reasons:
            logging.getLogger(_PROJECT).critical("%s", reason)
        flush()
    else:
        flush()
        sys.stderr.writelines(f"{reason}\n" for reason in reasons)


def _is_json() -> bool:
    handlers = logging.getLogger().handlers
    return any(
        isinstance(each, LineHandler) and isinstance(each.formatter, JsonFormatter) for each in handlers
    )


def add_call_context(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the request id and the trace of the call that is served to an event: a processor for structlog."""
    for name, value in ids(call_context.current()).items():
        event.setdefault(name, value)
    return event


class LineLog:
    """A logger for lines at INFO that are written many thousand times a second.

    The levels, filters and handlers of `logging` apply, and are looked up for each line. If only the handler
    of `configure_logging` gets a line, the line goes there without a `LogRecord`, for less than a tenth of
    the cost.
    """

    __slots__ = ("_logger", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._logger = logging.getLogger(name)

    def info(self, text: str, context: CallContext | None = None) -> None:
        """Log one line, of the call with this context; by default of the call that is served.

        It is written as it is: the caller makes sure that all of `text` is printable.
        """
        if context is None:
            context = call_context.current()
        if len(text) > LONGEST_LINE:
            text = bounded(text)
        handler = self._only_handler()
        if handler is None:
            self._logger.info(text, stacklevel=2, extra=ids(context))
        else:
            line = handler.own_formatter.line(self._name, text, context)
            handler.append(line)
            if (source := current_source.get()) is not None and source.output is not None:
                source.output(line[:-1])

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
        plain = handler.formatter is handler.own_formatter and logger.__class__ is logging.Logger
        return handler if plain and logging.getLogRecordFactory() is logging.LogRecord else None


def ids(context: CallContext) -> dict[str, str]:
    """Return the ids of a call, which are the `extra` of a record of a call that is not the current one."""
    return {name: value for name in IDS if (value := getattr(context, name))}


class _ToOutput(logging.Handler):
    """Gives lines to the output of who logs them, in a program whose handlers are its own."""

    def __init__(self, output: Callable[[str], object]) -> None:
        super().__init__()
        self._output = output
        self.setFormatter(TextFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        source = current_source.get()
        if source is not None and source.output is self._output:
            self._output(self.format(record))


@contextmanager
def giving_output(
    name: str, output: Callable[[str], object], printed: Callable[[str], object] | None = None
) -> Iterator[None]:
    """Give the lines that the block logs, and the tasks that are started in it, to `output`, too.

    They name `name`. In the log they are in any case. `printed` is given what they print, in pieces, by a
    program that shows that.
    """
    root = logging.getLogger()
    is_alone = not any(isinstance(each, LineHandler) for each in root.handlers)
    handler = _ToOutput(output) if is_alone else None
    if handler is not None:
        root.addHandler(handler)
    try:
        with log_source(name, output, printed):
            yield
    finally:
        if handler is not None:
            root.removeHandler(handler)


class TemporaryLevels:
    """Levels of loggers that hold for a while. `run` restores what was there before."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._before: dict[str, int] = {}
        self._changed = trio.Event()

    def set(self, logger: str, level: str, for_s: float) -> None:
        """Have a logger log from `level` up for some seconds; "" is all loggers without a level of their own.

        A second call for the same logger takes the place of the first. Raises: ValueError for a logger or a
        level that does not exist, for a time that is not above 0, and for too many loggers.
        """
        if level not in LEVELS:
            raise ValueError(f"a level is one of {', '.join(LEVELS)}, not {level!r:.100}")
        if not for_s > 0:
            raise ValueError(f"a level holds for a time above 0 s, not {for_s:g} s")
        names = _named(logger)
        if len(self._until.keys() | set(names)) > _MOST_CHANGED:
            raise ValueError(
                f"not more than {_MOST_CHANGED} loggers can have another level: restore one first"
            )
        for name in names:
            found = logging.getLogger(name)
            self._before.setdefault(name, found.level)
            self._until[name] = trio.current_time() + for_s
            found.setLevel(LEVELS[level])
        self._changed.set()

    def restore(self, logger: str) -> None:
        """Give a logger the level that it had; nothing happens if it has no other. Raises: ValueError."""
        for name in _named(logger):
            self._restore(name)

    def _restore(self, name: str) -> None:
        if self._until.pop(name, None) is not None:
            logging.getLogger(name).setLevel(self._before.pop(name))

    async def run(self) -> None:
        """Restore each level when its time is over, and all of them when this is cancelled."""
        try:
            while True:
                self._changed = trio.Event()
                with trio.move_on_at(min(self._until.values(), default=float("inf"))):
                    await self._changed.wait()
                now = trio.current_time()
                for name in [name for name, until in self._until.items() if until <= now]:
                    self._restore(name)
        finally:
            for name in list(self._until):
                self._restore(name)


def _named(logger: str) -> tuple[str, ...]:
    """Return the loggers that a level is set of. Raises: ValueError for one that does not exist."""
    if not logger:
        return "", _PROJECT
    known = logging.root.manager.loggerDict
    if logger not in known:
        near = get_close_matches(logger[:200], sorted(known), n=1)
        hint = f"; {near[0]} is: is that meant?" if near else ""
        raise ValueError(f"{logger!r:.200} is not a logger of this process{hint}")
    return (logger,)


class _FlushingExcepthook:
    """Writes the lines that wait before the traceback of an exception that nothing has caught.

    If the lines are JSON, the traceback is one of them.
    """

    def __init__(self) -> None:
        self._show = sys.excepthook

    def __call__(
        self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if _is_json() and not issubclass(kind, KeyboardInterrupt):
            text = f"{kind.__name__} ended the program"
            logging.getLogger(_PROJECT).critical(text, exc_info=(kind, error, traceback))
            flush()
            return
        flush()
        self._show(kind, error, traceback)
