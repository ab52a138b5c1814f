"""No address takes all of what is for everybody, and there is always some room for another one."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from cpg_trio.host.access.limits import LimitError
from cpg_trio.host.access.shares import Shares


def fill(shares: Shares, share: str) -> int:
    """Take as much as an address gets, one at a time; return how much that is."""
    count = 0
    with suppress(LimitError):
        while True:
            shares.check(share)
            shares.add(share)
            count += 1
    return count


def test_one_address_gets_three_quarters_and_each_that_follows_three_quarters_of_what_is_left() -> None:
    shares = Shares("things", 1000)
    assert [fill(shares, name) for name in "abc"] == [750, 188, 47]
    assert shares.total == 985


def test_the_errors_say_whether_all_is_taken_or_the_share_of_an_address() -> None:
    shares = Shares("things", 4)
    assert fill(shares, "a") == 3
    with pytest.raises(LimitError, match=r"too many things of one address \(max: 3\)"):
        shares.check("a")
    assert fill(shares, "b") == 1
    with pytest.raises(LimitError, match=r"too many things \(max: 4\)"):
        shares.check("b")


STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-20, 20)), max_size=100)


@given(st.integers(1, 100), STEPS)
def test_whatever_is_taken_and_given_back_who_has_nothing_gets_what_is_free(
    most: int, steps: list[tuple[str, int]]
) -> None:
    shares, held = Shares("things", most), dict.fromkeys("abc", 0)
    for name, wanted in steps:
        more = max(wanted, -held[name])
        try:
            if more > 0:
                shares.check(name, more)
        except LimitError:
            continue
        shares.add(name, more)
        held[name] += more
        assert shares.total == sum(held.values()) <= most
        if free := most - shares.total:
            shares.check("newcomer", free)
    for name, count in held.items():
        shares.remove(name, count)
    assert (shares.total, shares._held) == (0, {})
