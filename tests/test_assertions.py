"""Statements that a host signs: for one purpose, one plugin, one path, and about now."""

from __future__ import annotations

import pytest

from cpg_trio import wire
from cpg_trio.assertions import (
    LEEWAY_S,
    LONGEST_S,
    MAX_LENGTH,
    Assertion,
    ClocksDifferError,
    InvalidAssertionError,
    Purpose,
    path_claim,
    read,
    sign,
)

DIGEST = wire.token_digest("a token")
NOW = 1_000_000.0
STATEMENT = Assertion("p-1", "p", "q-1", "/q.v1.Q/M", NOW + LONGEST_S)
SIGNED = sign(DIGEST, Purpose.CALLER, STATEMENT)


def read_at(now: float) -> Assertion:
    return read(SIGNED, [DIGEST], Purpose.CALLER, "q-1", now)


def test_a_statement_is_read_as_it_was_signed() -> None:
    assert read_at(NOW) == STATEMENT
    assert read(SIGNED, [wire.token_digest("another"), DIGEST], Purpose.CALLER, "q-1", NOW) == STATEMENT


@pytest.mark.parametrize("now", [NOW - LEEWAY_S, NOW, NOW + LONGEST_S + LEEWAY_S - 0.01])
def test_a_clock_may_differ_by_the_leeway_in_both_directions(now: float) -> None:
    assert read_at(now) == STATEMENT


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (NOW - LEEWAY_S - 0.6, "not valid for another 31 s"),
        (NOW + LONGEST_S + LEEWAY_S, "expired 30 s ago"),
    ],
)
def test_a_clock_that_differs_by_more_is_said_to_differ(now: float, why: str) -> None:
    with pytest.raises(ClocksDifferError, match=why):
        read_at(now)


@pytest.mark.parametrize("purpose", set(Purpose) - {Purpose.CALLER})
def test_a_statement_is_worth_nothing_for_another_purpose(purpose: Purpose) -> None:
    with pytest.raises(InvalidAssertionError, match="not signed by this plugin's host"):
        read(SIGNED, [DIGEST], purpose, "q-1", NOW)


def test_a_statement_is_worth_nothing_to_another_plugin() -> None:
    with pytest.raises(InvalidAssertionError, match="for another plugin"):
        read(SIGNED, [DIGEST], Purpose.CALLER, "q-2", NOW)


def test_what_is_longer_than_any_statement_is_not_verified() -> None:
    with pytest.raises(InvalidAssertionError, match="too long"):
        read("x" * (MAX_LENGTH + 1), [DIGEST], Purpose.CALLER, "q-1", NOW)


def test_a_path_travels_as_it_is_or_as_a_digest_if_it_is_very_long() -> None:
    assert path_claim(b"/q.v1.Q/M%2F") == "/q.v1.Q/M%2F"
    assert path_claim(b"/" + b"a" * 1023) == "/" + "a" * 1023
    long = path_claim(b"/" + b"a" * 1024)
    assert long.startswith("sha256:")
    assert long != path_claim(b"/" + b"b" * 1024)
