"""The two formats of a line of the log: text for people, and JSON for programs.

Both have two ways to a line: `format` for the records of `logging`, and `line` for `LineLog`, which has no
record. Each line tells which call it belongs to, if it belongs to one.

The prefix of a line of text is that of the other implementations, so that tools that read their logs read
these.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from json.encoder import encode_basestring as quoted
from typing import Any

from cpg_trio import call_context
from cpg_trio._lines import one_line
from cpg_trio.call_context import CallContext

DATE_FORMAT = "%Y/%m/%d %H:%M:%S"

LONGEST_LINE = 32 * 1024  # characters of a message, also of a traceback
_MOST_FIELDS = 32  # of a record's own
_LONGEST_FIELD = 1024  # characters

JSON_FIELDS = "json_fields"
"""The `extra` of fields for JSON alone: in text, the message has them already."""

IDS = ("request_id", "trace_id", "span_id")
"""What a line has of the context of its call, as `CallContext` names it."""
# What a line of JSON has of its own. A field of a record with such a name gets a "_" behind it.
_NAMES = frozenset({"time", "level", "logger", "message", "plugin", "runtime_id", "exception", "stack", *IDS})
_OF_EACH = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_NOT_FIELDS = frozenset({*_OF_EACH, JSON_FIELDS, *IDS})


class LogSource:
    """Which program of a process logs: a plugin, or the host."""

    __slots__ = ("_runtime_id", "json", "name", "output", "printed")

    def __init__(
        self,
        name: str,
        output: Callable[[str], object] | None = None,
        printed: Callable[[str], object] | None = None,
    ) -> None:
        self.name = name
        self.output = output
        """Is given each line that it logs, without its end, beside the log."""
        self.printed = printed
        """Is given the pieces of what it prints, where a program shows that as its own."""
        self.runtime_id = ""

    @property
    def runtime_id(self) -> str:
        """The identity that its host has given it; empty while it has none."""
        return self._runtime_id

    @runtime_id.setter
    def runtime_id(self, runtime_id: str) -> None:
        self._runtime_id = runtime_id
        self.json = f',"plugin":{quoted(self.name)}'
        if runtime_id:
            self.json += f',"runtime_id":{quoted(runtime_id)}'


_sources: list[LogSource] = []
current_source: ContextVar[LogSource | None] = ContextVar("who logs", default=None)
"""Whose lines are logged now, where a process has a host and plugins; None for those of the program."""


@contextmanager
def log_source(
    name: str,
    output: Callable[[str], object] | None = None,
    printed: Callable[[str], object] | None = None,
) -> Iterator[LogSource]:
    """Have the lines of the block, and of the tasks that are started in it, name a plugin, or `host`.

    `output` is given these lines, too, and `printed` what is printed; by default what the block around this
    one has.
    """
    if (around := current_source.get()) is not None:
        output, printed = output or around.output, printed or around.printed
    source = LogSource(name, output, printed)
    token = current_source.set(source)
    _sources.append(source)
    try:
        yield source
    finally:
        _sources.remove(source)
        current_source.reset(token)


def identify(runtime_id: str) -> None:
    """Have the lines of the plugin that runs here tell its identity."""
    if (source := current_source.get()) is not None:
        source.runtime_id = runtime_id


def _who() -> str:
    """Return the fields of who logs; in a thread of an author's, those of the only one that it can be."""
    source = current_source.get()
    if source is None and len(_sources) == 1:
        source = _sources[0]
    return "" if source is None else source.json


def bounded(text: str) -> str:
    """Return a text of at most `LONGEST_LINE` characters, and a note of how many are missing."""
    if len(text) <= LONGEST_LINE:
        return text
    return f"{text[:LONGEST_LINE]}… ({len(text) - LONGEST_LINE} more characters)"


class Formatter(logging.Formatter):
    """Formats records, and lines without a record."""

    encoding = ""
    """Of what is written; empty for that of the stream."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", DATE_FORMAT)
        self._second = 0.0, 0.0, ""  # of the last line: its begin, its end, and what it gives

    def line(self, logger: str, text: str, context: CallContext, level: str = "info") -> str:
        """Return a line of this moment with its end. All of `text` is printable."""
        raise NotImplementedError

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record. If its arguments do not fit its message, the text says so."""
        try:
            return self._format(record)
        except Exception as error:  # noqa: BLE001 - whatever the arguments raise
            readable = copy.copy(record)
            readable.msg, readable.args = (
                f"{record.msg!r:.1000} (its arguments do not fit: {error!r:.200})",
                (),
            )
            return self._format(readable)

    def _format(self, record: logging.LogRecord) -> str:
        raise NotImplementedError

    def _begin(self, now: float) -> str:
        """Return what each line of a second begins with."""
        begin, end, text = self._second
        if not begin <= now < end:
            begin, text = now // 1, self._begin_anew(now)
            self._second = begin, begin + 1, text
        return text

    def _begin_anew(self, now: float) -> str:
        raise NotImplementedError


class TextFormatter(Formatter):
    """Lines for people: date, time, message, the fields of the record, and the request id of a call.

    A message of this project becomes one line, so that no text of a stranger in it can pass for another line.
    Messages of other libraries, and tracebacks, may have several lines.
    """

    def line(self, logger: str, text: str, context: CallContext, level: str = "info") -> str:  # noqa: ARG002
        """See `Formatter.line`."""
        prefix = self._begin(time.time())
        request_id = context.request_id
        return f"{prefix}{text} id={request_id}\n" if request_id else f"{prefix}{text}\n"

    def _format(self, record: logging.LogRecord) -> str:
        return bounded(super(Formatter, self).format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the library
        """See `logging.Formatter`."""
        text = super().formatMessage(record)
        if not text.isprintable() and record.name.partition(".")[0] == "cpg_trio":
            text = one_line(text, LONGEST_LINE)
        fields = "".join(f" {_word(name)}={_word(_text(value))}" for name, value in _fields(record))
        request_id = record.__dict__.get("request_id", call_context.current().request_id)
        return f"{text}{fields} id={_word(_text(request_id))}" if request_id else f"{text}{fields}"

    def _begin_anew(self, now: float) -> str:
        return time.strftime(DATE_FORMAT, time.localtime(now)) + " "


class JsonFormatter(Formatter):
    """Lines for programs: each is one JSON object in UTF-8, whatever is in it."""

    encoding = "utf-8"

    def line(self, logger: str, text: str, context: CallContext, level: str = "info") -> str:
        """See `Formatter.line`."""
        now, ids = time.time(), ""
        if context.request_id:
            ids = f',"request_id":"{context.request_id}"'
        if context.traceparent:
            ids += f',"trace_id":"{context.trace_id}","span_id":"{context.span_id}"'
        begin = f'{self._begin(now)}{int(now % 1 * 1e6):06d}Z","level":"{level}","logger":"{logger}"'
        return f'{begin},"message":{quoted(text)}{_who()}{ids}}}\n'

    def _format(self, record: logging.LogRecord) -> str:
        now = record.created
        parts = [
            f'{self._begin(now)}{int(now % 1 * 1e6):06d}Z","level":{quoted(record.levelname.lower())}',
            f'"logger":{quoted(record.name)}',
            f'"message":{quoted(bounded(record.getMessage()))}{_who()}',
        ]
        context, own = call_context.current(), record.__dict__
        ids = {name: own.get(name, getattr(context, name)) for name in IDS}
        parts += (f'"{name}":{quoted(_text(value))}' for name, value in ids.items() if value)
        fields = [*_fields(record), *own.get(JSON_FIELDS, {}).items()]
        parts += (f"{quoted(name + '_' * (name in _NAMES))}:{_json(value)}" for name, value in fields)
        if record.exc_info:
            parts.append(f'"exception":{quoted(bounded(self.formatException(record.exc_info)))}')
        if record.stack_info:
            parts.append(f'"stack":{quoted(bounded(self.formatStack(record.stack_info)))}')
        line = ",".join(parts) + "}"
        return line if line.isprintable() else "".join(map(_escaped, line))

    def _begin_anew(self, now: float) -> str:
        return f'{{"time":"{time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))}.'


def _fields(record: logging.LogRecord) -> list[tuple[str, Any]]:
    """Return what a record has besides what each has: the `extra` of who has logged it."""
    if len(record.__dict__) <= len(_NOT_FIELDS) and record.__dict__.keys() <= _NOT_FIELDS:
        return []
    fields = [(name, value) for name, value in record.__dict__.items() if name not in _NOT_FIELDS]
    return [(_text(name), value) for name, value in fields[:_MOST_FIELDS]]


def _text(value: object) -> str:
    """Return a value as a text of a bounded length."""
    try:
        return str(value)[:_LONGEST_FIELD]
    except Exception:  # noqa: BLE001 - whatever the type of a stranger raises
        return f"({type(value).__name__})"


def _word(text: str) -> str:
    """Return a text as one word; one that is none is put in quotes."""
    if text.isascii() and text.isprintable() and text and not set(text) & set(' "=\\'):
        return text
    return "".join(map(_escaped, quoted(text)))


def _json(value: object) -> str:
    """Return a value as JSON. What JSON has no type for, or is too long, becomes a string."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_text)
    except (TypeError, ValueError, RecursionError):
        return quoted(_text(value))
    return text if len(text) <= _LONGEST_FIELD else quoted(text[:_LONGEST_FIELD] + "…")


def _escaped(character: str) -> str:
    """Return a character as a string of JSON may have it, on one line of every reader."""
    if character.isprintable():
        return character
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:  # noqa: PLR2004 - a half of a pair, which is no character
        return "\\ufffd"
    return json.dumps(character)[1:-1]
