"""Assertions: who signs them, whom they are for, and for how long."""

from __future__ import annotations

import pytest

from cpg_trio.assertions import (
    LEEWAY_S,
    LONGEST_S,
    MAX_LENGTH,
    Assertion,
    ClocksDifferError,
    InvalidAssertionError,
    Purpose,
    path_claim,
    sign,
    verify,
)

DIGEST = b"d" * 32
NOW = 1_700_000_000.0
CALL = Assertion("caller-1", "caller", "me-1", "/a.v1.A/M", NOW + LONGEST_S)


def verified(assertion: Assertion = CALL, *, now: float = NOW, audience: str = "me-1") -> Assertion:
    return verify(sign(DIGEST, Purpose.CALLER, assertion), [DIGEST], Purpose.CALLER, audience, now)


def test_what_is_signed_is_what_is_verified() -> None:
    assert verified() == CALL


@pytest.mark.parametrize("late_s", [0.0, LEEWAY_S - 0.01])
def test_it_is_valid_until_the_leeway_has_passed(late_s: float) -> None:
    assert verified(now=CALL.expires_at + late_s) == CALL


@pytest.mark.parametrize("late_s", [LEEWAY_S, LEEWAY_S + 0.01])
def test_it_is_expired_from_the_end_of_the_leeway_on(late_s: float) -> None:
    with pytest.raises(ClocksDifferError, match="expired 30 s ago"):
        verified(now=CALL.expires_at + late_s)


@pytest.mark.parametrize("early_s", [0.0, LEEWAY_S])
def test_it_may_expire_later_than_the_longest_time_by_the_leeway(early_s: float) -> None:
    assert verified(now=CALL.expires_at - LONGEST_S - early_s) == CALL


@pytest.mark.parametrize("early_s", [LEEWAY_S + 0.01, LEEWAY_S + 1])
def test_one_that_expires_later_than_that_is_of_a_clock_that_is_ahead(early_s: float) -> None:
    with pytest.raises(ClocksDifferError, match="not valid for another"):
        verified(now=CALL.expires_at - LONGEST_S - early_s)


def test_with_both_leeways_it_is_valid_for_two_minutes_at_most() -> None:
    assert LONGEST_S + 2 * LEEWAY_S == 120


def test_one_for_another_plugin_purpose_or_key_is_invalid_and_no_matter_of_clocks() -> None:
    with pytest.raises(InvalidAssertionError, match=r"^for another plugin$"):
        verified(audience="me-2")
    token = sign(DIGEST, Purpose.CALLER, CALL)
    for digests, purpose in (
        ([DIGEST], Purpose.CONTROL),
        ([b"e" * 32], Purpose.CALLER),
        ([], Purpose.CALLER),
    ):
        with pytest.raises(InvalidAssertionError, match=r"^not signed by this plugin's host$"):
            verify(token, digests, purpose, "me-1", NOW)
    assert verify(token, [b"e" * 32, DIGEST], Purpose.CALLER, "me-1", NOW) == CALL


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidAssertionError, match=r"^too long$"):
        verify("x" * (MAX_LENGTH + 1), [DIGEST], Purpose.CALLER, "me-1", NOW)


def test_a_very_long_path_is_stated_by_its_digest() -> None:
    assert path_claim(b"/" * 1024) == "/" * 1024
    long, other = path_claim(b"/" * 1025), path_claim(b"/" * 1026)
    assert long.startswith("sha256:")
    assert long != other
