"""What is printed while `cpg-trio up` runs: each line once, under the name of whoever prints it."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from contextvars import copy_context
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from cpg_trio._on_loop import OnLoop
from cpg_trio._pieces import Pieces
from cpg_trio.cli._up_lines import UpLines
from cpg_trio.cli._up_printed import printed_lines
from cpg_trio.host.supervision import OutputBook
from cpg_trio.launch._task_output import TaskOutput
from cpg_trio.logs import LineHandler, giving_output
from tests.platforms import platform_file, platform_folder
from tests.processes import running

NOISY = """
import sys, threading, warnings
from contextlib import asynccontextmanager
from cpg_trio import Plugin

print("at the import")

@asynccontextmanager
async def noisy():
    print("at the start", 1, 2)
    print("on standard error", file=sys.stderr)
    sys.stdout.buffer.write("as bytes ✓\\n".encode())
    warnings.warn("something is old", stacklevel=1)
    print("without an end", end="", flush=True)
    threading.Thread(target=print, args=("of a thread",)).start()
    yield Plugin("noisy", version="1.0.0")
    print(" at the stop")
"""


@attrs.define
class Streams:
    """The streams of a process, and the lines that its host has shown."""

    out: io.StringIO = attrs.field(factory=io.StringIO)
    error: io.StringIO = attrs.field(factory=io.StringIO)
    shown: list[str] = attrs.field(factory=list)


class View(UpLines):
    """Shows lines as a test says."""

    def __init__(self, show: Callable[[str], object]) -> None:
        super().__init__(io.StringIO(), json=False)
        self.line = show  # type: ignore[method-assign,assignment]
        self.rooms = 0

    def make_room(self) -> None:
        self.rooms += 1


@contextmanager
def own_streams() -> Iterator[Streams]:
    """Have the streams of the process be in memory for a block."""
    found = Streams()
    with redirect_stdout(found.out), redirect_stderr(found.error):
        yield found


def test_what_is_printed_is_shown_as_whole_lines_and_afterwards_as_ever() -> None:
    with own_streams() as streams, printed_lines(View(streams.shown.append)):
        print("one", "two")
        print("be", end="")
        print("gun", "and", sep="\n", file=sys.stderr)
        sys.stdout.buffer.write(b"bytes\n")
        print("has no end", end="", flush=True)
        kept = sys.stdout  # as the handler of a library has it
        assert not kept.isatty()
    assert streams.shown == [
        "one two",
        "begun",
        "and",
        "bytes",
        "has no end",
    ]
    print("to a stream that was kept", file=kept)
    assert (streams.out.getvalue(), streams.error.getvalue()) == ("to a stream that was kept\n", "")


def test_what_shows_a_line_may_print_itself() -> None:
    def show(line: str) -> None:
        print("--- Logging error ---", file=sys.stderr)
        streams.shown.append(line)

    with own_streams() as streams, printed_lines(View(show)):
        print("hello")
    assert streams.shown == ["hello"]
    assert streams.error.getvalue() == "--- Logging error ---\n"


def test_a_debugger_has_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "breakpointhook", lambda: print("(debugger)"))
    monkeypatch.setenv("PYTHONBREAKPOINT", "some.debugger")
    with own_streams() as streams:
        view = View(streams.shown.append)
        with printed_lines(view):
            print("before it")
            breakpoint()  # noqa: T100 - what is tested
            print("after it")
    assert (streams.shown, view.rooms) == (["before it"], 1)
    assert streams.out.getvalue() == "(debugger)\nafter it\n"


DEBUGGED = """
import sys
from cpg_trio.cli._up_lines import UpLines
from cpg_trio.cli._up_printed import printed_lines

view, shown = UpLines(None, json=False), []
view.line = shown.append
with printed_lines(view):
    here = "where it is to"
    print("before it")
    breakpoint()
    print("after it")
print("shown:", shown)
"""


def test_pdb_stops_where_it_is_to_and_has_the_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEBUGGED],
        input="p here\nprint('by hand')\nc\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if name != "PYTHONBREAKPOINT"},
    )
    assert "'where it is to'\n" in done.stdout
    assert done.stdout.endswith("by hand\n(Pdb) after it\nshown: ['before it']\n")


def test_each_thread_has_its_own_line() -> None:
    pieces = Pieces()

    def of_another_thread(text: str) -> str:
        added = list[str]()
        thread = threading.Thread(target=lambda: added.append(pieces.add(text)))
        thread.start()
        thread.join()
        return added[0]

    assert pieces.add("this ") == ""
    assert of_another_thread("that\nand ") == "that\n"
    assert pieces.add("line\n") == "this line\n"
    assert pieces.end() == "and \n"


def test_a_line_without_an_end_is_bounded() -> None:
    pieces = Pieces()
    for _ in range(100):
        assert pieces.add("x" * 1000) == ""
    assert len(pieces.end()) < 20_000


async def test_what_a_task_prints_is_its_output_also_in_threads() -> None:
    lines = list[str]()
    output = TaskOutput(lines.append)
    with own_streams() as streams, printed_lines(View(streams.shown.append)):
        with giving_output("noisy", lambda _: None, output.write):
            print("of the task")
            await trio.to_thread.run_sync(print, "of its thread")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, print, "of a thread of a task of it")
            print("the end", end="")
        print("of the host")
        output.close()
    assert lines == ["of the task", "of its thread", "of a thread of a task of it", "the end"]
    assert streams.shown == ["of the host"]


async def test_the_output_of_one_task_goes_on_when_that_of_another_ends() -> None:
    first, second = list[str](), list[str]()
    root, log = logging.getLogger(), logging.getLogger("a.plugin")
    handlers, root.handlers = root.handlers, []  # none writes lines, as on a terminal
    try:
        with ExitStack() as one_that_ends:
            one_that_ends.enter_context(giving_output("first", first.append))
            context = copy_context()
        with giving_output("second", second.append):
            context.run(log.warning, "of the first")
            log.warning("of the second")
    finally:
        root.handlers = handlers
    assert not first
    assert [line.partition(" of ")[2] for line in second] == ["the second"]


async def test_a_task_logs_in_threads_while_somebody_reads_its_output() -> None:
    async def log_in_a_thread() -> None:
        await trio.to_thread.run_sync(logging.getLogger("a.plugin").warning, "of a thread")

    book, handler = OutputBook(), LineHandler(io.StringIO())
    logging.getLogger().addHandler(handler)
    try:
        with book.reading() as reader, trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                with giving_output("noisy", OnLoop(partial(book.add, "noisy", 1))):
                    nursery.start_soon(log_in_a_thread)
                    await reader.wait()
                while not (lines := reader.next()[0]):
                    await reader.wait()
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert [line.text.partition(" of ")[2] for line in lines] == ["a thread"]


async def test_a_flood_of_a_task_is_bounded_as_that_of_a_process() -> None:
    lines = list[str]()
    output = TaskOutput(lines.append, clock=lambda: 0.0)
    for number in range(20_000):
        output.write(f"{number}\n")
    output.close()
    assert 1_000 < len(lines) < 10_000
    assert "lines left out" in lines[-1]


@pytest.mark.parametrize("json_lines", [True, False], ids=["JSON", "text"])
async def test_prints_of_a_plugin_that_is_a_task_are_its_lines(short_path: Path, *, json_lines: bool) -> None:
    folder = platform_folder(short_path)
    (folder / "noisy.py").write_text(NOISY)
    file = platform_file(folder, '[plugins.noisy]\nplugin = "noisy:noisy"')
    words = ["up", str(file)]
    environment = {"LOG_FORMAT": "json"} if json_lines else {}
    async with running("cpg_trio", *words, cwd=folder, environment=environment) as platform_run:
        await platform_run.until("ready")
        assert await platform_run.end(signal.SIGTERM) == 0
        output = await platform_run.whole_output()
    lines = output.splitlines()
    told = [json.loads(line).get("message", "") for line in lines] if json_lines else lines
    for line in (
        *("at the start 1 2", "on standard error", "as bytes ✓"),
        "without an end at the stop",
    ):
        assert [each for each in told if each.endswith(f"noisy | {line}")], (line, output)
    assert [each for each in told if "UserWarning: something is old" in each]
    assert [each for each in told if each.endswith("host | of a thread")]  # which belongs to nobody
