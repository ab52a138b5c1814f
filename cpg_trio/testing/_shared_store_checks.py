"""What a store has to do that hosts share. Each function is a check; its name says what holds."""

from __future__ import annotations

import time
from contextlib import suppress

import trio
import trio.lowlevel

from cpg_trio.store import Changed, Commit, CompactedError, Entry, Store
from cpg_trio.testing._checks import at_each_step, expect
from cpg_trio.testing._store_check import Tested, conflict

_COMMITS = 30
_TTL_S = 2.0


class _Follower:
    """What a follower knows below a prefix."""

    def __init__(self, tested: Tested) -> None:
        self._prefix = tested.prefix
        self.revision = 0
        self.values: dict[str, bytes] = {}
        self.told: list[dict[str, bytes | None]] = []

    async def load(self, store: Store) -> None:
        snapshot = await store.load()
        self.revision = snapshot.revision
        self.values = {entry.key: entry.value for entry in snapshot.entries if self._is_mine(entry.key)}

    async def follow(self, store: Store, until: int) -> None:
        """Follow from where it is, until a revision has been told."""
        if self.revision >= until:
            return
        async with store.changes(self.revision) as changes:
            async for changed in changes:
                self._apply(changed)
                if self.revision >= until:
                    return

    def _apply(self, changed: Changed) -> None:
        expect(changed.revision >= self.revision, f"{changed.revision} comes after {self.revision}")
        if changed.values:
            expect(changed.revision > self.revision, f"{changed.revision} has been told before")
        mine = {key: entry for key, entry in changed.values.items() if self._is_mine(key)}
        for key, entry in mine.items():
            self._apply_entry(key, entry, changed.revision)
        self.revision = changed.revision
        if mine:
            self.told.append({key: e.value if e is not None else None for key, e in mine.items()})

    def _apply_entry(self, key: str, entry: Entry | None, until: int) -> None:
        if entry is None:
            self.values.pop(key, None)
            return
        expect(entry.key == key, f"what has changed is {key}, and its entry {entry.key}")
        expect(self.revision < entry.revision <= until, f"{key} of {entry.revision} is told at {until}")
        self.values[key] = entry.value

    def _is_mine(self, key: str) -> bool:
        return key.startswith(self._prefix)


async def several_have_it_open_and_see_what_each_has_committed(tested: Tested) -> None:
    async with tested.open_store() as one, tested.open_store() as other:
        expect((await one.load()).id == (await other.load()).id, "it has two ids")
        for number in range(5):
            writer, reader = (one, other) if number % 2 else (other, one)
            revision = await tested.put(writer, a=b"%d" % number)
            expect(await reader.revision() >= revision, "the other's revision is older than a commit")
            expect(await tested.values(reader) == {"a": b"%d" % number}, "what the other loads is older")
            with conflict("what the other has changed passes for what it was"):
                expected = {tested.key("a"): revision - 1}
                await reader.commit(Commit(puts={tested.key("a"): b"x"}, expected=expected))


async def all_changes_are_told_in_order_from_a_load_on(tested: Tested) -> None:
    async with tested.open_store() as one, tested.open_store() as other:
        await tested.put(one, kept=b"0", gone=b"0")
        follower = _Follower(tested)
        await follower.load(other)
        await tested.put(one, before=b"1")  # and before it is followed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_churn, tested, one)
            nursery.start_soon(_churn, tested, other)
            for _ in range(5):
                await follower.follow(other, await other.revision())
        last = await one.commit(Commit(deletes=[tested.key("gone")]))
        await follower.follow(other, last)
        there = {tested.key(name): value for name, value in (await tested.values(one)).items()}
        expect(follower.values == there, f"who follows has {follower.values} instead of {there}")


async def _churn(tested: Tested, store: Store) -> None:
    for number in range(_COMMITS):
        await tested.put(store, **{f"k{number % 7}": b"%d" % number})
        await store.commit(Commit(deletes=[tested.key(f"k{number % 3}")]))


async def what_is_committed_together_is_told_together(tested: Tested) -> None:
    async with tested.open_store() as one, tested.open_store() as other:
        await tested.put(one, c=b"0")
        follower = _Follower(tested)
        await follower.load(other)
        puts = {tested.key("a"): b"1", tested.key("b"): b"1"}
        last = await one.commit(Commit(puts=puts, deletes=[tested.key("c")]))
        await follower.follow(other, last)
        expect(follower.told == [{**puts, tested.key("c"): None}], f"it is told as {follower.told}")


async def own_changes_are_told_as_well(tested: Tested) -> None:
    async with tested.open_store() as store:
        follower = _Follower(tested)
        await follower.load(store)
        await follower.follow(store, await tested.put(store, a=b"1"))
        expect(follower.values == {tested.key("a"): b"1"}, "this one's own commit is not told")


async def who_follows_again_misses_nothing_and_is_told_nothing_twice(tested: Tested) -> None:
    async with tested.open_store() as one, tested.open_store() as other:
        follower = _Follower(tested)
        await follower.load(other)
        for number in range(5):
            await tested.put(one, a=b"%d" % number)
            last = await tested.put(one, b=b"%d" % number)
            await follower.follow(other, last)
            expect(follower.values == {tested.key(name): b"%d" % number for name in "ab"}, "it is behind")


async def who_leaves_at_any_step_follows_again(tested: Tested) -> None:
    async with tested.open_store() as store:
        follower, turns = _Follower(tested), iter(range(10**6))
        await follower.load(store)
        last = await tested.put(store, a=b"begin")

        async def goes_on() -> None:
            nonlocal last
            await follower.follow(store, last)
            there = {tested.key(name): value for name, value in (await tested.values(store)).items()}
            expect(follower.values == there, "who follows again has something else")
            last = await tested.put(store, a=b"%d" % next(turns))

        await at_each_step(lambda: follower.follow(store, last), goes_on)


async def changes_of_long_ago_are_all_told_or_refused(tested: Tested) -> None:
    async with tested.open_store() as store:
        last = await tested.put(store, a=b"1")
        follower = _Follower(tested)
        with suppress(CompactedError):
            await follower.follow(store, last)
            expect(follower.values == {tested.key("a"): b"1"}, "a change is missing")


async def who_is_present_has_an_entry_until_the_end(tested: Tested) -> None:
    async with tested.open_store() as one, tested.open_store() as other:
        follower = _Follower(tested)
        await follower.load(other)
        async with one.present(tested.key("me"), b"here", _TTL_S) as presence:
            await follower.follow(other, presence.revision)
            expect(follower.values == {tested.key("me"): b"here"}, "the other is not told of it")
            expect(await tested.revision(other, "me") == presence.revision, "its revision is another one")
            expected = {tested.key("me"): presence.revision}
            await one.commit(Commit(puts={tested.key("a"): b"1"}, expected=expected))
            begun, now = presence.valid_until, trio.current_time()
            expect(now < begun <= now + _TTL_S, f"it is valid for {begun - now} s")
            await trio.sleep(_TTL_S * 1.25)
            expect(presence.valid_until > begun, "it is not renewed")
            expect(not presence.lost.is_set(), "it counts as lost, and is renewed")
            expect(await tested.revision(other, "me") == presence.revision, "a renewal changes its revision")
        expect(await tested.values(other) == {"a": b"1"}, "it is there after the end")
        with conflict("who has gone passes for present"):
            await other.commit(Commit(puts={tested.key("a"): b"2"}, expected=expected))
        await follower.follow(other, await tested.put(one, b=b"1"))
        expect(tested.key("me") not in follower.values, "the other is not told of the end")


async def who_is_deleted_or_replaced_is_told_and_leaves_the_other_alone(tested: Tested) -> None:
    me, left = tested.key("me"), trio.Event()

    async def be_replaced(store: Store, *, task_status: trio.TaskStatus[None]) -> None:
        async with store.present(me, b"first", _TTL_S) as first:
            task_status.started()
            await first.lost.wait()
        left.set()

    async with tested.open_store() as one, tested.open_store() as other, trio.open_nursery() as nursery:
        await nursery.start(be_replaced, one)
        async with other.present(me, b"second", _TTL_S) as second:
            await left.wait()
            expect(not second.lost.is_set(), "who has replaced another counts as lost")
            expect(await tested.values(one) == {"me": b"second"}, "the end of the first ends the second")
            await one.commit(Commit(deletes=[me]))
            await second.lost.wait()
            await tested.put(one, me=b"third")
        expect(await tested.values(one) == {"me": b"third"}, "the end of one that is lost deletes another's")


async def who_is_held_up_for_too_long_is_not_present_any_more(tested: Tested) -> None:
    async with tested.open_store() as store, store.present(tested.key("me"), b"here", _TTL_S) as presence:
        time.sleep(2 * _TTL_S)  # noqa: ASYNC251 - nothing is renewed meanwhile
        if trio.current_time() < presence.valid_until:
            return  # by a clock that does not go by itself
        await presence.lost.wait()
        expect(await tested.values(store) == {}, "who counts as lost has an entry")
        with conflict("who is lost passes for present"):
            expected = {tested.key("me"): presence.revision}
            await store.commit(Commit(puts={tested.key("a"): b"1"}, expected=expected))


async def who_is_cancelled_while_present_is_gone(tested: Tested) -> None:
    async with tested.open_store() as one, tested.open_store() as other:

        async def be_present() -> None:
            async with one.present(tested.key("me"), b"here", _TTL_S):
                await trio.lowlevel.checkpoint()

        async def is_gone() -> None:
            with trio.fail_after(_TTL_S * 5):  # at once, or when it lapses
                while await tested.values(other):  # noqa: ASYNC110 - the store is asked
                    await trio.sleep(_TTL_S / 20)

        await at_each_step(be_present, is_gone)
