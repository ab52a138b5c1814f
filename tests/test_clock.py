"""The clock that ages are measured by."""

from __future__ import annotations

import time

import trio
from trio.testing import MockClock

from cpg_trio._clock import Clock, current_time


async def test_a_suspend_counts_a_second_later_at_the_latest(autojump_clock: MockClock) -> None:
    since_boot = 5000.0
    clock = Clock(lambda: since_boot)
    assert clock() == trio.current_time()
    since_boot += 3600.0
    await trio.sleep(1)
    assert clock() == trio.current_time() + 3600


async def test_the_time_between_two_looks_is_no_suspend(autojump_clock: MockClock) -> None:
    jitter = iter(range(100))
    clock = Clock(lambda: next(jitter) / 1000)
    for _ in range(50):
        await trio.sleep(1)
        assert clock() == trio.current_time()


async def test_it_goes_on_as_trios_does() -> None:
    began, real = current_time(), time.monotonic()
    await trio.sleep(0.05)
    assert 0.05 <= current_time() - began <= time.monotonic() - real + 0.01
