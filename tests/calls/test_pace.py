"""The wait after failed calls: longer for each in a row, at most 5 s, none after an answer."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from cpg_trio.calls.pace import Pace


async def test_each_failure_in_a_row_makes_the_wait_longer_up_to_five_seconds(
    autojump_clock: MockClock,
) -> None:
    pace, waits = Pace(), list[float]()
    for _ in range(12):
        pace.failed()
        waits.append(pace.wait_s())
        await trio.sleep(waits[-1])
        assert pace.wait_s() <= 0
    for number, wait_s in enumerate(waits):
        longest_s = min(0.05 * 2**number, 5.0)
        assert longest_s / 2 <= wait_s <= longest_s


async def test_calls_that_fail_during_a_wait_count_as_one(autojump_clock: MockClock) -> None:
    pace = Pace()
    for _ in range(1000):
        pace.failed()
    assert 0 < pace.wait_s() <= 0.05


async def test_an_answer_ends_the_wait(autojump_clock: MockClock) -> None:
    pace = Pace()
    assert pace.wait_s() <= 0
    pace.failed()
    pace.answered()
    assert pace.wait_s() <= 0
    pace.failed()
    assert pace.wait_s() <= 0.05
