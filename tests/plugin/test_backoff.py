"""The waits between tries: longer each time, up to a bound, and different for each plugin."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.plugin._retry import FIRST_S, LONGEST_S, Backoff, retry_after_s


@pytest.mark.parametrize(
    ("bound", "longest"), [(LONGEST_S, LONGEST_S), (0.5, 0.5), (0.01, 0.01), (60.0, LONGEST_S)]
)
def test_waits_double_up_to_the_bound_and_are_cut_by_up_to_half(bound: float, longest: float) -> None:
    backoff = Backoff(bound)
    for index in range(50):
        wait = backoff.next_s()
        whole = min(FIRST_S * 2**index, longest)
        assert whole / 2 <= wait <= whole


def test_no_two_plugins_wait_alike() -> None:
    assert len({Backoff().next_s() for _ in range(50)}) == 50


async def opened(backoff: Backoff, lasts_s: float, within_s: float) -> int:
    """Return how often something is opened that ends after a while each time."""
    times, end = 0, trio.current_time() + within_s
    while trio.current_time() < end:
        backoff.opened()
        times += 1
        await trio.sleep(lasts_s)
        await backoff.wait()
    return times


@pytest.mark.parametrize("lasts_s", [0.0, 0.001, 1.0, LONGEST_S - 0.1])
async def test_what_ends_soon_is_opened_ever_less_often_however_it_ends(
    lasts_s: float, autojump_clock: MockClock
) -> None:
    assert await opened(Backoff(), lasts_s, 600) <= 600 / (lasts_s + LONGEST_S / 2) + 8


async def test_what_has_lasted_is_opened_again_soon(autojump_clock: MockClock) -> None:
    backoff = Backoff()
    await opened(backoff, 0, 60)
    backoff.opened()
    await trio.sleep(LONGEST_S + 0.1)
    ended = trio.current_time()
    await backoff.wait()
    assert trio.current_time() - ended <= FIRST_S


def test_a_success_starts_with_the_shortest_wait_again() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= FIRST_S


async def test_who_asks_for_a_longer_wait_gets_it(autojump_clock: MockClock) -> None:
    await Backoff().wait(30.0)
    assert trio.current_time() >= 30


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0", 0.0),
        ("", 0.0),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("²", 0.0),
        ("86400", 3600.0),
        ("9" * 5000, 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_what_a_host_asks_for_is_whole_seconds_and_an_hour_at_most(value: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": value}) == seconds
    assert retry_after_s({}) == 0
