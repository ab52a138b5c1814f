"""Lines of the log that others can cause."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from cpg_trio._throttle import LogThrottle


async def test_one_line_an_interval_is_written_and_says_how_many_were_left_out(
    autojump_clock: MockClock,
) -> None:
    throttle = LogThrottle(10.0)
    assert throttle.suffix() == ""
    assert [throttle.suffix() for _ in range(3)] == [None] * 3
    await trio.sleep(10)
    assert throttle.suffix() == " (and 3 more since the last time)"
    assert throttle.suffix() is None
    await trio.sleep(100)
    assert throttle.suffix() == " (and 1 more since the last time)"
    await trio.sleep(10)
    assert throttle.suffix() == ""
