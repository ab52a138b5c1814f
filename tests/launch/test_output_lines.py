"""Lines from the bytes that a process writes."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from cpg_trio.launch._output_lines import OutputLines


class Now:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@given(st.binary(), st.integers(1, 20))
def test_lines_are_the_same_in_whatever_pieces_they_come(data: bytes, size: int) -> None:
    found: list[str] = []
    lines = OutputLines(found.append, Now())
    for at in range(0, len(data), size):
        lines.feed(data[at : at + size])
    lines.end()
    expected = data.removesuffix(b"\n").split(b"\n") if data else []
    assert found == [line.decode("utf-8", "backslashreplace") for line in expected]


def test_of_a_flood_some_lines_are_shown_and_the_others_counted() -> None:
    now, found = Now(), list[str]()
    lines = OutputLines(found.append, now)
    lines.feed(b"first\n" * 5_000 + b"more\n" * 2_000 + b"begin of ")
    assert (len(found), lines.left_out) == (5_000, 2_000)
    now.time = 0.5
    lines.feed(b"a line\n")
    assert (len(found), lines.left_out) == (5_000, 2_001)
    now.time = 2.0
    lines.feed(b"again\n")
    assert found[5_000:] == ["(2,001 lines left out: more than 1,000 a second)", "again"]
    lines.note_left_out()
    assert len(found) == 5_002


def test_a_flood_of_bytes_is_one_as_well() -> None:
    now, found = Now(), list[str]()
    lines = OutputLines(found.append, now)
    for _ in range(1_000):
        lines.feed(b"x" * 10_000 + b"\n")
    assert 400 < len(found) < 430
    assert lines.left_out == 1_000 - len(found)


@pytest.mark.parametrize(
    ("written", "explanation"),
    [
        ("", ""),
        ("Traceback (most recent call last):\n  here\n    ^^^\nValueError: no\n", "ValueError: no"),
        ("  | ValueError: of a group\n  +------------\n", "ValueError: of a group"),
        ("panic: no\n\ngoroutine 1 [running]:\nmain.main()\n\t/main.go:5 +0x1d\nexit status 2", "panic: no"),
        (
            "thread 'main' (12) panicked at src/main.rs:2:5:\nno\nnote: run with\n",
            "thread 'main' (12) panicked at src/main.rs:2:5:",
        ),
        ("Segmentation fault", "Segmentation fault"),
        ("\x1b[31mError: \x1b[0mno\x07\r\n}\n", "Error: no\\x07"),
        ("x" * 10_000, "x" * 300),
    ],
)
def test_the_line_that_explains_an_end_is_found(written: str, explanation: str) -> None:
    lines = OutputLines(lambda _: None, Now())
    lines.feed(written.encode())
    lines.end()
    assert lines.explanation() == explanation
