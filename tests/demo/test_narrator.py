"""The demo's output: the log of host and plugins, for people at a terminal."""

from __future__ import annotations

import io
import logging

import pytest

from cpg_trio.demo._narrator import Narrator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def tell(stream: io.StringIO) -> str:
    narrator = Narrator(stream)
    event = ("cpg_trio.router", logging.INFO, "", 0, "[ROUTER] %s → b /M", ("a-0123456789abcdef",))
    narrator.handle(logging.LogRecord(*event, exc_info=None))
    error = ValueError("oh")
    narrator.handle(logging.LogRecord(*event, exc_info=(type(error), error, None)))
    return stream.getvalue()


def test_the_story_is_plain_for_files_and_coloured_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, coloured = tell(io.StringIO()), tell(Terminal())
    assert "router  a-0123… → b /M\n" in plain
    assert "ValueError: oh" in plain
    assert "\x1b[" not in plain
    assert "\x1b[35mrouter \x1b[0m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in tell(Terminal())


def test_a_terminal_that_cannot_show_arrows_gets_question_marks() -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Narrator(terminal).title("a → b ✓")
    terminal.seek(0)
    assert terminal.read() == "\na ? b ?\n\n"


def test_what_the_demo_waits_for_is_the_last_line_of_a_terminal_and_nowhere_else() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        narrator = Narrator(stream)
        narrator.progress("… waiting for storage")
        narrator.say("a line")
        narrator.progress("")
    assert terminal.getvalue() == "… waiting for storage\r\x1b[Ka line\n… waiting for storage\r\x1b[K"
    assert file.getvalue() == "a line\n"


def test_a_line_of_a_plugin_in_a_process_is_shown_as_one_of_a_task() -> None:
    stream = io.StringIO()
    narrator = Narrator(stream)
    for line in ("2026/11/23 09:54:00 [LOG] greeting Ada id=" + 32 * "a", "of a | program"):
        event = ("cpg_trio.output.logger", logging.INFO, "", 0, "%s | %s", ("logger", line))
        narrator.handle(logging.LogRecord(*event, exc_info=None))
    lines = [line[8:] for line in stream.getvalue().splitlines()]
    assert lines == ["  logger  [LOG] greeting Ada", "  logger  of a | program"]
