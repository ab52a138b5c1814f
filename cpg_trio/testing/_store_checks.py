"""What every store has to do. Each function is a check; its name says what holds."""

from __future__ import annotations

from contextlib import suppress

import trio

from cpg_trio.http import StartError
from cpg_trio.store import MAX_OPERATIONS, MAX_VALUE_BYTES, Commit, ConflictError, Store
from cpg_trio.testing._checks import at_each_step, expect
from cpg_trio.testing._store_check import Tested, conflict

_WRITERS, _TURNS = 8, 5


async def what_is_put_is_loaded_as_it_is(tested: Tested) -> None:
    values = {
        "empty": b"",
        "bytes": bytes(range(256)),
        "ä/ö 🎈/%_*?": "ü".encode(),
        "a\U0010ffff": b"last",
        "deep/er/and/deeper": b"1",
    }
    async with tested.open_store() as store:
        await tested.put(store, **values)
        expect(await tested.values(store) == values, "what was loaded is something else")
        keys = [entry.key for entry in (await store.load(tested.prefix)).entries]
        expect(keys == sorted(keys), f"the entries are not in the order of their keys: {keys}")


async def a_prefix_finds_all_that_begin_so_and_nothing_else(tested: Tested) -> None:
    names = ["a", "a/", "a/1", "a/\U0010ffff", "a/2/3", "A/1", "b", "a%", "a_1", "aä"]
    async with tested.open_store() as store:
        await tested.put(store, **dict.fromkeys(names, b"1"))
        for prefix in ["a", "a/", "a/2", "A", "a/\U0010ffff", "a%", "a_", "aä", "none", ""]:
            found = list(await tested.values(store, prefix))
            expected = sorted(name for name in names if name.startswith(prefix))
            expect(found == expected, f"{prefix!r} finds {found} instead of {expected}")
        everything = {entry.key for entry in (await store.load()).entries}
        expect({tested.key(name) for name in names} <= everything, "not all is loaded without a prefix")


async def each_commit_has_a_later_revision_which_its_entries_have(tested: Tested) -> None:
    async with tested.open_store() as store:
        first = await tested.put(store, a=b"1", b=b"1")
        second = await tested.put(store, b=b"2")
        expect(second > first > 0, f"{second} is not later than {first}, or that is not above 0")
        revisions = [await tested.revision(store, name) for name in "ab"]
        expect(revisions == [first, second], f"the entries have {revisions} of {[first, second]}")
        expect((await store.load()).revision >= second, "what was loaded is older than the last commit")
        expect(await store.revision() >= second, "the revision is older than the last commit")


async def a_revision_that_is_expected_is_that_of_the_entry_or_0_for_none(tested: Tested) -> None:
    async with tested.open_store() as store:
        key = tested.key("a")
        first = await store.commit(Commit(puts={key: b"1"}, expected={key: 0}))
        with conflict("an entry that is there passes for none"):
            await store.commit(Commit(puts={key: b"2"}, expected={key: 0}))
        second = await store.commit(Commit(puts={key: b"2"}, expected={key: first}))
        with conflict("an entry that has changed passes for what it was"):
            await store.commit(Commit(puts={key: b"3"}, expected={key: first}))
        third = await store.commit(Commit(deletes=[key], expected={key: second}))
        with conflict("an entry that is gone passes for one that is there"):
            await store.commit(Commit(puts={key: b"3"}, expected={key: second}))
        fourth = await store.commit(Commit(puts={key: b"2"}, expected={key: 0}))
        expect(fourth > third > second, "a deletion, or what comes after it, has no later revision")
        with conflict("an entry that was deleted and put again passes for the first one"):
            await store.commit(Commit(puts={key: b"3"}, expected={key: second}))
        expect(await tested.values(store) == {"a": b"2"}, "a commit in conflict has changed something")


async def all_entries_with_a_prefix_have_the_value_that_is_expected_of_them(tested: Tested) -> None:
    async with tested.open_store() as store:
        under = tested.key("t/")
        one = {under: b"one"}
        await store.commit(Commit(puts={tested.key("t"): b"x", tested.key("tt/1"): b"x"}))
        await store.commit(Commit(puts={under + "1": b"one"}, uniform=one))
        await store.commit(Commit(puts={under + "2": b"one"}, uniform=one))
        with conflict("entries that have another value pass"):
            await store.commit(Commit(puts={under + "3": b"two"}, uniform={under: b"two"}))
        with conflict("entries pass whose value begins as the one that is expected"):
            await store.commit(Commit(puts={under + "3": b"on"}, uniform={under: b"on"}))
        await store.commit(Commit(puts={under + "3": b"two"}, uniform=one))  # as it was before
        for value in (b"one", b"two"):
            with conflict("entries pass of which one has another value"):
                await store.commit(Commit(puts={under + "4": value}, uniform={under: value}))
        await store.commit(Commit(deletes=[under + "1", under + "2"]))
        await store.commit(Commit(puts={under + "4": b"two"}, uniform={under: b"two"}))
        await store.commit(Commit(deletes=[under + "3", under + "4"]))
        await store.commit(Commit(puts={under + "5": b"three"}, uniform={under: b"three"}))
        expect(await tested.values(store, "t/") == {"t/5": b"three"}, "something else is there in the end")


async def all_of_a_commit_is_done_or_nothing(tested: Tested) -> None:
    async with tested.open_store() as store:
        revision = await tested.put(store, a=b"1", b=b"1", c=b"1")
        before = await store.load(tested.prefix)
        for conditions in (
            {"expected": {tested.key("a"): revision, tested.key("b"): revision + 1}},
            {"expected": {tested.key("a"): revision}, "uniform": {tested.prefix: b"2"}},
        ):
            puts, deletes = {tested.key("a"): b"2", tested.key("d"): b"2"}, [tested.key("c")]
            with conflict("one condition of two is not true, and the commit is done"):
                await store.commit(Commit(puts=puts, deletes=deletes, **conditions))
            after = await store.load(tested.prefix)
            expect(list(after.entries) == list(before.entries), "a commit in conflict has changed something")
        expected = {tested.key(name): revision for name in "abc"}
        done = await store.commit(Commit(puts=puts, deletes=deletes, expected=expected))
        expect(await tested.values(store) == {"a": b"2", "b": b"1", "d": b"2"}, "a commit is done in part")
        expect(await tested.revision(store, "d") == done, "an entry has not the revision of its commit")


async def what_is_not_there_can_be_deleted_and_what_is_put_as_well_is_there(tested: Tested) -> None:
    async with tested.open_store() as store:
        await store.commit(Commit(deletes=[tested.key("none")]))
        both = tested.key("both")
        revision = await store.commit(Commit(puts={both: b"1"}, deletes=[both]))
        expect(await tested.revision(store, "both") == revision, "what is put and deleted is not there")


async def a_commit_without_changes_tells_whether_its_conditions_hold(tested: Tested) -> None:
    async with tested.open_store() as store:
        revision = await tested.put(store, a=b"1")
        key = tested.key("a")
        await store.commit(Commit(expected={key: revision}, uniform={tested.prefix: b"1"}))
        expect(await tested.revision(store, "a") == revision, "it has changed an entry")
        with conflict("a condition that is not true passes"):
            await store.commit(Commit(expected={key: revision - 1}))
        with conflict("a condition that is not true passes"):
            await store.commit(Commit(uniform={tested.prefix: b"2"}))


async def a_commit_is_as_large_as_it_may_be(tested: Tested) -> None:
    async with tested.open_store() as store:
        large = {"large": bytes(range(256)) * (MAX_VALUE_BYTES // 256)}
        await tested.put(store, **large)
        expect(await tested.values(store) == large, "a large value is another one")
        keys = [tested.key(f"many/{number:04}") for number in range(MAX_OPERATIONS)]
        expected = dict.fromkeys(keys, 0)
        revision = await store.commit(Commit(puts=dict.fromkeys(keys, b"1"), expected=expected))
        await store.commit(Commit(deletes=keys, expected=dict.fromkeys(keys, revision)))
        expect(await tested.values(store, "many/") == {}, "not all of many entries are gone")


async def what_was_committed_is_there_when_the_store_is_opened_again(tested: Tested) -> None:
    async with tested.open_store() as store:
        first, revision = (await store.load()).id, await tested.put(store, a=b"1", b=b"1")
        gone = await store.commit(Commit(deletes=[tested.key("b")]))
    async with tested.open_store() as store:
        again = await store.load()
        expect(again.id == first, f"the store was {first}, and is {again.id} now")
        expect(again.revision >= gone, "the revision has gone back")
        expect(await tested.values(store) == {"a": b"1"}, "something else is there")
        expect(await tested.revision(store, "a") == revision, "an entry has another revision")
        expect(await tested.put(store, b=b"2") > gone, "a new commit has no later revision")


async def of_those_that_expect_the_same_at_once_one_succeeds(tested: Tested) -> None:
    done: list[int] = []
    key = tested.key("n")

    async def count(store: Store) -> None:
        for _ in range(_TURNS):
            found = (await store.load(key)).entries
            value, revision = (int(found[0].value), found[0].revision) if found else (0, 0)
            with suppress(ConflictError):
                await store.commit(Commit(puts={key: b"%d" % (value + 1)}, expected={key: revision}))
                done.append(value + 1)

    async with tested.open_store() as store, trio.open_nursery() as nursery:
        for _ in range(_WRITERS):
            nursery.start_soon(count, store)
    expect(sorted(done) == list(range(1, len(done) + 1)), f"commits that expect the same are done: {done}")
    async with tested.open_store() as store:
        expect(await tested.values(store) == {"n": b"%d" % len(done)}, "commits are lost, or done twice")


async def who_is_cancelled_at_any_step_leaves_a_store_that_goes_on(tested: Tested) -> None:
    async with tested.open_store() as store:
        key, turns = tested.key("a"), iter(range(10**6))

        async def commit() -> None:
            await store.commit(Commit(puts={key: b"cancelled", tested.key("b"): b"cancelled"}))

        async def goes_on() -> None:
            values = await tested.values(store)
            expect(values.get("a") == values.get("b"), f"what was cancelled is done in part: {values}")
            value = b"%d" % next(turns)
            await tested.put(store, a=value, b=value)
            expect(await tested.values(store) == {"a": value, "b": value}, "what was put next is not there")

        await at_each_step(commit, goes_on)
        await at_each_step(lambda: store.load(tested.prefix), goes_on)
        await at_each_step(store.revision, goes_on)


async def what_hosts_do_not_share_opens_once_at_a_time(tested: Tested) -> None:
    async with tested.open_store() as store:
        if store.shared:
            return
        await tested.put(store, a=b"1")
        try:
            async with tested.open_store():
                expect(condition=False, why="it is open twice")
        except StartError:
            pass
        expect(await tested.values(store) == {"a": b"1"}, "whoever was refused has changed something")


async def a_check_changes_nothing(tested: Tested) -> None:
    async with tested.open_store() as store:
        before = await store.load()
    await tested.open_store().check()
    async with tested.open_store() as store:
        after = await store.load()
        expect(
            (after.id, list(after.entries)) == (before.id, list(before.entries)), "it has changed something"
        )
