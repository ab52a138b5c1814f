"""The last lines of plugins, and who reads them."""

from __future__ import annotations

import io
import logging

import pytest
import trio
import trio.testing

from cpg_trio.host.supervision import OutputBook
from cpg_trio.logs import LogConfig, LogFormat, configure_logging, flush
from cpg_trio.rpc import ConnectError


def texts(book: OutputBook, plugin: str, lines: int = 100, replica: int = 0) -> list[str]:
    return [line.text for line in book.last(plugin, lines, replica)]


def test_the_last_lines_of_each_plugin_are_kept() -> None:
    book = OutputBook(wall_clock=lambda: 7.0)
    for number in range(3):
        book.add("logger", 1 + number % 2, f"l{number}")
        book.add("storage", 1, f"s{number}")
    assert texts(book, "logger") == ["l0", "l1", "l2"]
    assert texts(book, "logger", 2) == ["l1", "l2"]
    assert texts(book, "logger", replica=2) == ["l1"]
    assert texts(book, "") == ["l0", "s0", "l1", "s1", "l2", "s2"]
    assert texts(book, "unknown") == []
    last = book.last("storage")[-1]
    assert (last.sequence, last.at, last.plugin, last.replica) == (6, 7.0, "storage", 1)
    book.forget("storage")
    assert texts(book, "storage") == []


def test_it_is_bounded_in_lines_and_in_bytes_and_nobody_pushes_out_others() -> None:
    book = OutputBook(lines=10, size_bytes=5_000)
    book.add("quiet", 1, "still there")
    for number in range(100):
        book.add("loud", 1, str(number))
    assert texts(book, "loud") == list(map(str, range(90, 100)))
    for _ in range(100):
        book.add("loud", 1, "x" * 1_000)
    assert len(book.last("loud")) == 3
    assert texts(book, "quiet") == ["still there"]


def test_what_does_not_print_is_escaped_and_colours_are_left_out() -> None:
    book = OutputBook()
    for text in ("\x1b[1;31mred\x1b[0m", "\x1b]0;title\x07", "a\tb\r", "x" * 100_000, "ok"):
        book.add("logger", 1, text)
    found = texts(book, "logger")
    assert found[:3] == ["red", "\\x1b]0;title\\x07", "a   b"]
    assert (len(found[3]), found[4]) == (4_097, "ok")
    assert all(map(str.isprintable, found))


@pytest.mark.parametrize("form", LogFormat)
def test_each_line_is_one_of_the_log_with_its_format_and_levels(form: LogFormat) -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, config=LogConfig(form, {"cpg_trio.output.loud": logging.WARNING}))
    book = OutputBook()
    book.writer("logger", 1)("of the first\nreplica")
    book.writer("logger", 2)("of the second")
    book.writer("loud", 1)("not in the log")
    flush()
    first, second = stream.getvalue().splitlines()
    if form is LogFormat.TEXT:
        assert first.endswith(" logger | of the first\\nreplica")
        assert second.endswith(" logger/2 | of the second")
    else:
        assert '"logger":"cpg_trio.output.logger","message":"logger | of the first' in first
        assert '"plugin":"logger"' in second
    assert texts(book, "loud") == ["not in the log"]


async def test_a_reader_gets_what_is_there_and_then_what_comes() -> None:
    book = OutputBook()
    book.add("logger", 1, "before")
    with book.reading("logger") as reader, book.reading(replica=2) as of_second:
        assert [line.text for line in reader.next()[0]] == ["before"]
        assert reader.next() == ([], 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.wait)
            await trio.testing.wait_all_tasks_blocked()
            book.add("logger", 2, "after")
        assert [line.text for line in reader.next()[0]] == ["after"]
        assert [line.text for line in of_second.next()[0]] == ["after"]
        book.close()
        assert not await reader.wait()


async def test_a_slow_reader_is_told_how_many_lines_it_has_missed() -> None:
    book = OutputBook(lines=150)
    with book.reading("logger") as reader, book.reading("other") as other:
        for number in range(200):
            book.add("logger", 1, str(number))
        lines, missed = reader.next()
        assert (lines[0].text, len(lines), missed) == ("50", 100, 50)
        assert await reader.wait()
        assert [line.text for line in reader.next()[0]] == list(map(str, range(150, 200)))
        assert other.next() == ([], 0)


def test_readers_are_bounded_and_one_of_a_former_host_begins_anew() -> None:
    book = OutputBook()
    book.add("logger", 1, "line")
    readers = [book.reading() for _ in range(32)]
    for each in readers:
        each.__enter__()
    with pytest.raises(ConnectError, match="too many readers"), book.reading():
        pass
    for each in readers:
        each.__exit__(None, None, None)
    with book.reading(after=1_000) as reader:
        assert len(reader.next()[0]) == 1


async def test_what_is_there_has_an_end_though_more_comes_all_the_time() -> None:
    book = OutputBook(lines=500)
    for number in range(250):
        book.add("noisy", 1, str(number))
    found: list[str] = []
    with book.reading("noisy") as reader:
        async for lines, missed in reader.batches(follow=False):
            assert not missed
            found += [line.text for line in lines]
            for _ in range(100):  # as fast as it is read
                book.add("noisy", 1, "meanwhile")
    assert found == [str(number) for number in range(250)]


async def test_what_is_there_has_an_end_though_all_of_it_is_pushed_out() -> None:
    book = OutputBook(lines=100)
    for number in range(100):
        book.add("noisy", 1, str(number))
    told = 0
    with book.reading("noisy") as reader:
        for _ in range(300):
            book.add("noisy", 1, "meanwhile")
        newest = book.last("noisy", 1)[0].sequence
        async for lines, missed in reader.batches(follow=False):
            told += len(lines) + missed
            for _ in range(300):
                book.add("noisy", 1, "later")
    assert 0 < told <= newest
