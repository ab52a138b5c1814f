"""Grants that are good at all hosts of a directory: what makes them so, and how they end at all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cpg_trio.host import Audit, Capability, Keys
from cpg_trio.host.access import SKEW_S, Ended, Entry, Identities, RefusedError
from cpg_trio.host.access.keys import Claims
from cpg_trio.host.capabilities.ended_grants import ENDED_GRANTS, EndedGrant
from cpg_trio.host.capabilities.grants import Grant, Grants, random_id
from cpg_trio.host.capabilities.shared_ends import PREFIXES, SharedEnds
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.store import Commit, MemoryStore, StoreError
from tests.plugin.running import eventually
from tests.rpc.echo import Echo

A, B = "a" * 32, "b" * 32
ECHO = Capability.of("echo", "1.0.0", Echo())
OTHER = Capability.of("other", "1.0.0", Echo())


class Clock:
    """A wall clock that can be set."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@attrs.define(eq=False)
class Place:
    """The grants of one host, and the identities that it knows."""

    keys: Keys = attrs.field(factory=lambda: Keys([A]))
    directory: str = "d1"
    ttl_s: float = 600
    most: int = 100
    clock: Clock = attrs.field(factory=Clock)
    identities: Identities = attrs.field(init=False)
    grants: Grants = attrs.field(init=False)
    ends: SharedEnds = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.identities = Identities(self.keys, wall_clock=self.clock)
        capabilities = {"echo": ECHO, "other": OTHER}
        self.grants = Grants(
            self.keys, self.identities, Audit(), capabilities, self.ttl_s, self.most, self.clock
        )
        if self.directory:
            self.grants.share(self.directory)
        self.ends = SharedEnds(self.grants)

    def issue(self, name: str = "app") -> tuple[Grant, str]:
        owner, _ = self.identities.issue(name, address="192.0.2.7")
        return self.grants.issue(owner, ECHO)

    def why_refused(self, grant: Grant, token: str, runtime_id: str = "") -> str:
        try:
            self.grants.check("echo", grant.id, token, runtime_id)
        except RefusedError as refused:
            return refused.message
        return ""


INVALID = "invalid grant ID"


async def test_a_host_takes_a_grant_of_another_and_holds_it_like_its_own() -> None:
    one, two = Place(), Place()
    grant, token = one.issue()
    found = two.grants.check("echo", grant.id, token, grant.owner.runtime_id)
    assert (found.id, found.owner, found.capability) == (grant.id, grant.owner, ECHO)
    assert abs(found.left_s - grant.left_s) < 1
    assert two.grants.of(grant.owner.runtime_id) == [found]
    assert two.grants.check("echo", grant.id, token, "") is found
    assert two.why_refused(grant, f"{token}x") == "invalid token"
    assert two.why_refused(grant, token, "somebody-else") == "invalid token"
    with pytest.raises(RefusedError, match=INVALID):
        two.grants.check("other", grant.id, token, "")
    assert token not in repr(found)


@pytest.mark.parametrize(
    "there",
    [
        Place(Keys([B])),  # other hosts
        Place(directory="d2"),  # the hosts of another directory with the same key
        Place(directory=""),  # a host that shares its directory with nobody
    ],
)
async def test_a_host_that_shares_nothing_with_the_issuer_takes_no_grant(there: Place) -> None:
    grant, token = Place().issue()
    assert there.why_refused(grant, token) == INVALID


async def test_another_run_of_a_host_that_is_alone_takes_no_grant_of_the_former() -> None:
    grant, token = Place(directory="").issue()
    assert Place(directory="").why_refused(grant, token) == INVALID


async def test_a_grant_is_good_with_any_of_the_keys() -> None:
    grant, token = Place(Keys([A])).issue()
    assert not Place(Keys([B, A])).why_refused(grant, token)


async def test_a_token_of_another_grant_or_of_another_kind_opens_nothing() -> None:
    one, two = Place(), Place()
    grant, token = one.issue()
    another, of_another = one.issue()
    owner = grant.owner
    runtime_token = one.keys.sign(Claims(owner.runtime_id, owner.self_id, 2e9))
    for wrong in (of_another, runtime_token, "", "x", "x.y.z", token[:-1], token * 20):
        assert two.why_refused(grant, wrong) == INVALID
    assert not two.why_refused(another, of_another)
    assert one.keys.verify(token) is None
    assert two.identities.authenticate(owner.runtime_id, token) is None


async def test_a_host_that_does_not_offer_the_capability_takes_no_grant_of_it() -> None:
    one, two = Place(), Place()
    grant, token = one.issue()
    two.grants._capabilities = {"other": OTHER}
    assert two.why_refused(grant, token) == INVALID


async def test_a_grant_of_another_host_ends_when_its_time_is_over(autojump_clock: MockClock) -> None:
    one, two = Place(ttl_s=10), Place(ttl_s=10)
    grant, token = one.issue()
    assert not two.why_refused(grant, token)
    await trio.sleep(9)
    assert not two.why_refused(grant, token)
    await trio.sleep(2)
    assert two.why_refused(grant, token) == "grant expired"


@pytest.mark.parametrize(
    ("later_s", "why"), [(9, ""), (11, "grant expired"), (-290, ""), (-310, "grant expired")]
)
async def test_clocks_of_hosts_may_differ_a_little(later_s: float, why: str) -> None:
    one, two = Place(ttl_s=10), Place(ttl_s=10)
    grant, token = one.issue()
    two.clock.now += later_s
    assert two.why_refused(grant, token) == why
    if not why:
        assert two.grants.check("echo", grant.id, token, "").left_s <= 10


async def test_a_grant_ends_with_its_owner_also_where_the_owner_was_not_known() -> None:
    one, two, three = Place(), Place(), Place()
    grant, token = one.issue()
    runtime_id = grant.owner.runtime_id
    assert not two.why_refused(grant, token)
    for place in (two, three):
        place.identities.restore_ended(Ended(runtime_id, "app", "revoked", place.identities._clock() + 600))
    assert two.why_refused(grant, token) == "grant expired"  # it ends altogether with `Lifetimes`
    assert three.why_refused(grant, token) == INVALID


async def test_what_an_owner_holds_at_a_host_is_bounded_whoever_has_issued_it() -> None:
    one, two = Place(), Place()
    owner, _ = one.identities.issue("greedy")
    issued = list[tuple[Grant, str]]()
    for issuer in (one, Place(), Place()):
        issuer.identities.restore(Entry(owner, b"", issuer.identities._clock() + 600))
        for _ in range(30):
            two.clock.now += 1
            issuer.clock.now = two.clock.now
            issued.append(issuer.grants.issue(owner, ECHO))
    for grant, token in issued:
        assert not two.why_refused(grant, token)
    assert len(two.grants) == 32
    assert not two.why_refused(*issued[-1])
    assert two.why_refused(*issued[0]) == INVALID


async def test_an_address_holds_no_more_grants_of_other_hosts_than_its_share() -> None:
    one, two = Place(most=1000), Place(most=8)
    refusals = [two.why_refused(*one.issue()) for _ in range(8)]
    assert refusals[:6] == [""] * 6
    assert refusals[6:] == ["too many grants of one address (max: 6)"] * 2


@asynccontextmanager
async def directory(*places: Place, store: MemoryStore | None = None) -> AsyncIterator[MemoryStore]:
    """Run some hosts over one store, which they follow."""
    store = store or MemoryStore()

    async def follow(place: Place) -> None:
        async with store.changes(1) as changes:
            async for changed in changes:
                for key, entry in changed.values.items():
                    prefix = next(prefix for prefix in PREFIXES if key.startswith(prefix))
                    value = entry.value if entry is not None else None
                    place.ends.apply(prefix, key.removeprefix(prefix), value)

    async with trio.open_nursery() as nursery:
        for place in places:
            nursery.start_soon(follow, place)
            nursery.start_soon(place.ends.run, store)
        await trio.testing.wait_all_tasks_blocked()
        yield store
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("revoker", [0, 1, 2])
async def test_a_grant_that_is_revoked_anywhere_ends_everywhere_with_its_calls(revoker: int) -> None:
    places = Place(), Place(), Place()  # it issues the grant; it has seen it; it has not
    grant, token = places[0].issue()
    seen = places[1].grants.check("echo", grant.id, token, "")
    cancelled = list[bool]()

    async def call(place: Place, held: Grant) -> None:
        with place.grants.call(held) as scope:
            await trio.Event().wait()
        cancelled.append(scope.cancelled_caught)

    async with directory(*places), trio.open_nursery() as nursery:
        nursery.start_soon(call, places[0], grant)
        nursery.start_soon(call, places[1], seen)
        await trio.testing.wait_all_tasks_blocked()
        assert places[revoker].grants.revoke(grant.id, "stolen")
        await places[revoker].ends.written()
        await eventually(lambda: len(cancelled) == 2)
        assert cancelled == [True, True]
        await eventually(lambda: all(place.why_refused(grant, token) == INVALID for place in places))
        assert not any(place.grants.revoke(grant.id, "again") for place in places)


async def test_no_grant_of_an_unlikely_name_is_revoked_and_none_at_a_host_that_is_alone() -> None:
    shared, alone = Place(), Place(directory="")
    assert not shared.grants.revoke("nonsense", "why")
    assert not shared.grants.revoke("ä" * 24, "why")
    assert not alone.grants.revoke(random_id(), "why")
    assert shared.grants.revoke(random_id(), "why")


async def test_all_grants_that_a_plugin_has_end_everywhere_and_it_may_ask_again() -> None:
    one, two = Place(), Place()
    grant, token = one.issue()
    other, of_other = one.issue("other")
    assert not two.why_refused(grant, token)
    async with directory(one, two):
        assert two.grants.revoke_all(grant.owner.runtime_id, "to see") == 1
        await eventually(lambda: one.why_refused(grant, token) == INVALID)
        assert two.why_refused(grant, token) == INVALID
        assert not two.why_refused(other, of_other)
        one.clock.now += 1
        two.clock.now += 1
        assert not two.why_refused(*one.grants.issue(grant.owner, ECHO))


class Failing(MemoryStore):
    """Fails while it is told to."""

    fails = False

    async def commit(self, commit: Commit) -> int:
        if self.fails:
            raise StoreError("nobody answers")
        return await super().commit(commit)


async def test_an_end_that_cannot_be_written_holds_here_and_is_told_when_it_can(
    autojump_clock: MockClock,
) -> None:
    one, two, store = Place(), Place(), Failing()
    grant, token = one.issue()
    async with directory(one, two, store=store):
        store.fails = True
        assert one.grants.revoke(grant.id, "stolen")
        with pytest.raises(ConnectError, match="the others do not know it yet") as caught:
            await one.ends.written()
        assert caught.value.code is Code.UNAVAILABLE
        assert one.why_refused(grant, token) == INVALID
        assert not two.why_refused(grant, token)
        store.fails = False
        await trio.sleep(2)
        assert two.why_refused(grant, token) == INVALID
        await one.ends.written()


async def test_a_host_that_stops_at_once_has_written_what_it_has_ended() -> None:
    one = Place()
    grant, _ = one.issue()
    async with directory(one) as store:
        one.grants.revoke(grant.id, "stolen")
    (entry,) = (await store.load()).entries
    assert entry.key == ENDED_GRANTS + grant.id
    assert EndedGrant.decoded(entry.value).why == "stolen"


async def test_what_is_over_is_dropped_from_the_store_and_from_memory(autojump_clock: MockClock) -> None:
    one, two = Place(ttl_s=10), Place(ttl_s=10)
    grant, _ = one.issue()
    async with directory(one, two) as store:
        one.grants.revoke(grant.id, "stolen")
        await trio.sleep(61)
        assert (len(one.grants.ended), len(two.grants.ended), len((await store.load()).entries)) == (1, 1, 1)
        one.clock.now += 3600
        await trio.sleep(61)
        assert (len(one.grants.ended), len(two.grants.ended), len((await store.load()).entries)) == (0, 0, 0)


async def test_a_clock_that_is_ahead_brings_no_revoked_grant_back(autojump_clock: MockClock) -> None:
    one, two, ahead = (Place(ttl_s=600) for _ in range(3))
    grant, token = one.issue()
    async with directory(one, two, ahead):
        one.grants.revoke(grant.id, "stolen")
        await trio.sleep(400)
        one.clock.now += 400
        two.clock.now += 400
        ahead.clock.now += 400 + SKEW_S - 1
        await trio.sleep(61)
        assert one.why_refused(grant, token) == two.why_refused(grant, token) == INVALID


async def test_what_is_remembered_is_bounded_and_nothing_revoked_comes_back() -> None:
    one, two = Place(), Place(most=10)
    grants = [one.issue(f"p{number}") for number in range(20)]
    held = [two.why_refused(*grant) for grant in grants[:5]]
    for grant, _ in grants[5:]:
        assert two.grants.revoke(grant.id, "stolen")
    assert len(two.grants.ended) == 10
    assert held == [two.why_refused(*grant) for grant in grants[:5]] == [""] * 5
    assert [two.why_refused(*grant) for grant in grants[5:]] == [INVALID] * 15


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b'{"until": "x"}', b'{"until": 1, "why": 2}', b"{}"])
async def test_an_entry_that_cannot_be_read_is_told_and_changes_nothing(
    value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place()
    grant, token = place.issue()
    place.ends.apply(ENDED_GRANTS, grant.id, value)
    assert not place.why_refused(grant, token)
    assert f"the entry {ENDED_GRANTS}{grant.id} of the store is not used" in caplog.text
