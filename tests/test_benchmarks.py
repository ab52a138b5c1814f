"""What the benchmark makes of what it measures, and what it takes for a failure."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import steady
from benchmarks.__main__ import main
from benchmarks.chart import Bar, chart
from benchmarks.comparison import FEWEST, Figure, compared, figures, summary
from benchmarks.hosts import HostProgram
from benchmarks.load import Call, LoadError, parse_wrk
from benchmarks.processes import cpu_seconds
from benchmarks.profile import OTHER, counted, group_of, known, ptrace_refused, waits
from benchmarks.report import place, table, with_ratios
from benchmarks.revision import RevisionError, built

NO_ERRORS = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def said_by_wrk(**changes: object) -> str:
    figures = {"requests": 10, "seconds": 2.0, "p50_us": 5, "p99_us": 9, "errors": NO_ERRORS, **changes}
    return f"Running 2s test\nRESULT {json.dumps(figures)}\n"


def test_a_run_of_wrk_is_read_from_the_line_of_its_script() -> None:
    load = parse_wrk(said_by_wrk(kept=["x"]))
    assert (load.rate, load.p50_us, load.p99_us, load.said) == (5.0, 5, 9, {"kept": ["x"]})


@pytest.mark.parametrize("kind", list(NO_ERRORS))
def test_one_wrong_answer_among_many_fails_the_run(kind: str) -> None:
    with pytest.raises(LoadError, match=kind):
        parse_wrk(said_by_wrk(errors={**NO_ERRORS, kind: 1}))


def test_a_run_without_answers_fails() -> None:
    with pytest.raises(LoadError, match="no answers"):
        parse_wrk(said_by_wrk(requests=0))
    with pytest.raises(LoadError, match="no result"):
        parse_wrk("unable to connect")


def test_a_ratio_is_the_median_of_the_ratios_within_a_round() -> None:
    written = with_ratios({"a": [100, 10, 1000], "b": [200, 20, 1500]}, float)
    assert written == {"a": "100 (1.00)", "b": "200 (2.00)"}


def test_a_block_is_put_between_its_markers_wherever_they_are_and_nowhere_else(tmp_path: Path) -> None:
    pages = [tmp_path / name for name in ("one.md", "two.md", "other.md")]
    text = "before\n<!-- bench:x -->\nold\n<!-- /bench -->\n<!-- bench:y -->\nkept\n<!-- /bench -->\n"
    for page, content in zip(pages, (text, text, "no place"), strict=True):
        page.write_text(content)
    assert place(pages, "x", r"new \1") == pages[:2]
    assert pages[0].read_text() == text.replace("old", "\nnew \\1\n")
    assert not place(pages, "x", r"new \1")


def test_a_table_is_markdown() -> None:
    assert table("who", ["a"], [["we", "1"]]) == "| who | a |\n| --- | ---: |\n| we | 1 |"


def test_a_chart_has_a_bar_for_each_figure_all_to_one_scale() -> None:
    panels = {"1 & 2": [Bar("we", 50, ours=True)], "3": [Bar("they", 100, ours=False)]}
    root = ET.fromstring(chart("title", "subtitle", panels))
    _, ours, theirs = root.iter("{http://www.w3.org/2000/svg}rect")
    assert float(theirs.attrib["width"]) == pytest.approx(2 * float(ours.attrib["width"]), abs=0.1)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["title", "subtitle", "1 & 2", "we", "50", "3", "they", "100"]


@contextmanager
def answering(*, at_once: int, answer: bytes = ANSWER) -> Iterator[int]:
    """Serve a port; answer when so many requests have come, the last first, and not before."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer, args=(listener, at_once, answer))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def _answer(listener: socket.socket, at_once: int, answer: bytes) -> None:
    connections = [listener.accept()[0] for _ in range(at_once)]
    asked: list[socket.socket] = []
    while connections:
        for connection in select.select(connections, [], [])[0]:
            if connection.recv(4096):
                asked.append(connection)
            else:
                connections.remove(connection)
                connection.close()
        if len(asked) == at_once:
            while asked:
                asked.pop().sendall(answer)


def test_requests_are_sent_when_they_are_due_though_no_answer_has_come() -> None:
    request = Call(80, "/").encoded()
    with answering(at_once=4) as port:  # a client that waits for an answer would wait for ever
        schedule = steady.run(request, port, rate=1000, seconds=0.008, connections=4)
    assert len(schedule.took) == 8


def test_what_waits_for_a_connection_has_waited_since_it_was_due() -> None:
    count, rate = 40, 1_000_000
    with answering(at_once=2) as port:
        schedule = steady.run(Call(80, "/").encoded(), port, rate, count / rate, connections=2)
    whole_run_s = count / schedule.answered_per_s
    assert schedule.took[-1] == pytest.approx(whole_run_s - (count - 1) / rate, abs=2 / rate)


def test_an_answer_that_is_not_a_200_ends_a_run_at_a_constant_rate() -> None:
    refusal = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    with answering(at_once=1, answer=refusal) as port, pytest.raises(steady.AnswerError, match="503"):
        steady.run(Call(80, "/").encoded(), port, rate=1000, seconds=0.002, connections=1)


def test_a_percentile_is_a_value_that_so_many_do_not_exceed() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (steady.percentile(values, 50), steady.percentile(values, 99)) == (50.0, 99.0)


def figure(ours: Sequence[float], theirs: Sequence[float], *, more_is_better: bool = True) -> Figure:
    return Figure("case", "calls a second", more_is_better, ours, theirs)


def test_a_difference_is_within_the_spread_if_the_middle_half_of_the_ratios_has_1_in_it() -> None:
    theirs = [100.0] * 2 * FEWEST
    within = figure([90, 99, 100, 101] * (FEWEST // 2), theirs)
    assert (within.ratio, within.verdict) == (0.995, "within the spread")
    assert within.quartiles == pytest.approx((0.9675, 1.0025))
    more = figure(
        [90, 101, 102, 103, 104] * 2 * (FEWEST // 5), theirs
    )  # a fifth of the rounds does not count
    assert (more.ratio, more.quartiles, more.verdict) == (1.02, (1.01, 1.03), "better")


def test_what_is_better_depends_on_the_figure() -> None:
    twice, once = [2.0] * FEWEST, [1.0] * FEWEST
    assert figure(twice, once).verdict == "better"
    assert figure(twice, once, more_is_better=False).verdict == "worse"


def test_a_ratio_of_commits_is_of_one_round_so_that_a_slow_round_does_not_count() -> None:
    assert figure([100, 10, 1000], [100, 10, 1000]).quartiles == (1.0, 1.0)


def test_of_few_rounds_nothing_is_said() -> None:
    assert figure([2.0], [1.0]).verdict == "few rounds"
    assert figure([2.0] * (FEWEST - 1), [1.0] * (FEWEST - 1)).verdict == "few rounds"


def test_without_another_commit_nothing_is_compared() -> None:
    measure = ("calls a second", float, True)
    assert figures("case", {"ours": [1], "theirs": [2]}, None, measure) == []
    (found,) = figures("case", {"ours": [1], "theirs": [2]}, ("ours", "theirs"), measure)
    assert (found.ours, found.theirs) == ([1.0], [2.0])


def test_the_summary_names_what_exceeds_the_spread_and_what_has_few_rounds() -> None:
    once, twice = [1.0] * FEWEST, [2.0] * FEWEST
    found = {"router": [figure(twice, once), figure(once, once)], "memory": [figure([2], [1])]}
    text = summary(found, ["trio 0.34.0 → 0.35.0"])
    assert text.startswith("1 of 2 figures differ by more than the spread of their ratios.\n- router, case: ")
    assert "1 figures are of fewer than" in text
    assert "Dependencies that differ: trio 0.34.0 → 0.35.0." in text
    assert "fewer" not in summary({"router": [figure(once, once)]}, [])


def test_the_table_of_a_comparison_has_a_row_for_each_figure() -> None:
    *_, row = compared("router", [figure([2, 2], [1, 1])], "abc1234").splitlines()
    assert row == "| case | calls a second | 1.0 | 2.0 | 2.000 | 2.000 to 2.000 | few rounds |"


@pytest.mark.parametrize("words", [["--write", "--against", "HEAD"], ["--go-shortener", "."]])
def test_options_that_do_not_go_together_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert f"error: {words[0]}: " in capsys.readouterr().err


def test_a_program_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--go-host", str(tmp_path / "gohost")])
    assert f"{tmp_path / 'gohost'} is no program" in capsys.readouterr().err


def test_the_plugins_of_the_go_implementation_are_found_in_their_folder(tmp_path: Path) -> None:
    for name in ("host", "logger-plugin", "storage-plugin", "api-plugin"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    program = HostProgram.go(tmp_path / "host", tmp_path)
    assert program.plugins["api"] == (str(tmp_path / "api-plugin"),)
    assert not program.ours
    (tmp_path / "storage-plugin").unlink()
    with pytest.raises(ValueError, match="storage-plugin is no program"):
        HostProgram.go(tmp_path / "host", tmp_path)


def test_the_time_of_a_process_is_known_to_less_than_a_hundredth_of_a_second() -> None:
    before = cpu_seconds(os.getpid())
    sum(range(10_000))
    assert 0 < cpu_seconds(os.getpid()) - before < 10


async def test_a_commit_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match="no-such-commit"):
        await built("no-such-commit", tmp_path)


MAIN, WRITER = "thread (10): MainThread", "thread (11): log"
RUN = "run (trio/_core/_run.py:2535)"
SEND = "SocketChannel.send_nowait (cpg_trio/http/channel.py:234)"
POLL = "EpollIOManager.get_events (trio/_core/_io_epoll.py:243)"


def test_a_sample_counts_for_the_innermost_function_that_a_rule_knows() -> None:
    assert known([RUN, SEND, "send (libc.so.6)"]) == "send (libc.so.6)"
    assert known([RUN, SEND, "malloc (libc.so.6)"]) == "SocketChannel.send_nowait (cpg_trio/http/channel.py)"
    assert known(["main (somewhere.py:1)"]) == OTHER


@pytest.mark.parametrize(
    ("function", "group"),
    [
        ("send (libc.so.6)", "system call: send"),
        ("fdatasync (libc.so.6)", "system call: write to a file"),
        ("sem_post (libc.so.6)", "locks of threads"),
        ("_known_head (cpg_trio/http/messages.py)", "heads: read, judge, look up"),
        ("_begun (cpg_trio/host/routing/call_log.py)", "log, statistics"),
        ("_admit (cpg_trio/host/routing/router.py)", "route, rewritten head"),
        ("run (cpg_trio/http/reactor.py)", "event loop, reactor"),
        ("SSL_read (libssl.so.3)", "TLS"),
        ("send (cpg_trio/http/server/websocket.py)", "websockets"),
        ("respond (cpg_trio/http/server/exchange.py)", "connections of callers"),
        ("malloc (libc.so.6)", OTHER),
    ],
)
def test_the_groups_of_a_profile_are_those_of_the_table(function: str, group: str) -> None:
    assert group_of(function) == group


def test_a_thread_waits_if_its_innermost_c_functions_say_so() -> None:
    assert waits([RUN, POLL, "epoll_wait (libc.so.6)"])
    assert waits([RUN, "PyThread_acquire_lock_timed (python3.11)", "0x7f6403066f16 (libc.so.6)"])
    assert not waits([RUN, "wait (threading.py:324)", "f (a.py:1)", "send (libc.so.6)"])
    assert not waits(["PyThread_acquire_lock_timed (python3.11)", RUN])


def test_samples_of_waiting_count_as_far_as_their_thread_has_run() -> None:
    waiting, sending = f"{POLL};epoll_wait (libc.so.6)", f"{SEND};send (libc.so.6)"
    lines = [f"{MAIN};{waiting} 60", f"{MAIN};{sending} 40", f"{WRITER};{waiting} 100"]
    assert counted(lines, {10: 0.5, 11: 0.0}) == {"send (libc.so.6)": 40, "epoll_wait (libc.so.6)": 10}
    # Others have had the core meanwhile: then what was seen running is more than what has run.
    assert counted(lines, {10: 0.2, 11: 0.0})["send (libc.so.6)"] == pytest.approx(20)


def test_who_may_not_look_at_processes_is_told_what_is_needed() -> None:
    assert not ptrace_refused(0, "1\n")
    assert not ptrace_refused(1000, "0\n")
    assert "only as root, or after `sysctl kernel.yama.ptrace_scope=0` (it is 1)" in ptrace_refused(
        1000, "1\n"
    )


async def test_without_git_another_commit_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RevisionError, match="git is not installed"):
        await built("HEAD", tmp_path)
