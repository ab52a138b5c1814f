"""Identities: unguessable, proved by signed tokens that are kept as digests, ended by time."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress

import attrs
import pytest
import trio
from trio.testing import MockClock

from cpg_trio import _clock
from cpg_trio.host.access.ended_identities import Ended
from cpg_trio.host.access.identity import Entry, Identities, Identity
from cpg_trio.host.access.keys import Claims, Keys
from cpg_trio.host.access.limits import LimitError, Limits
from cpg_trio.wire import token_digest

KEYS = Keys(["k" * 32])


@attrs.define
class Clock:
    now: float = 1000.0

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

    return Identities(KEYS, longest_s=60.0, on_expired=note, clock=clock, wall_clock=clock)


def test_a_runtime_id_is_the_lower_cased_name_with_64_random_bits(identities: Identities) -> None:
    identity, _ = identities.issue("My_Probe")
    assert re.fullmatch(r"my_probe-[0-9a-f]{16}", identity.runtime_id)


def test_no_two_tokens_of_one_identity_are_the_same(identities: Identities) -> None:
    identity, token = identities.issue("x")
    assert len({token, *(identities.renew(identity) for _ in range(100))}) == 101


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


def test_an_identity_that_is_forgotten_is_as_if_it_had_never_been(identities: Identities) -> None:
    identity, token = identities.issue("a")
    assert identities.why_ended(identity) == ""
    identities.forget(identity.runtime_id)
    assert identities.former(identity.runtime_id, token) is None
    assert identities.why_ended(identity) == ""


def test_an_identity_can_be_revoked_before_this_host_has_seen_it(clock: Clock) -> None:
    identity, token = another(clock).issue("a")
    identities = another(clock)
    assert identities.revoke(identity.runtime_id, "it was stolen")
    assert not identities.revoke(identity.runtime_id, "again")
    assert identities.authenticate(identity.runtime_id, token) is None
    assert identities.why_ended(identity) == "it was stolen"


def test_what_has_ended_is_remembered_for_longer_than_its_tokens_are_good_and_no_longer(
    identities: Identities, clock: Clock
) -> None:
    identity, token = identities.issue("x")
    identities.revoke(identity.runtime_id, "of a reason")
    clock.now += 61 + 3599
    assert identities.authenticate(identity.runtime_id, token) is None
    assert identities.former(identity.runtime_id, token) is None
    for _ in range(1000):
        identities.revoke(identities.issue("x")[0].runtime_id)
    clock.now += 60 + 3600
    identities.issue("x")
    assert not len(identities._ended)
    assert len(identities._looks) <= 100


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
    shorter = Identities(longest_s=10.0, clock=clock, wall_clock=clock)
    shorter.restore(Entry(identity, token_digest(token), clock.now + 60))
    assert shorter.authenticate(identity.runtime_id, token) == identity
    assert shorter.left_s(identity) == 10
    later, _ = shorter.issue("y")
    clock.now += 10
    assert not shorter.holds(identity)
    assert not shorter.holds(later)


# Tokens that are renewed


def test_a_renewed_token_takes_nothing_from_the_one_before_it(identities: Identities, clock: Clock) -> None:
    identity, first = identities.issue("x")
    clock.now += 30
    second = identities.renew(identity)
    assert identities.authenticate(identity.runtime_id, first) == identity
    assert identities.authenticate(identity.runtime_id, second) == identity
    clock.now += 30
    assert identities.authenticate(identity.runtime_id, first) is None
    assert identities.authenticate(identity.runtime_id, second) == identity
    clock.now += 30
    assert identities.authenticate(identity.runtime_id, second) is None
    assert not identities.holds(identity)


def test_the_digest_to_sign_with_changes_when_the_plugin_has_shown_that_it_has_the_new_token(
    identities: Identities,
) -> None:
    identity, first = identities.issue("x")
    second = identities.renew(identity)
    entry = identities.entry(identity.runtime_id)
    assert entry
    assert entry.digest == token_digest(first)
    identities.authenticate(identity.runtime_id, second)
    assert entry.digest == token_digest(second)


def test_a_token_that_is_still_on_its_way_does_not_bring_an_older_digest_back(
    identities: Identities, clock: Clock
) -> None:
    identity, first = identities.issue("x")
    clock.now += 1
    second = identities.renew(identity)
    identities.authenticate(identity.runtime_id, second)
    identities.authenticate(identity.runtime_id, first)
    entry = identities.entry(identity.runtime_id)
    assert entry
    assert entry.digest == token_digest(second)


def test_a_newer_token_is_the_newer_one_also_if_it_is_good_for_a_shorter_time(identities: Identities) -> None:
    identity, _ = identities.issue("x")
    second = identities.renew(identity, ttl_s=1)
    identities.authenticate(identity.runtime_id, second)
    entry = identities.entry(identity.runtime_id)
    assert entry
    assert entry.digest == token_digest(second)


def test_tokens_that_have_expired_do_not_pile_up(identities: Identities, clock: Clock) -> None:
    identity, _ = identities.issue("x")
    for _ in range(1000):
        clock.now += 30
        identities.renew(identity)
    entry = identities.entry(identity.runtime_id)
    assert entry
    assert len(entry.tokens) <= 3
    assert len(identities._looks) <= 2


def test_all_tokens_of_an_identity_end_when_it_is_revoked(identities: Identities) -> None:
    identity, first = identities.issue("x")
    second = identities.renew(identity)
    identities.revoke(identity.runtime_id, "of a reason")
    for token in (first, second):
        assert identities.authenticate(identity.runtime_id, token) is None
        assert identities.former(identity.runtime_id, token) == identity


# Tokens that are known by their signature


def another(clock: Clock, keys: Keys = KEYS, accepted: list[str] | None = None) -> Identities:
    heard = accepted if accepted is not None else []
    return Identities(
        keys,
        longest_s=60.0,
        on_accepted=lambda i: heard.append(i.runtime_id),
        clock=clock,
        wall_clock=clock,
    )


def test_a_host_with_the_same_key_accepts_a_token_that_it_has_never_seen(
    identities: Identities, clock: Clock
) -> None:
    identity, token = identities.issue("x", provides=("a",), requires=(), address="192.0.2.7")
    accepted: list[str] = []
    other = another(clock, accepted=accepted)
    assert other.authenticate(identity.runtime_id, token) == identity
    assert other.authenticate(identity.runtime_id, token) == identity
    assert accepted == [identity.runtime_id]
    clock.now += 60
    assert other.authenticate(identity.runtime_id, token) is None


def test_a_host_with_another_key_does_not(identities: Identities, clock: Clock) -> None:
    identity, token = identities.issue("x")
    assert another(clock, Keys()).authenticate(identity.runtime_id, token) is None


def test_a_token_renewed_elsewhere_is_one_more_of_the_same_identity(
    identities: Identities, clock: Clock
) -> None:
    identity, first = identities.issue("x")
    other = another(clock)
    other.authenticate(identity.runtime_id, first)
    clock.now += 30
    second = other.renew(identity)
    assert identities.authenticate(identity.runtime_id, second) == identity
    clock.now += 30
    assert identities.authenticate(identity.runtime_id, second) == identity
    entry = identities.entry(identity.runtime_id)
    assert entry
    assert entry.digest == token_digest(second)


def test_a_signature_is_no_way_around_a_revocation(identities: Identities) -> None:
    identity, _ = identities.issue("x")
    unseen = KEYS.sign(Claims(identity.runtime_id, "x", 1050.0))
    identities.revoke(identity.runtime_id)
    assert identities.authenticate(identity.runtime_id, unseen) is None


def test_a_token_renewed_elsewhere_does_not_outlive_a_revocation(clock: Clock) -> None:
    day = 24 * 60 * 60
    mine, other = (Identities(KEYS, longest_s=day, clock=clock, wall_clock=clock) for _ in range(2))
    identity, token = mine.issue("x", ttl_s=60)
    other.authenticate(identity.runtime_id, token)
    renewed = other.renew(identity)
    mine.revoke(identity.runtime_id)
    clock.now += 2 * 60 * 60
    assert other.authenticate(identity.runtime_id, renewed)
    assert mine.authenticate(identity.runtime_id, renewed) is None


def test_of_an_identity_that_has_ended_nothing_is_kept_but_its_names(identities: Identities) -> None:
    identity, _ = identities.issue("x", provides=("a",) * 100, requires=("b",) * 100)
    identities.revoke(identity.runtime_id)
    ended = identities.ended(identity.runtime_id)
    assert ended
    assert (ended.runtime_id, ended.self_id) == (identity.runtime_id, "x")


@pytest.mark.parametrize("expires_at", [999.0, 1000.0, -1.0, float("-inf"), float("nan")], ids=str)
def test_a_token_that_was_signed_for_a_time_that_is_over_is_none(
    identities: Identities, expires_at: float
) -> None:
    assert identities.authenticate("x-1", KEYS.sign(Claims("x-1", "x", expires_at))) is None


DAY_S = 24 * 60 * 60.0


@pytest.mark.parametrize("ttl_s", [60.0, 15 * 60.0, DAY_S])
@pytest.mark.parametrize("ahead_s", [60.0, 0.5 * DAY_S, DAY_S, 1000 * DAY_S])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_token_of_a_clock_that_was_ahead_ends_with_its_time_when_the_clock_is_corrected(
    ttl_s: float,
    ahead_s: float,
    restarted: bool,  # noqa: FBT001
    clock: Clock,
) -> None:
    wall = Clock(2e9)

    def started() -> Identities:
        return Identities(KEYS, longest_s=DAY_S, clock=clock, wall_clock=wall)

    wall.now += ahead_s
    host = started()
    identity, token = host.issue("p", ttl_s=ttl_s)
    wall.now -= ahead_s
    if restarted:
        host = started()
    good_s = 0.0
    while good_s < 3 * DAY_S and host.authenticate(identity.runtime_id, token):
        clock.now, wall.now, good_s = clock.now + 60, wall.now + 60, good_s + 60
    assert good_s <= ttl_s + 5 * 60
    for _ in range(30):
        clock.now, wall.now = clock.now + 3600, wall.now + 3600
        if wall.now < 2e9 + ahead_s - 5 * 60:
            assert not host.authenticate(identity.runtime_id, token)


async def test_a_token_ends_with_its_time_also_while_the_machine_is_suspended(
    autojump_clock: MockClock,
) -> None:
    suspended_s = 0.0
    host = Identities(KEYS, longest_s=60.0, clock=_clock.Clock(lambda: suspended_s))
    identity, token = host.issue("p")
    await trio.sleep(10)
    assert host.authenticate(identity.runtime_id, token)
    suspended_s = 49.0
    await trio.sleep(1)
    assert not host.authenticate(identity.runtime_id, token)


def test_no_token_is_good_for_longer_than_the_host_allows(identities: Identities, clock: Clock) -> None:
    token = KEYS.sign(Claims("x-1", "x", clock.now + 1e9))
    assert identities.authenticate("x-1", token)
    clock.now += 61
    assert not len(another(clock))
    identities.issue("y")
    assert identities.entry("x-1") is None


# What is kept is bounded


def bounded(clock: Clock, in_use: Callable[[str], bool] = lambda _: False, **limits: int) -> Identities:
    return Identities(KEYS, limits=Limits(**limits), in_use=in_use, clock=clock, wall_clock=clock)


def test_of_many_renewals_a_few_tokens_are_kept_and_all_are_good(clock: Clock) -> None:
    identities = bounded(clock)
    identity, first = identities.issue("x")
    tokens = [first, *(identities.renew(identity) for _ in range(1000))]
    entry = identities.entry(identity.runtime_id)
    assert entry
    assert len(entry.tokens) <= 4
    for token in (tokens[0], tokens[500], tokens[-1]):
        assert identities.authenticate(identity.runtime_id, token) == identity
    assert len(entry.tokens) <= 4
    identities.revoke(identity.runtime_id)
    assert not any(identities.authenticate(identity.runtime_id, token) for token in tokens)


def test_an_identity_that_does_nothing_is_not_kept_for_long_and_is_had_again_with_its_token(
    clock: Clock,
) -> None:
    identities = bounded(clock)
    identity, token = identities.issue("x", provides=("a",), requires=("b",), address="192.0.2.1")
    clock.now += 601
    assert not identities.holds(identity)
    assert len(identities) == 0
    assert identities.authenticate(identity.runtime_id, token) == identity
    assert identities.holds(identity)


def test_an_identity_is_kept_while_it_calls_or_is_in_use(clock: Clock) -> None:
    used: set[str] = set()
    identities = bounded(clock, used.__contains__)
    calling, token = identities.issue("calling")
    providing, _ = identities.issue("providing")
    idle, _ = identities.issue("idle")
    used.add(providing.runtime_id)
    for _ in range(10):
        clock.now += 500
        assert identities.authenticate(calling.runtime_id, token)
    assert identities.holds(providing)
    assert not identities.holds(idle)


def test_the_token_of_an_identity_that_is_not_kept_proves_nothing_once_that_is_revoked(clock: Clock) -> None:
    identities = bounded(clock)
    identity, token = identities.issue("x")
    clock.now += 601
    assert not identities.holds(identity)
    assert identities.revoke(identity.runtime_id)
    assert not identities.revoke(identity.runtime_id)
    assert identities.authenticate(identity.runtime_id, token) is None


def test_who_is_not_in_use_makes_room_for_others_of_its_address_and_keeps_nobody_out(clock: Clock) -> None:
    used: set[str] = set()
    identities = bounded(clock, used.__contains__, max_identities=8)
    first = [identities.issue("x", address="192.0.2.1") for _ in range(6)]
    used.add(first[0][0].runtime_id)
    with pytest.raises(LimitError, match="identities of one address"):
        identities.issue("x", address="192.0.2.1")
    identities.issue("y", address="192.0.2.2")
    clock.now += 31
    for _ in range(100):
        identities.issue("x", address="192.0.2.1")
        clock.now += 31
    identities.issue("y", address="192.0.2.2")
    assert len(identities) <= 8
    assert identities.holds(first[0][0])
    for identity, token in first[1:]:
        assert not identities.holds(identity)
        assert identities.authenticate(identity.runtime_id, token) == identity


def test_there_is_room_for_another_address_when_many_have_filled_the_table(clock: Clock) -> None:
    identities = bounded(clock, max_identities=50)
    for number in range(500):
        clock.now += 1
        with suppress(LimitError):
            identities.issue("x", address=f"198.51.100.{number % 250}")
        assert len(identities) <= 50
    clock.now += 31
    identities.issue("y", address="192.0.2.2")
    assert len(identities) <= 50
    assert len(identities._looks) <= 2 * 50 + 64 + 1


def test_a_token_for_which_there_is_no_room_proves_nothing_until_there_is(clock: Clock) -> None:
    elsewhere, identities = another(clock), bounded(clock, lambda _: True, max_identities=1)
    identity, token = elsewhere.issue("x")
    other, _ = identities.issue("y")
    assert identities.authenticate(identity.runtime_id, token) is None
    identities.revoke(other.runtime_id)
    assert identities.authenticate(identity.runtime_id, token) == identity


def test_what_plugins_declare_is_bounded_in_bytes(clock: Clock) -> None:
    types = tuple(f"{'t' * 120}{number}" for number in range(100))
    identities = bounded(clock, lambda _: True, max_declared_bytes=100_000)
    held = 0
    with pytest.raises(LimitError, match="bytes of declared service types"):
        while True:
            identities.issue("x", provides=types, requires=types, address="192.0.2.1")
            held += 2 * sum(map(len, types))
    assert 0 < held < 75_000
    identities.issue("x", provides=types[:1], address="192.0.2.2")


def test_what_is_too_much_for_one_plugin_to_declare_is_refused_also_where_there_is_no_other(
    clock: Clock,
) -> None:
    identities = bounded(clock, max_declared_bytes=1000)
    with pytest.raises(LimitError, match="bytes of declared service types"):
        identities.issue("x", provides=tuple(f"{'t' * 120}{number}" for number in range(100)))
    assert not len(identities)


def test_of_those_that_have_ended_who_has_expired_is_forgotten_first(clock: Clock) -> None:
    identities = bounded(clock, max_ended_identities=3)
    revoked = [identities.issue("x") for _ in range(2)]
    for identity, _ in revoked:
        identities.revoke(identity.runtime_id, "of a reason")
    for _ in range(10):
        identities.issue("x", ttl_s=1)
    clock.now += 2
    identities.issue("x")
    assert [identities.former(i.runtime_id, token) for i, token in revoked] == [
        Identity(i.runtime_id, "x") for i, _ in revoked
    ]
    assert len(identities._ended) == 3
    assert not identities.not_before


def test_a_revocation_that_there_is_no_room_for_shuts_out_more_and_not_fewer(clock: Clock) -> None:
    identities = bounded(clock, max_ended_identities=2)
    known, its_token = identities.issue("known")
    unknown, another_token = another(clock).issue("unknown")
    revoked = [identities.issue("x") for _ in range(5)]
    for identity, _ in revoked:
        identities.revoke(identity.runtime_id)
    assert len(identities._ended) == 2
    for identity, token in revoked:
        assert identities.authenticate(identity.runtime_id, token) is None
    assert identities.authenticate(unknown.runtime_id, another_token) is None
    assert identities.authenticate(known.runtime_id, its_token) == known
    clock.now += 1
    later, later_token = another(clock).issue("later")
    assert identities.authenticate(later.runtime_id, later_token) == later


def test_what_was_let_go_to_make_room_is_announced(clock: Clock) -> None:
    identities, heard = bounded(clock, max_identities=1, max_ended_identities=1), list[str]()
    first, _ = identities.issue("x")
    clock.now += 31
    with identities.watched(heard.append):
        second, _ = identities.issue("x")
        identities.revoke(first.runtime_id)
        identities.revoke(second.runtime_id)
    assert heard.count(first.runtime_id) == 3  # let go, revoked, no longer remembered


# What another host owns


def followed(clock: Clock, owned: set[str], expired: list[str]) -> Identities:
    """Return the identities of a host that owns some of them."""
    return Identities(
        KEYS,
        longest_s=3600.0,
        on_expired=lambda identity: expired.append(identity.runtime_id),
        owns=lambda runtime_id: runtime_id in owned,
        clock=clock,
        wall_clock=clock,
    )


def told(runtime_id: str, digest: bytes, expires_at: float, address: str = "") -> Entry:
    return Entry(Identity(runtime_id, "x", address=address), digest, expires_at)


def test_what_another_host_owns_neither_expires_here_nor_is_dropped_as_idle(
    clock: Clock, expired: list[str]
) -> None:
    owned: set[str] = set()
    here = followed(clock, owned, expired)
    here.follow(told("x-1", b"1", clock.now + 60))
    clock.now += 3000
    here.authenticate("nobody", "nothing")
    assert here.entry("x-1") is not None
    owned.add("x-1")
    here.adopt("x-1")
    here.authenticate("nobody", "nothing")
    assert here.entry("x-1") is None
    assert expired == ["x-1"]


def test_what_is_followed_adds_a_token_and_takes_none(clock: Clock, expired: list[str]) -> None:
    here, announced = followed(clock, set(), expired), list[str]()
    here.follow(told("x-1", b"1", clock.now + 60))
    with here.watched(announced.append):
        here.follow(told("x-1", b"1", clock.now + 60))
        assert not announced  # nothing is new
        here.follow(told("x-1", b"2", clock.now + 90, "192.0.2.1"))
        assert announced == ["x-1"]
    entry = here.entry("x-1")
    assert entry is not None
    assert (entry.identity.address, entry.digest, set(entry.tokens)) == ("192.0.2.1", b"2", {b"1", b"2"})
    assert entry.expires_at == clock.now + 90


def test_an_end_that_is_followed_is_no_news_if_it_has_ended_here(clock: Clock, expired: list[str]) -> None:
    here, announced = followed(clock, set(), expired), list[str]()
    here.follow(told("x-1", b"1", clock.now + 60))
    with here.watched(announced.append):
        for why in ("bad", "later"):
            here.end(Ended("x-1", "x", why, clock.now + 7200))
    ended = here.ended("x-1")
    assert ended is not None
    assert (ended.why, here.entry("x-1"), announced) == ("bad", None, ["x-1"])
