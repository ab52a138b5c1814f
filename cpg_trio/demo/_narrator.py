"""The output of the demo: the log of host and plugins, for people at a terminal."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from typing import TextIO

from cpg_trio._terminal import tolerant

_PARTS = {
    "cpg_trio.host": ("host", "34"),
    "cpg_trio.router": ("router", "35"),
    "cpg_trio.plugin": ("plugin", "32"),
    "cpg_trio.demo.logger": ("logger", "33"),
    "cpg_trio.demo": ("demo", "36"),
    "cpg_trio.http": ("demo", "36"),
    "cpg_trio.host.plugins": ("host", "34"),
}
_ERASE = "\r\x1b[K"  # the line that the cursor is in
# What the log of a plugin in a process of its own adds to its text: its name and the time, and the request.
_HEAD, _REQUEST = re.compile(r"^[\w/-]+ \| (?:[\d/]+ [\d:]+ )?"), re.compile(r" id=[0-9a-f]{32}$")
_OUTPUT = "cpg_trio.output."
_ID_TAIL = re.compile(r"(-[0-9a-f]{4})[0-9a-f]{12}\b")  # of a runtime id, which is shown with four digits


class Narrator(logging.Handler):
    """Writes each record on a line: seconds since the start, the part of the program, the message."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = tolerant(stream or sys.stdout)
        self._start = time.perf_counter()
        self._on_terminal = self._stream.isatty()
        self._color = self._on_terminal and not os.environ.get("NO_COLOR")  # https://no-color.org
        self._progress = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if record.name == "cpg_trio.audit" and record.levelno < logging.WARNING:
            return  # a permitted action has a record of its own
        try:
            self._write(record)
        except Exception:  # noqa: BLE001 - an error of the output must not stop the program
            self.handleError(record)

    def _write(self, record: logging.LogRecord) -> None:
        part, color = _PARTS.get(record.name, (record.name.rpartition(".")[2], "31"))
        text = record.getMessage()
        if record.name.startswith(_OUTPUT):
            text = _REQUEST.sub("", _HEAD.sub("", text))
        text = _ID_TAIL.sub(r"\1…", text.removeprefix("[ROUTER] "))
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        elapsed = time.perf_counter() - self._start
        label = self._paint(f"{part:<7}", color)
        text = self._paint(text, "1;31") if record.levelno >= logging.WARNING else text
        self.say(f"{elapsed:8.3f}  {label} {text}")

    def say(self, line: str = "") -> None:
        """Write a line of the demo's own, above that of the progress."""
        erase = _ERASE if self._progress else ""
        self._print(f"{erase}{line}\n{self._progress}")

    def progress(self, text: str) -> None:
        """Show in the last line of a terminal what the demo waits for; with an empty text, nothing."""
        if self._on_terminal and text != self._progress:
            self._print((_ERASE if self._progress else "") + text)
            self._progress = text

    def _print(self, text: str) -> None:
        """Write a text. Once the reader has gone (`… | head`), output is discarded."""
        try:
            print(text, file=self._stream, flush=True, end="")
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # the interpreter's last flush goes there as well
            os.close(nowhere)

    def title(self, line: str) -> None:
        """Write a heading."""
        self.say(f"\n{self._paint(line, '1')}\n")

    def _paint(self, text: str, color: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self._color else text
