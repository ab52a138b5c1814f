"""A host states to another what no plugin can state, for one call and a few seconds."""

from __future__ import annotations

import attrs
import jwt
import pytest

from cpg_trio.assertions import LEEWAY_S, Assertion, Purpose, sign
from cpg_trio.host.access import Peer
from cpg_trio.host.access.keys import Claims, Keys
from cpg_trio.host.cluster.statements import (
    SIGNED_S,
    AnotherHostError,
    HostStatement,
    InvalidStatementError,
    sign_statement,
    verify_statement,
)
from cpg_trio.wire import token_digest

KEYS = Keys(["k" * 32]).all
NOW = 1_000_000.0
STATED = HostStatement(
    issuer="a", audience="b", path="/s.S/M", plugin="p-1", peer=Peer("192.0.2.7", ("spiffe://x/p", ""))
)
EXPECTED = "b", "/s.S/M", "p-1"


def test_what_a_host_states_is_what_the_other_reads() -> None:
    assert verify_statement(sign_statement(KEYS, STATED, NOW), KEYS, EXPECTED, NOW) == STATED


def test_a_host_that_changes_its_keys_understands_the_others_meanwhile() -> None:
    old, new = Keys(["o" * 32]).all, Keys(["n" * 32, "o" * 32]).all
    for mine, theirs in ((old, new), (new, Keys(["o" * 32, "n" * 32]).all)):
        assert verify_statement(sign_statement(mine, STATED, NOW), theirs, EXPECTED, NOW) == STATED


@pytest.mark.parametrize(
    "other",
    [
        attrs.evolve(STATED, path="/s.S/N"),
        attrs.evolve(STATED, plugin="p-2"),
    ],
)
def test_a_statement_for_another_call_is_none(other: HostStatement) -> None:
    with pytest.raises(InvalidStatementError, match="another call"):
        verify_statement(sign_statement(KEYS, other, NOW), KEYS, EXPECTED, NOW)


def test_a_statement_for_another_host_is_none_and_the_other_learns_that_it_is_not_this_one() -> None:
    other = attrs.evolve(STATED, audience="c")
    with pytest.raises(AnotherHostError):
        verify_statement(sign_statement(KEYS, other, NOW), KEYS, EXPECTED, NOW)


def test_a_statement_is_good_for_seconds_and_the_leeway_of_clocks() -> None:
    token = sign_statement(KEYS, STATED, NOW)
    for late_s in (-LEEWAY_S + 1, SIGNED_S + LEEWAY_S - 1):
        assert verify_statement(token, KEYS, EXPECTED, NOW + late_s) == STATED
    with pytest.raises(InvalidStatementError, match="it has expired 30 s ago"):
        verify_statement(token, KEYS, EXPECTED, NOW + SIGNED_S + LEEWAY_S)
    with pytest.raises(InvalidStatementError, match="30 s from now"):
        verify_statement(token, KEYS, EXPECTED, NOW - LEEWAY_S)


def test_nothing_that_a_plugin_has_or_can_sign_is_a_statement() -> None:
    key = KEYS[0]
    claims = {"iss": "a", "aud": "b", "path": "/s.S/M", "sub": "p-1", "adr": "", "names": [], "exp": NOW}
    token = Keys(["k" * 32]).sign(Claims("p-1", "p", NOW + 60))
    of_the_host = Assertion("", "", "b", "/s.S/M", NOW + 10)
    forged = [
        "",
        "x.y.z",
        token,
        sign(token_digest(token), Purpose.CONTROL, of_the_host),
        sign(key, Purpose.CONTROL, of_the_host),
        jwt.encode(claims, "", "none"),
        jwt.encode(claims, key, "HS256"),  # not the key that is derived for this purpose
        jwt.encode(claims, token_digest(token), "HS256"),
        sign_statement(Keys(["x" * 32]).all, STATED, NOW),
        "x" * 20_000,
    ]
    for each in forged:
        with pytest.raises(InvalidStatementError):
            verify_statement(each, KEYS, EXPECTED, NOW)
