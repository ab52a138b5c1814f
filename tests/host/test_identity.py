"""Identities: unguessable, kept as digests, ended by time."""

from __future__ import annotations

import re

import pytest

from cpg_trio.host.identity import Identities, Identity


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def expired() -> list[str]:
    return []


@pytest.fixture
def identities(clock: Clock, expired: list[str]) -> Identities:
    def note(identity: Identity) -> None:
        expired.append(identity.runtime_id)

    return Identities(ttl_s=60.0, on_expired=note, clock=clock)


def test_a_runtime_id_is_the_lower_cased_name_with_64_random_bits(identities: Identities) -> None:
    identity, _ = identities.issue("My_Probe")
    assert re.fullmatch(r"my_probe-[0-9a-f]{16}", identity.runtime_id)


def test_a_token_is_44_characters_of_padded_url_safe_base64(identities: Identities) -> None:
    _, token = identities.issue("x")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}=", token)


def test_ten_thousand_runs_of_one_plugin_never_share_a_name(identities: Identities) -> None:
    names = {identities.issue("logger-plugin")[0].runtime_id for _ in range(10_000)}
    assert len(names) == 10_000


def test_a_later_handshake_under_the_same_name_takes_nothing_from_an_earlier_one(
    identities: Identities,
) -> None:
    victim, token = identities.issue("victim")
    for _ in range(1000):
        identities.issue("victim")
    assert identities.authenticate(victim.runtime_id, token) == victim


def test_only_its_own_token_proves_a_name(identities: Identities) -> None:
    one, token_one = identities.issue("one")
    other, token_other = identities.issue("other")
    assert identities.authenticate(one.runtime_id, token_one) == one
    assert identities.authenticate(one.runtime_id, token_other) is None
    assert identities.authenticate(other.runtime_id, token_one) is None
    assert identities.authenticate("one-0000", token_one) is None
    assert identities.authenticate(one.runtime_id, "") is None
    assert identities.authenticate(one.runtime_id, token_one[:-1]) is None


def test_no_token_is_kept(identities: Identities) -> None:
    _, token = identities.issue("x")
    assert token not in repr(vars(identities))


def test_an_identity_ends_when_its_time_is_over(
    identities: Identities, clock: Clock, expired: list[str]
) -> None:
    identity, token = identities.issue("x")
    clock.now += 59.9
    assert identities.authenticate(identity.runtime_id, token)
    clock.now += 0.1
    assert identities.authenticate(identity.runtime_id, token) is None
    assert expired == [identity.runtime_id]


def test_expired_identities_do_not_pile_up(identities: Identities, clock: Clock, expired: list[str]) -> None:
    for _ in range(1000):
        identities.issue("x")
    clock.now += 61
    identities.issue("x")
    assert len(identities) == 1
    assert len(expired) == 1000


def test_the_host_can_prove_itself_to_those_it_knows_only(identities: Identities) -> None:
    identity, _ = identities.issue("x")
    assert identities.control_credential(identity.runtime_id)
    assert identities.control_credential("y-0") is None


def test_who_held_an_identity_that_has_ended_can_still_prove_that_and_nobody_else_can(
    identities: Identities, clock: Clock
) -> None:
    revoked, token = identities.issue("a")
    expired, other = identities.issue("b")
    identities.revoke(revoked.runtime_id, "of a reason")
    clock.now += 61
    identities.issue("c")
    assert identities.authenticate(revoked.runtime_id, token) is None
    assert identities.former(revoked.runtime_id, token) == revoked
    assert identities.former(expired.runtime_id, other) == expired
    assert identities.former(revoked.runtime_id, other) is None
    assert identities.former("c-0", token) is None
    assert identities.why_ended(revoked) == "of a reason"
    assert identities.why_ended(expired) == "it has expired"


def test_one_that_is_revoked_without_a_reason_is_as_if_it_had_never_been(identities: Identities) -> None:
    identity, token = identities.issue("a")
    assert identities.why_ended(identity) == ""
    identities.revoke(identity.runtime_id)
    identities.revoke(identity.runtime_id, "too late")
    assert identities.former(identity.runtime_id, token) is None
    assert identities.why_ended(identity) == ""


def test_only_so_many_of_those_that_have_ended_are_remembered(identities: Identities, clock: Clock) -> None:
    first, token = identities.issue("x")
    for _ in range(999):
        identities.issue("x")
    clock.now += 61
    last, last_token = identities.issue("x")
    assert identities.former(first.runtime_id, token) == first
    clock.now += 61
    identities.issue("x")
    assert identities.former(first.runtime_id, token) is None
    assert identities.former(last.runtime_id, last_token) == last
    assert len(identities._ended) == 1000


def test_beginnings_and_ends_are_announced_while_somebody_listens(
    identities: Identities, clock: Clock
) -> None:
    heard: list[str] = []
    with identities.watched(heard.append):
        a, _ = identities.issue("a")
        b, _ = identities.issue("b")
        identities.revoke(a.runtime_id)
        identities.revoke(a.runtime_id)
        clock.now += 61
        c, _ = identities.issue("c")
    identities.issue("d")
    assert heard == [a.runtime_id, b.runtime_id, a.runtime_id, b.runtime_id, c.runtime_id]


def test_what_is_restored_is_as_it_was_but_outlives_none_that_comes_later(
    identities: Identities, clock: Clock
) -> None:
    identity, token = identities.issue("x")
    entry = identities.entry(identity.runtime_id)
    assert entry
    shorter = Identities(ttl_s=10.0, clock=clock)
    shorter.restore(entry)
    known = shorter.authenticate(identity.runtime_id, token)
    assert known == Identity(identity.runtime_id, "x", clock.now + 10)
    later, _ = shorter.issue("y")
    clock.now += 10
    assert not shorter.holds(known)
    assert not shorter.holds(later)
