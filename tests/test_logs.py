"""The log: who writes it never waits for who reads it, and nothing is lost that there was room for."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import StringIO
from pathlib import Path
from typing import TextIO

import pytest

from cpg_trio._log_formats import LONGEST_LINE
from cpg_trio._log_writer import LineHandler
from cpg_trio.logs import LineLog, configure_logging, flush

LOGGER = logging.getLogger("cpg_trio.router")
LINES = LineLog(LOGGER.name)
PREFIX = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ", re.MULTILINE)


def texts(written: str) -> list[str]:
    """Return what lines say; each of them has its prefix."""
    assert len(PREFIX.findall(written)) == written.count("\n")
    return PREFIX.sub("", written).splitlines()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cpg_trio log"]


class Pipe:
    """A pipe that holds one page: after that, who writes waits for who reads."""

    def __init__(self, stream: TextIO, reader: int) -> None:
        self.stream = stream
        self._reader = reader
        self._read: list[bytes] = []
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)

    def read(self) -> str:
        """Wait for something to be there, and read it."""
        return os.read(self._reader, 65536).decode()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read in the background."""
        thread = threading.Thread(target=self._read_all)
        thread.start()
        try:
            yield
        finally:
            flush()
            self.stream.close()
            thread.join()

    def _read_all(self) -> None:
        while data := os.read(self._reader, 65536):
            self._read.append(data)

    def all(self) -> str:
        return b"".join(self._read).decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as stream:  # noqa: PTH123 - it has no path
        yield Pipe(stream, reader)
    os.close(reader)


def configured() -> StringIO:
    """Log to a stream, and to nothing else: in the test itself, where pytest's handlers are there already."""
    stream = StringIO()
    configure_logging(stream=stream)
    return stream


@pytest.fixture
def nobody_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpg_trio._log_writer._GATHER_S", 3600)


def test_log_lines_begin_with_date_and_time_and_other_libraries_only_warn() -> None:
    stream = configured()
    LOGGER.info("[ROUTER] %s", "x")
    LINES.info("[ROUTER] y")
    logging.getLogger("httpx").info("not shown")
    flush()
    assert texts(stream.getvalue()) == ["[ROUTER] x", "[ROUTER] y"]


def test_the_time_of_a_line_is_that_of_its_second(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured()
    for now in (86_400, 86_400.999, 86_401, 3.5):  # clocks are put back, too
        monkeypatch.setattr("time.time", lambda now=now: now)
        monkeypatch.setattr("time.time_ns", lambda now=now: round(now * 1e9))  # which newer Pythons ask
        LINES.info("x")
        LOGGER.info("x")
    monkeypatch.undo()
    flush()
    lines = stream.getvalue().splitlines()
    assert lines[::2] == lines[1::2]
    assert [line[17:19] for line in lines[::2]] == ["00", "00", "01", "03"]


def test_lines_stay_in_order_whichever_way_they_come() -> None:
    stream = configured()
    for index in range(500):
        (LOGGER, LINES)[index % 2].info(str(index))
    flush()
    assert texts(stream.getvalue()) == [str(index) for index in range(500)]


def test_lines_of_several_threads_are_all_there_each_thread_s_in_its_order() -> None:
    stream = configured()

    def write(name: str) -> None:
        for index in range(2000):
            LINES.info(f"{name} {index}")

    writers = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    flush()
    written = texts(stream.getvalue())
    for name in "abc":
        assert [t for t in written if t[0] == name] == [f"{name} {index}" for index in range(2000)]
    assert len(written) == 6000


def test_a_warning_is_written_at_once_and_so_is_what_came_before_it(pipe: Pipe, nobody_gathers: None) -> None:
    configure_logging(stream=pipe.stream)
    LINES.info("before")
    LOGGER.warning("now")
    assert texts(pipe.read()) == ["before", "now"]


def test_what_has_gathered_is_written_without_anybody_asking(pipe: Pipe) -> None:
    configure_logging(stream=pipe.stream)
    for text in ("one", "two"):
        LINES.info(text)
        assert texts(pipe.read()) == [text]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_stalls_holds_up_nobody_and_misses_nothing(pipe: Pipe, *, blocking: bool) -> None:
    os.set_blocking(pipe.stream.fileno(), blocking)
    configure_logging(stream=pipe.stream)
    expected = [f"{index} → {'x' * 200}" for index in range(5000)]  # a mebibyte; it would wait after a page
    for text in expected:
        LINES.info(text)
    with pipe.reading():
        pass
    assert texts(pipe.all()) == expected


def test_what_there_is_no_room_for_is_dropped_and_counted_where_it_is_missing(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpg_trio._log_writer._MAX_WAITING", 20_000)
    configure_logging(stream=pipe.stream)
    for index in range(1000):
        LINES.info(f"{index:04} {'x' * 200}")
    with pipe.reading():
        flush()
        LINES.info("later")
    written = texts(pipe.all())
    kept = [text for text in written if text.endswith("x")]
    notices = [match for text in written if (match := re.match(r"(\d+) lines are missing here", text))]
    assert 20_000 // 230 <= len(kept) < 1000
    assert len(kept) + sum(int(notice[1]) for notice in notices) == 1000
    assert [int(text[:4]) for text in kept] == list(range(len(kept)))
    assert written == [*kept, *[notice.string for notice in notices], "later"]


def test_a_reader_who_has_gone_harms_nobody(pipe: Pipe) -> None:
    configure_logging(stream=pipe.stream)
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), pipe._reader)
    for _ in range(3):
        LINES.info("x")
        flush()
    stream = configured()
    LINES.info("x")
    flush()
    assert texts(stream.getvalue()) == ["x"]


class Elsewhere(logging.Handler):
    """Somebody else's handler: what it gets is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.got.append(f"{record.getMessage()} {record.filename}")


ELSEWHERE = Elsewhere()


def ours() -> logging.Handler:
    return logging.getLogger().handlers[0]


@contextmanager
def no_info(filtered: logging.Filterer) -> Iterator[None]:
    def refuse(_: logging.LogRecord) -> bool:
        return False

    filtered.addFilter(refuse)
    yield
    filtered.removeFilter(refuse)


@contextmanager
def also(logger: logging.Logger) -> Iterator[None]:
    logger.addHandler(ELSEWHERE)
    yield
    logger.removeHandler(ELSEWHERE)


@contextmanager
def level(of: logging.Logger | logging.Handler, value: int) -> Iterator[None]:
    before = of.level
    of.setLevel(value)
    yield
    of.setLevel(before)


@contextmanager
def attribute(of: object, **changed: object) -> Iterator[None]:
    before = {name: getattr(of, name) for name in changed}
    of.__dict__.update(changed)
    yield
    of.__dict__.update(before)


@contextmanager
def disabled() -> Iterator[None]:
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@contextmanager
def other_records() -> Iterator[None]:
    class Loud(logging.LogRecord):
        def getMessage(self) -> str:  # noqa: N802 - logging's name
            return super().getMessage().upper()

    logging.setLogRecordFactory(Loud)
    yield
    logging.setLogRecordFactory(logging.LogRecord)


@contextmanager
def nothing_at_all() -> Iterator[None]:
    handler = ours()
    logging.getLogger().removeHandler(handler)
    yield
    logging.getLogger().addHandler(handler)


@pytest.mark.parametrize(
    "changed",
    [
        lambda: no_info(LOGGER),
        lambda: no_info(ours()),
        lambda: also(LOGGER),
        lambda: also(logging.getLogger("cpg_trio")),
        lambda: also(logging.getLogger()),
        lambda: level(LOGGER, logging.WARNING),
        lambda: level(logging.getLogger("cpg_trio"), logging.WARNING),
        lambda: level(ours(), logging.WARNING),
        lambda: attribute(LOGGER, propagate=False),
        lambda: attribute(logging.getLogger("cpg_trio"), propagate=False),
        lambda: attribute(LOGGER, disabled=True),
        lambda: attribute(ours(), formatter=logging.Formatter("other %(message)s")),
        lambda: attribute(LOGGER, handlers=[ELSEWHERE]),
        disabled,
        other_records,
        nothing_at_all,
    ],
)
def test_a_line_goes_where_logging_would_have_it_go_whatever_is_changed_meanwhile(
    changed: Callable[[], AbstractContextManager[None]],
) -> None:
    stream = configured()
    """Each time: what a record of its own leads to is what a line leads to."""

    def outcome(log: Callable[[str], None]) -> tuple[str, list[str]]:
        ELSEWHERE.got.clear()
        before = len(stream.getvalue())
        log("text")
        flush()
        return PREFIX.sub("", stream.getvalue()[before:]), ELSEWHERE.got[:]

    assert outcome(LINES.info) == ("text\n", [])
    handler = ours()
    with changed():
        assert LINES._only_handler() is None
        told = outcome(LINES.info)
        handler.flush()
        assert told == outcome(LOGGER.info)
        assert told != ("text\n", []) or not LOGGER.propagate
    assert LINES._only_handler() is handler
    assert outcome(LINES.info) == ("text\n", [])


def test_a_second_configuration_ends_the_thread_of_the_first_whose_lines_are_written(
    nobody_gathers: None,
) -> None:
    stream = configured()
    LINES.info("to the first")
    [first] = threads()
    other = configured()
    assert not first.is_alive()
    LINES.info("to the second")
    flush()
    assert (texts(stream.getvalue()), texts(other.getvalue())) == (["to the first"], ["to the second"])
    assert len(threads()) == 1
    ours().close()
    assert threads() == []
    LINES.info("late")
    assert texts(other.getvalue()) == ["to the second", "late"]


def test_there_is_no_thread_without_a_line() -> None:
    configured()
    flush()
    ours().close()
    assert threads() == []


def test_a_process_without_a_standard_error_can_log() -> None:
    handler = LineHandler(None)
    handler.append("x\n")
    handler.close()


def run(code: str) -> tuple[int, str]:
    """Run a program whose log gathers for an hour; return its status and what it wrote to standard error."""
    start = (
        "import os, sys, trio\n"
        "from cpg_trio import _log_writer, logs\n"
        "from cpg_trio.http import StartError\n"
        "from cpg_trio.process import run\n"
        "_log_writer._GATHER_S = 3600\n"
        "log = logs.LineLog('cpg_trio.router')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + code], stderr=subprocess.PIPE, text=True, check=False, timeout=20
    )
    return done.returncode, done.stderr


def test_all_is_written_when_a_process_ends() -> None:
    status, written = run("logs.configure_logging()\nfor i in range(1000): log.info(str(i))")
    assert (status, texts(written)) == (0, [str(index) for index in range(1000)])


def test_an_exception_is_shown_below_the_lines_that_led_to_it() -> None:
    status, written = run("logs.configure_logging()\nlog.info('before')\nraise KeyError('x')")
    assert status == 1
    assert re.search(r" before\nTraceback .*\nKeyError: 'x'\n$", written, re.DOTALL)


def test_the_reason_for_which_a_process_does_not_start_stands_below_the_lines_before_it() -> None:
    status, written = run(
        "async def main(stop):\n    log.info('before')\n    raise StartError('no port')\nsys.exit(run(main))"
    )
    assert status == 1
    assert written.endswith(" before\nno port\n")


def test_lines_that_are_logged_when_all_is_over_are_written() -> None:
    status, written = run(
        "logs.configure_logging()\n"
        "class Late:\n    def __del__(self): log.info('late')\n"
        "late = Late()\nlog.info('before')"
    )
    assert (status, texts(written)) == (0, ["before", "late"])


def test_a_first_line_that_is_logged_at_the_end_is_written_though_no_thread_can_begin_any_more() -> None:
    status, written = run("import atexit\nlogs.configure_logging()\natexit.register(log.info, 'only')")
    assert (status, texts(written)) == (0, ["only"])


@pytest.mark.parametrize(("signals", "status"), [(1, 0), (2, 128 + signal.SIGTERM)])
def test_all_is_written_when_a_signal_ends_a_process(signals: int, status: int) -> None:
    ended, written = run(
        "import signal\n"
        "async def main(stop):\n"
        "    log.info('before')\n"
        f"    for _ in range({signals}):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        await trio.testing.wait_all_tasks_blocked()\n"
        "    await stop.wait()\n"
        f"    if {signals} == 2: await trio.sleep_forever()\n"
        "    log.info('after')\n"
        "import trio.testing\n"
        "sys.exit(run(main))"
    )
    assert ended == status
    said = texts(written)
    assert (said[0], said[-1]) == ("before", "after" if signals == 1 else said[-1])
    assert len(said) == 3


def test_a_process_ends_although_nobody_reads_what_it_says() -> None:
    reader, writer = os.pipe()
    code = (
        "from cpg_trio import _log_writer, logs\n"
        "_log_writer._FLUSH_TIMEOUT_S = 0.05; logs.configure_logging()\n"
        "for i in range(100_000): logs.LineLog('cpg_trio.router').info(str(i))"
    )
    ended = subprocess.run([sys.executable, "-c", code], stderr=writer, check=False, timeout=20)
    os.close(writer)
    assert ended.returncode == 0
    assert texts(os.read(reader, 4096).decode()[:200].rpartition("\n")[0] + "\n")[0] == "0"
    os.close(reader)


def test_a_fork_writes_its_own_lines_and_none_of_its_parent_s() -> None:
    status, written = run(
        "logs.configure_logging()\n"
        "log.info('parent')\n"
        "import warnings; warnings.simplefilter('ignore')\n"  # newer Pythons warn of threads
        "child = os.fork()\n"
        "if not child: log.info('child'); sys.exit(3)\n"
        "status = os.waitpid(child, 0)[1]\n"
        "log.info(f'child ended with {os.waitstatus_to_exitcode(status)}')"
    )
    assert (status, texts(written)) == (0, ["child", "parent", "child ended with 3"])


def test_nothing_of_this_is_known_to_a_program_that_is_started() -> None:
    status, written = run(
        "import subprocess\nlogs.configure_logging()\nlog.info('before')\n"
        "subprocess.run([sys.executable, '-c', 'import sys; print(1, file=sys.stderr)'], check=True)"
    )
    assert status == 0
    assert written.startswith("1\n")
    assert texts(written.removeprefix("1\n")) == ["before"]


def test_the_log_of_a_file_is_at_its_end(tmp_path: Path) -> None:
    with (tmp_path / "log").open("a", encoding="ascii") as file:
        configure_logging(stream=file)
        LINES.info("a → b")
        flush()
    assert texts((tmp_path / "log").read_text()) == ["a \\u2192 b"]


def written_by(log: Callable[[logging.Logger], object], name: str) -> str:
    """Return what a logger's handler writes of something that is logged."""
    stream = StringIO()
    handler = LineHandler(stream)
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.propagate = False  # what is logged here no report of a test could have
    try:
        log(logger)
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
        handler.close()
    return stream.getvalue()


@pytest.mark.parametrize(
    "said",
    ["x" * 5_000_000, "\n" * 1_000_000, "\x1b[2J\u2028\ud800" * 100_000],
    ids=["long", "line ends", "control characters"],
)
@pytest.mark.parametrize("name", ["cpg_trio", "cpg_trio.router"])
def test_a_line_of_ours_is_one_line_of_a_bounded_length_whatever_is_in_it(name: str, said: str) -> None:
    written = written_by(lambda logger: logger.warning("somebody said %s", said), name)
    assert len(texts(written)) == 1
    assert len(written) < LONGEST_LINE + 100
    assert written.rstrip("\n").isprintable()


def test_a_traceback_has_a_bounded_length_whatever_the_error_says() -> None:
    def fail(logger: logging.Logger) -> None:
        try:
            dict[str, int]()["x" * 5_000_000]
        except KeyError:
            logger.exception("it failed")

    written = written_by(fail, "cpg_trio.rpc")
    assert "Traceback" in written
    assert len(written) < LONGEST_LINE + 100


def test_what_others_log_may_have_several_lines() -> None:
    written = written_by(lambda logger: logger.warning("first\nsecond"), "shop.orders")
    assert written.endswith("first\nsecond\n")


def test_a_line_of_a_call_has_a_bounded_length(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cpg_trio.router")
    LINES.info("x" * 5_000_000)
    assert len(caplog.messages[0]) < LONGEST_LINE + 100
