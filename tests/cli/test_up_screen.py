"""What `cpg-trio up` shows on a terminal: fixed replicas and a clock that stands, as a terminal has it."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, TextIO, TypeAlias

import pytest
import trio
from hypothesis import given, strategies as st
from rich.text import Text
from trio.testing import MockClock, wait_all_tasks_blocked

from cpg_trio.cli._output import Output
from cpg_trio.cli._up_screen import UpScreen
from cpg_trio.host.supervision import Phase, Replica
from tests.cli.terminal import Terminal

NOW = 1_800_000_000.0
_CONTROL = re.compile(r"\x1b(\[[?\d;]*[A-Za-z]|[78])")


class SlowFile(io.StringIO):
    """Its first write takes until `goes_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.goes_on = threading.Event()

    def write(self, text: str) -> int:
        self.begun.set()
        self.goes_on.wait()
        return super().write(text)


class RecordedScreen(UpScreen):
    """Has the lines that are to be on the terminal: those that have scrolled, and those of the block."""

    def __init__(self, out: Output, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        super().__init__(out, clock, wall_clock)
        self._scrolled: list[Text] = []
        self._last_block: list[Text] = []

    @property
    def expected(self) -> list[str]:
        return [line.plain.rstrip() for line in (*self._scrolled, *self._last_block)]

    def _take_lines(self) -> Iterator[Text]:
        for line in super()._take_lines():
            self._scrolled.append(line)
            yield line

    def _block(self, height: int) -> Iterator[Text]:
        self._last_block = list(super()._block(height))
        return iter(self._last_block)


class Shown:
    """A screen and its terminal, with clocks that a test sets."""

    def __init__(
        self,
        columns: int = 80,
        rows: int = 24,
        *,
        encoding: str = "utf-8",
        plain: bool = False,
        file: TextIO | None = None,
        reflows: bool = True,
        before: int = 0,
    ) -> None:
        self.now = 0.0
        self.terminal = Terminal(columns, reflows=reflows)
        self.terminal.write("\n" * before)
        self._before = before
        self.file = file or io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        self.out = Output(self.file, terminal=True, width=columns, plain=plain)
        self.out.console.height = rows
        self._replicas: dict[str, Replica] = {}
        self.screen = RecordedScreen(self.out, lambda: self.now, lambda: NOW + self.now)

    def resize(self, columns: int) -> None:
        self.terminal.resize(columns)
        self.out.console.width = columns

    @property
    def lines(self) -> list[str]:
        """What the terminal has of the screen."""
        return [line for line in self.terminal.lines[self._before :] if line]

    def look(self, *, last: bool = False) -> list[str]:
        self.terminal.write(self.screen.frame(last=last))
        return [line for line in self.terminal.text if line]  # one above the block is empty

    def now_is(self, name: str, phase: Phase, **what: object) -> Replica:
        """Have a replica of a plugin change, as its supervisor does."""
        replica = self._replicas.setdefault(name, Replica(name, 1))
        for field, value in {"why": "", "phase": phase, **what}.items():
            setattr(replica, field, value)
        self.screen.changed(replica)
        return replica

    def all_ready(self) -> None:
        self.screen.listening(["http://127.0.0.1:8080"])
        self.now_is("logger", Phase.READY, where="pid 4711")
        self.look()


def test_what_starts_and_what_waits_for_what_is_seen_with_times() -> None:
    shown = Shown()
    screen = shown.screen
    shown.now_is("logger", Phase.STARTING, where="pid 4711")
    shown.now_is("storage", Phase.WAITING, why="waits for logger")
    shown.now = 0.1
    screen.listening(["http://127.0.0.1:8080"])
    shown.now = 0.6
    shown.now_is("logger", Phase.READY, where="pid 4711")
    shown.now = 0.7
    assert shown.look() == [
        "  host      0.1 s  ● listening on http://127.0.0.1:8080",
        "  logger    0.6 s  ● ready, pid 4711",
        "  storage   0.7 s  ◔ waiting for logger",
    ]
    shown.now_is("storage", Phase.STARTING, where="pid 4712", why="it has not registered storage")
    shown.now = 0.9
    assert shown.look()[-1] == "  storage   0.9 s  … starting, pid 4712: it has not registered storage"


def test_once_all_are_ready_the_lines_of_the_plugins_go_on_alone() -> None:
    shown = Shown()
    shown.all_ready()
    shown.screen.output("logger", 1, "hello")
    shown.screen.output("logger", 2, "hello, too")
    assert shown.look() == [
        "  host     0.0 s  ● listening on http://127.0.0.1:8080",
        "  logger   0.0 s  ● ready, pid 4711",
        "logger │ hello",
        "logger/2 │ hello, too",
    ]
    assert shown.screen.frame() == ""


def test_a_plugin_that_ends_comes_back_into_the_block_below_the_lines() -> None:
    shown = Shown()
    shown.all_ready()
    why, again_at = "exit status 3: No module named 'PIL'", NOW + 3.5
    thumbs = shown.now_is("thumbs", Phase.BACKING_OFF, why=why, failures=2, again_at=again_at)
    shown.look()
    shown.screen.output("logger", 1, "goes on")
    lines = shown.look()
    assert lines[-2] == "logger │ goes on"
    assert lines[-1].startswith(
        "  thumbs   0.0 s  ↻ backing off, again in 4 s (2nd time): exit status 3: No "
    )
    thumbs.looping = True
    shown.screen.changed(thumbs)
    assert "crash loop, backing off, again in 4 s (2nd time)" in shown.look()[-1]
    shown.now_is("thumbs", Phase.READY, where="pid 5")
    shown.now = 9.0
    shown.screen.output("logger", 1, "after it")
    assert shown.look()[-2:] == ["logger │ after it", "  thumbs   0.0 s  ● ready, pid 5"]


def test_a_plugin_that_cannot_start_does_not_keep_those_in_the_block_that_are_ready() -> None:
    shown = Shown()
    shown.screen.listening(["http://127.0.0.1:8080"])
    shown.now_is("logger", Phase.READY)
    shown.now_is("thumbs", Phase.STARTING)
    shown.look()
    shown.now_is("thumbs", Phase.BACKING_OFF, failures=1, again_at=NOW + 1)
    shown.look()
    shown.screen.output("logger", 1, "a line")
    assert shown.look()[-2:] == [
        "logger │ a line",
        "  thumbs   0.0 s  ↻ backing off, again in 1 s",
    ]


def test_of_a_plugin_that_is_replaced_the_new_one_stays() -> None:
    shown = Shown()
    shown.all_ready()
    new = Replica("logger", 1, Phase.STARTING, where="pid 5000")
    shown.screen.changed(new)
    assert shown.look()[-1] == "  logger   0.0 s  … starting, pid 5000"
    new.phase = Phase.READY
    shown.screen.changed(new)
    shown.now_is("logger", Phase.STOPPING)
    shown.now_is("logger", Phase.STOPPED)
    assert shown.look()[-1] == "  logger   0.0 s  ● ready, pid 5000"


def test_a_stop_says_what_is_being_stopped_in_which_order_and_what_waits() -> None:
    shown = Shown()
    shown.all_ready()
    shown.now_is("storage", Phase.READY)
    shown.look()
    shown.screen.stopping()
    shown.now_is("storage", Phase.STOPPING, where="pid 5")
    shown.now = 2.0
    *_, head, first, second = shown.look()
    assert head == "stopping: storage, then logger; Ctrl-C again ends all of it at once"
    assert first == "  logger    2.0 s  ● waits for storage to stop"
    assert second == "  storage   2.0 s  ↓ stopping, pid 5"
    shown.now_is("storage", Phase.STOPPED)
    shown.now_is("logger", Phase.STOPPED)
    assert shown.look(last=True)[-3:] == [
        "all plugins are stopped",
        "  logger    2.0 s  ■ stopped",
        "  storage   2.0 s  ■ stopped",
    ]


def test_a_terminal_that_becomes_narrower_is_left_without_remains_of_the_block() -> None:
    shown = Shown(100)
    shown.all_ready()
    shown.now_is("thumbs", Phase.FAILED, why="x" * 60)
    shown.now_is("storage", Phase.STARTING, why="it has not registered storage " + "y" * 30)
    shown.look()
    shown.resize(40)
    lines = shown.look()
    assert max(map(len, lines)) <= 40
    assert sum("storage " in line for line in lines) == 1


@pytest.mark.parametrize("columns", [20, 40, 200])
def test_no_line_of_the_block_is_wider_than_the_terminal(columns: int) -> None:
    shown = Shown(columns)
    shown.now_is("a-plugin-with-a-very-long-name", Phase.STARTING, why="z" * 300)
    block = _CONTROL.sub("", shown.screen.frame())
    assert max(map(len, block.splitlines())) < columns


def test_of_more_plugins_than_there_is_room_for_those_that_are_not_settled_are_seen() -> None:
    shown = Shown(rows=10)
    for number in range(50):
        shown.now_is(f"p{number}", Phase.READY)
    shown.now_is("late", Phase.STARTING)
    lines = shown.look()
    assert len(lines) < 10
    assert any("late" in line for line in lines)
    assert lines[-1] == "  and 46 ready"


def test_without_colours_there_are_words_and_without_the_letters_signs_of_ascii() -> None:
    plain, ascii_only = Shown(plain=True), Shown(encoding="ascii")
    for shown in (plain, ascii_only):
        shown.now_is("logger", Phase.BACKING_OFF, why="exit status 3")
        shown.screen.output("logger", 1, "hello")
    text = plain.screen.frame()
    assert not re.search(r"\x1b\[[\d;]*m", text)
    assert "  backing off, again in 0 s: exit status 3" in text
    text = ascii_only.screen.frame()
    assert text.isascii()
    assert "@ backing off" in text
    assert "logger | " in text


def test_what_plugins_write_does_nothing_to_the_terminal() -> None:
    shown = Shown()
    hostile = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\nforged"
    shown.screen.output("logger", 1, hostile)
    shown.now_is("logger", Phase.FAILED, why=hostile)
    shown.screen.line(hostile)
    text = _CONTROL.sub("", shown.screen.frame())
    assert not set("\x1b\x07\r\x9b") & set(text)
    assert not any(line.startswith("forged") for line in text.splitlines())


def test_lines_that_a_slow_terminal_does_not_take_are_left_out_and_counted() -> None:
    shown = Shown()
    shown.all_ready()
    for number in range(2_005):
        shown.screen.output("logger", 1, str(number))
    lines = shown.look()
    assert "(5 lines are left out, as the terminal is slow)" in lines
    assert lines[-1] == "logger │ 2004"


async def test_the_terminal_has_all_of_it_when_the_screen_ends() -> None:
    shown = Shown()
    async with trio.open_nursery() as nursery:
        await nursery.start(shown.screen.run)
        shown.screen.listening(["http://127.0.0.1:8080"])
        shown.now_is("logger", Phase.READY)
        shown.screen.output("logger", 1, "the last words")
        nursery.cancel_scope.cancel()
    shown.file.seek(0)
    assert "the last words" in shown.file.read()


async def test_the_last_picture_is_written_after_the_one_that_is_being_written(mock_clock: MockClock) -> None:
    file = SlowFile()
    shown = Shown(file=file)
    async with trio.open_nursery() as nursery:
        shown.screen.line("the first words")
        await nursery.start(shown.screen.run)
        await trio.to_thread.run_sync(file.begun.wait)
        shown.screen.line("the last words")
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()  # and not at the terminal
        file.goes_on.set()
    written = file.getvalue()
    assert 0 <= written.find("the first words") < written.find("the last words")


NAMES = ("logger", "storage", "a-plugin-with-a-long-name")
WIDTHS = st.sampled_from([20, 30, 40, 60, 120])
CHANGES = st.tuples(
    st.just("changes"), st.tuples(st.sampled_from(NAMES), st.sampled_from(Phase), st.integers(0, 15))
)
LINES = st.tuples(st.sampled_from(["writes", "tells", "time"]), st.integers(0, 20))
LOOKS = st.tuples(st.just("looks"), st.none())
RESIZES = st.tuples(st.just("resizes"), WIDTHS)
# After so much of a picture, the width changes.
RACES = st.tuples(st.just("races"), st.tuples(st.floats(0, 1), WIDTHS))
STEPS = st.lists(st.one_of(CHANGES, CHANGES, LINES, LOOKS, LOOKS, RESIZES, RACES, RACES), max_size=30)
Steps: TypeAlias = list[tuple[str, Any]]


def happen(shown: Shown, what: str, value: Any) -> None:
    """Have something happen to a screen, or to its terminal."""
    if what == "changes":
        name, phase, words = value
        shown.now_is(name, phase, why="why " * words)
    elif what == "writes":
        shown.screen.output(NAMES[value % 3], 1, f"says {value}")
    elif what == "tells":
        shown.screen.line(f"the host says {value} " * (1 + value % 8))
    elif what == "time":
        shown.now += value
    elif what == "resizes":
        shown.resize(value)
    elif what == "looks":
        shown.look()
        assert shown.lines == shown.screen.expected
    else:
        share, columns = value
        picture = shown.screen.frame()
        at = round(share * len(picture))
        shown.terminal.write(picture[:at])
        shown.resize(columns)
        shown.terminal.write(picture[at:])
        shown.screen.written()


@given(STEPS, STEPS, WIDTHS)
def test_whatever_happens_the_terminal_has_each_line_once_and_no_remains_of_the_block(
    before: Steps, after: Steps, columns: int
) -> None:
    shown = Shown(columns, before=99)
    shown.screen.listening(["http://127.0.0.1:8080"])
    for step in before:
        happen(shown, *step)
    shown.screen.stopping()
    for step in after:
        happen(shown, *step)
    shown.look(last=True)
    assert shown.lines == shown.screen.expected


@given(STEPS, WIDTHS)
def test_a_terminal_that_cuts_its_lines_when_it_becomes_narrower_has_no_remains_either(
    steps: Steps, columns: int
) -> None:
    shown = Shown(columns, reflows=False, before=99)
    shown.screen.listening(["http://127.0.0.1:8080"])
    for step in steps:
        if step[0] != "looks":
            happen(shown, *step)
    shown.look(last=True)
    cut = [[line[:19].rstrip() for line in lines] for lines in (shown.lines, shown.screen.expected)]
    assert cut[0] == cut[1]


def test_a_line_that_somebody_else_writes_leaves_no_remains_of_the_block() -> None:
    shown = Shown()
    shown.all_ready()
    shown.screen.stopping()
    shown.look()
    shown.terminal.write("Fatal Python error: Segmentation fault of another program\n")
    shown.now_is("logger", Phase.STOPPED)
    lines = shown.look(last=True)
    assert not [line for line in lines if line.startswith("stopping:")]
    assert "Fatal Python error: Segmentation fault of another program" in lines


def test_a_debugger_writes_where_the_block_was_and_the_block_comes_below() -> None:
    shown = Shown()
    shown.all_ready()
    shown.now_is("storage", Phase.STARTING)
    shown.look()
    shown.screen.line("just before it")
    shown.screen.make_room()
    shown.file.seek(0)
    shown.terminal.write(shown.file.read())
    shown.terminal.write("(Pdb) c\n")
    assert shown.look()[-3:] == ["just before it", "(Pdb) c", "  storage   0.0 s  … starting"]


def test_what_a_user_types_is_gone_with_the_next_line() -> None:
    shown = Shown()
    shown.all_ready()
    shown.terminal.write("^C")
    shown.screen.output("logger", 1, "hello")
    assert shown.look()[-1] == "logger │ hello"


async def until_it_waits(clock: MockClock) -> None:
    """Let a screen write what there is, and wait for a change."""
    for _ in range(5):
        await trio.to_thread.run_sync(threading.Event().wait, 0.002)  # its thread goes on
        clock.jump(0.05)
        await wait_all_tasks_blocked()


async def test_a_line_that_comes_just_before_the_end_is_written(mock_clock: MockClock) -> None:
    shown = Shown()
    async with trio.open_nursery() as nursery:
        await nursery.start(shown.screen.run)
        await until_it_waits(mock_clock)
        shown.screen.line("the last words")  # which ends the wait
        nursery.cancel_scope.cancel()  # at the same time
    shown.file.seek(0)
    assert shown.file.read().count("the last words") == 1


async def test_lines_of_other_threads_and_those_after_the_end_are_written(mock_clock: MockClock) -> None:
    shown = Shown()
    shown.screen.line("before the beginning")
    async with trio.open_nursery() as nursery:
        await nursery.start(shown.screen.run)
        await until_it_waits(mock_clock)
        await trio.to_thread.run_sync(shown.screen.line, "of a thread")
        nursery.cancel_scope.cancel()
    shown.screen.line("between")
    shown.screen.end()
    shown.screen.line("after the end")
    shown.file.seek(0)
    written = _CONTROL.sub("", shown.file.read()).replace("\r", "").split()
    assert written == ["before", "the", "beginning", "of", "a", "thread", "between", "after", "the", "end"]


def test_a_screen_that_never_ran_writes_its_lines_at_the_end() -> None:
    shown = Shown()
    shown.screen.line("the platform file has an error")
    shown.screen.end()
    shown.file.seek(0)
    assert shown.file.read() == "the platform file has an error\n"
