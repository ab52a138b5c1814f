"""A store in etcd, against real members."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from cpg_trio.store import (
    MAX_COMMIT_BYTES,
    MAX_OPERATIONS,
    MAX_VALUE_BYTES,
    Changed,
    Commit,
    CompactedError,
    ConflictError,
    EtcdStore,
    EtcdUrl,
    ReplacedError,
    StoreError,
)
from tests.chaos.proxy import proxying
from tests.chaos_cluster.etcd_cluster import EtcdCluster
from tests.plugin.running import unused_port
from tests.store.answering import answering
from tests.store.delaying import delaying


@pytest.fixture
async def store(etcd_url: str) -> AsyncIterator[EtcdStore]:
    async with EtcdStore(EtcdUrl.parse(etcd_url)) as opened:
        yield opened


async def values_of(store: EtcdStore) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.load()).entries}


def use(store: EtcdStore, port: int) -> None:
    """Have a store use one of its endpoints; which of them it begins with is random."""
    gateway = store._space.gateway
    (endpoint,) = [each for each in gateway._endpoints if each.port == port]
    while gateway.endpoint != endpoint:
        gateway.leave(gateway.endpoint, "another is to be used")


# Commits


async def test_a_commit_is_done_once_and_only_if_all_is_as_expected(store: EtcdStore) -> None:
    first = await store.commit(Commit(puts={"a": b"1", "b": b"2"}, expected={"a": 0}))
    with pytest.raises(ConflictError, match="a has changed"):
        await store.commit(Commit(puts={"a": b"3", "c": b"3"}, expected={"a": 0}))
    assert await store.commit(Commit(deletes=["a", "none"], expected={"a": first, "c": 0})) > first
    assert await values_of(store) == {"b": b"2"}


async def test_a_key_that_is_put_and_deleted_is_put(store: EtcdStore) -> None:
    await store.commit(Commit(puts={"a": b"1"}, deletes=["a"]))
    assert await values_of(store) == {"a": b"1"}


async def test_the_key_of_the_store_is_its_own(store: EtcdStore) -> None:
    for commit in (Commit(puts={"store": b""}), Commit(deletes=["store/fences/1"])):
        with pytest.raises(ValueError, match="the key 'store', and what is below it, is the store's own"):
            await store.commit(commit)


async def test_entries_below_a_prefix_have_one_value(store: EtcdStore) -> None:
    both = {"s/a/": b"x", "s/b/": b"y"}
    await store.commit(Commit(puts={"s/a/1": b"x", "s/b/1": b"y"}, uniform=both))  # both are empty
    await store.commit(Commit(puts={"s/a/2": b"x"}, uniform=both))  # none is
    await store.commit(Commit(deletes=["s/b/1"], uniform=both))
    await store.commit(Commit(puts={"s/b/2": b"z"}, uniform={**both, "s/b/": b"z"}))  # one is
    with pytest.raises(ConflictError, match="not all entries of s/a/ have the expected value"):
        await store.commit(Commit(puts={"s/a/3": b"z"}, uniform={"s/a/": b"z"}))
    with pytest.raises(ConflictError, match="other has changed"):
        await store.commit(Commit(puts={"s/c/1": b"z"}, uniform={"s/c/": b"z"}, expected={"other": 1}))
    assert await values_of(store) == {"s/a/1": b"x", "s/a/2": b"x", "s/b/2": b"z"}


async def test_a_prefix_never_has_two_values_however_many_race_for_it(etcd_url: str) -> None:
    """It is empty again and again, which is what changes the comparison that is to be made."""
    won = dict.fromkeys("xyz", 0)

    async def race(name: str) -> None:
        async with EtcdStore(EtcdUrl.parse(etcd_url)) as mine:
            for _ in range(30):
                try:
                    await mine.commit(
                        Commit(puts={f"s/{name}": name.encode()}, uniform={"s/": name.encode()})
                    )
                except ConflictError:
                    continue
                assert await values_of(mine) == {f"s/{name}": name.encode()}
                won[name] += 1
                await mine.commit(Commit(deletes=[f"s/{name}"]))

    async def observe(store: EtcdStore) -> None:
        while True:
            assert len(await values_of(store)) <= 1

    async with EtcdStore(EtcdUrl.parse(etcd_url)) as store, trio.open_nursery() as observing:
        observing.start_soon(observe, store)
        async with trio.open_nursery() as racing:
            for name in won:
                racing.start_soon(race, name)
        observing.cancel_scope.cancel()
    assert all(won.values())


async def test_the_largest_commit_is_done_and_a_larger_one_refused(store: EtcdStore) -> None:
    keys = [f"k/{i}" for i in range(MAX_OPERATIONS)]
    first = await store.commit(Commit(puts=dict.fromkeys(keys, b"1"), expected=dict.fromkeys(keys, 0)))
    await store.commit(Commit(deletes=keys, expected=dict.fromkeys(keys, first)))
    with pytest.raises(ConflictError):
        await store.commit(Commit(deletes=keys, expected=dict.fromkeys(keys, first)))
    key, other = "largest", "other"
    rest = MAX_COMMIT_BYTES - MAX_VALUE_BYTES - len(key + other)
    await store.commit(Commit(puts={key: bytes(MAX_VALUE_BYTES), other: bytes(rest)}))
    too_much = (
        {"deletes": [*keys, "one more"]},
        {"puts": {"x": b""}, "deletes": keys},
        {"expected": dict.fromkeys(keys, 0), "uniform": {"x": b""}},
        {"puts": {key: bytes(MAX_VALUE_BYTES + 1)}},
        {"puts": {key: bytes(MAX_VALUE_BYTES), other: bytes(rest + 1)}},
        {"puts": {"": b""}},
    )
    for fields in too_much:
        with pytest.raises(ValueError, match=r"at most|not empty"):
            Commit(**fields)


async def test_a_conflict_is_told_however_large_what_is_expected_is(store: EtcdStore) -> None:
    keys = [f"k{number}" for number in range(8)]
    expected = {key: await store.commit(Commit(puts={key: b"x" * MAX_VALUE_BYTES})) for key in keys}
    with pytest.raises(ConflictError, match="k7 has changed"):
        await store.commit(Commit(deletes=keys, expected={**expected, "k7": 1}))
    await store.commit(Commit(deletes=keys, expected=expected))
    assert await values_of(store) == {}


async def test_a_commit_whose_answer_is_lost_may_have_been_done_and_is_not_repeated(
    etcd: EtcdCluster, etcd_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is another endpoint, by which it could be."""
    monkeypatch.setattr("cpg_trio.store.etcd._gateway.ATTEMPT_S", 0.3)
    async with proxying() as proxy:
        proxy.port = etcd.members[0].client_port
        url = EtcdUrl.parse(etcd_url.replace("etcd://", f"etcd://{proxy.url.partition('//')[2]},"))
        async with EtcdStore(url) as store:
            use(store, int(proxy.url.rpartition(":")[2]))
            revision = await store.revision()
            proxy.mute = True
            with pytest.raises(StoreError, match=r"no answer within 0.3 s; it may have been done"):
                await store.commit(Commit(puts={"a": b"1"}))
            assert await store.revision() == revision + 1  # it was done; another endpoint answers
            with pytest.raises(ConflictError):
                await store.commit(Commit(puts={"a": b"1"}, expected={"a": 0}))


@pytest.mark.parametrize("how", ["lost", "cancelled"])
async def test_a_commit_in_doubt_is_not_done_after_somebody_has_looked(
    etcd: EtcdCluster, etcd_url: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The commit is still on its way when what is there is read; what is committed then is done."""
    monkeypatch.setattr("cpg_trio.store.etcd._gateway.ATTEMPT_S", 0.3)
    async with delaying(etcd.members[0].client_port) as slow:
        url = EtcdUrl.parse(etcd_url.replace("etcd://", f"etcd://127.0.0.1:{slow.port},"))
        async with EtcdStore(url) as store:
            use(store, slow.port)
            slow.delaying = True
            if how == "lost":
                with pytest.raises(StoreError, match=r"it may have been done"):
                    await store.commit(Commit(puts={"late": b""}))
            else:
                with trio.move_on_after(0.1):
                    await store.commit(Commit(puts={"late": b""}))
            use(store, etcd.members[0].client_port)
            assert not await values_of(store)
            assert slow.kept
            await slow.deliver()
            await store.commit(Commit(puts={"next": b""}))
            assert await values_of(store) == {"next": b""}


async def test_a_commit_that_changes_nothing_asks_what_is_true(store: EtcdStore) -> None:
    revision = await store.commit(Commit(puts={"a": b"1"}))
    assert await store.commit(Commit(expected={"a": revision}, uniform={"a": b"1", "b": b""})) == revision
    assert await store.revision() == revision
    with pytest.raises(ConflictError):
        await store.commit(Commit(expected={"a": revision + 1}))


# All that there is


async def test_a_part_can_be_read(store: EtcdStore) -> None:
    await store.commit(Commit(puts={"a/1": b"", "a/2": b"", "ab": b"", "b": b""}))
    assert [entry.key for entry in (await store.load("a/")).entries] == ["a/1", "a/2"]
    assert [entry.key for entry in (await store.load("none/")).entries] == []


async def test_a_snapshot_is_of_one_revision_though_it_is_read_in_pages(
    store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpg_trio.store.etcd._store._PAGE", 7)
    keys = [f"k/{i:03}" for i in range(100)]
    await store.commit(Commit(puts=dict.fromkeys(keys, b"0")))

    async def change() -> None:
        for number in range(1, 1000):
            await store.commit(Commit(puts=dict.fromkeys(keys, b"%d" % number)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        for _ in range(10):
            snapshot = await store.load()
            assert [entry.key for entry in snapshot.entries] == keys
            assert {entry.revision for entry in snapshot.entries} == {snapshot.revision}
        nursery.cancel_scope.cancel()


async def test_pages_of_large_entries_are_small(store: EtcdStore) -> None:
    for i in range(5):
        await store.commit(Commit(puts={f"k/{i}": bytes([i]) * MAX_VALUE_BYTES}))
    assert await values_of(store) == {f"k/{i}": bytes([i]) * MAX_VALUE_BYTES for i in range(5)}


async def test_a_snapshot_begins_again_when_it_is_compacted_away(
    etcd: EtcdCluster, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit(Commit(puts=dict.fromkeys("abc", b"1")))
    ask, asked = store._space.ask, list[str]()

    async def compacting(path: str, body: dict[str, object], **options: bool) -> object:
        asked.append(path)
        if asked == ["/v3/kv/range"] * 2:
            revision = await store.commit(Commit(puts={"b": b"2"}))
            await trio.to_thread.run_sync(etcd.etcdctl, "compaction", str(revision))
        return await ask(path, body, **options)

    monkeypatch.setattr("cpg_trio.store.etcd._store._PAGE", 2)
    monkeypatch.setattr(store._space, "ask", compacting)
    assert await values_of(store) == {"a": b"1", "b": b"2", "c": b"1"}
    assert asked == [*["/v3/kv/range"] * 2, "/v3/kv/txn", *["/v3/kv/range"] * 2]


# Changes


async def test_followers_of_two_stores_see_what_each_changes(etcd_url: str) -> None:
    async with EtcdStore(EtcdUrl.parse(etcd_url)) as one, EtcdStore(EtcdUrl.parse(etcd_url)) as other:
        begin = (await one.load()).revision
        async with other.changes(begin) as changes:
            revision = await one.commit(Commit(puts={"a": b"1"}))
            change = await anext(changes)
            assert change.revision == revision == await other.revision()
            assert [entry and entry.value for entry in change.values.values()] == [b"1"]
            await other.commit(Commit(deletes=["a"]))
            assert await anext(changes) == Changed(revision + 1, {"a": None})


async def test_all_of_a_commit_is_told_together_however_large(store: EtcdStore) -> None:
    """A watch that begins in the past is told many commits at once, in messages that etcd has cut."""
    begin = (await store.load()).revision
    revisions = {
        await store.commit(Commit(puts={f"{name}/{i}": bytes(400_000) for name in "abc"})) for i in range(6)
    }
    told = dict[str, int]()
    async with store.changes(begin) as changes:
        while len(told) < 18:
            change = await anext(changes)
            new = {key: entry.revision for key, entry in change.values.items() if entry}
            assert all(list(new.values()).count(revision) == 3 for revision in new.values())
            assert not told.keys() & new.keys()
            told.update(new)
    assert set(told.values()) == revisions


async def test_changes_that_are_not_there_any_more_are_an_error(etcd: EtcdCluster, store: EtcdStore) -> None:
    begin = (await store.load()).revision
    for _ in range(3):
        revision = await store.commit(Commit(puts={"a": b"1"}))
    await trio.to_thread.run_sync(etcd.etcdctl, "compaction", str(revision))
    async with store.changes(begin) as changes:
        with pytest.raises(CompactedError, match="is not there any more"):
            await anext(changes)
    async with store.changes(revision - 1) as changes:
        assert set((await anext(changes)).values) == {"a"}


async def test_a_silent_store_tells_its_revision_and_that_of_others_in_the_same_cluster(
    etcd: EtcdCluster, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpg_trio.store.etcd._watch._SILENCE_S", 0.1)
    begin = (await store.load()).revision
    async with store.changes(begin) as changes:
        assert await anext(changes) == Changed(begin, {})
        etcd.etcdctl("put", "/somewhere/else", "1")
        with trio.fail_after(5):
            while not (change := await anext(changes)).revision > begin + 1:
                assert not change.values
        assert await store.revision() == change.revision
        assert (await anext(changes)).revision == change.revision  # it is told once


async def test_a_watch_that_is_dead_without_a_word_is_begun_again(
    etcd: EtcdCluster, etcd_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpg_trio.store.etcd._watch._SILENCE_S", 0.2)
    monkeypatch.setattr("cpg_trio.store.etcd._watch._ANSWER_S", 0.2)
    async with proxying() as proxy, EtcdStore(EtcdUrl.parse(etcd_url)) as direct:
        proxy.port = etcd.members[0].client_port
        url = EtcdUrl.parse(f"etcd://{proxy.url.partition('//')[2]}{direct._url.prefix}")
        async with EtcdStore(url) as store:
            begin = (await store.load()).revision
            async with store.changes(begin) as changes:
                await direct.commit(Commit(puts={"a": b"1"}))
                assert set((await anext(changes)).values) == {"a"}
                proxy.go_dead()  # the connections of now, of which the watch is one
                await direct.commit(Commit(puts={"b": b"1"}))
                with trio.fail_after(10):
                    while not (values := (await anext(changes)).values):
                        pass
                assert set(values) == {"b"}


# Being there


async def test_an_entry_is_there_for_as_long_as_its_host_is(store: EtcdStore) -> None:
    async with store.present("hosts/1", b"me", 2) as presence:
        assert trio.current_time() < presence.valid_until <= trio.current_time() + 2
        begin = presence.valid_until
        await store.commit(Commit(puts={"a": b"1"}, expected={"hosts/1": presence.revision}))
        with trio.fail_after(2):
            while presence.valid_until == begin:  # noqa: ASYNC110 - nothing tells it
                await trio.sleep(0.02)
    with pytest.raises(ConflictError):
        await store.commit(Commit(puts={"a": b"2"}, expected={"hosts/1": presence.revision}))


@pytest.mark.parametrize("how", ["revoked", "deleted", "replaced"])
async def test_a_host_is_told_that_its_entry_is_gone(etcd: EtcdCluster, store: EtcdStore, how: str) -> None:
    async with store.present("hosts/1", b"me", 1) as presence:
        if how == "revoked":
            etcd.etcdctl("lease", "revoke", f"{int(presence.id):x}")
        elif how == "deleted":
            await store.commit(Commit(deletes=["hosts/1"]))
        else:
            await store.commit(Commit(puts={"hosts/1": b"another"}))
        with trio.fail_after(5):
            await presence.lost.wait()
    assert await values_of(store) == ({"hosts/1": b"another"} if how == "replaced" else {})


# Another store


async def check_replaced(store: EtcdStore, reason: str) -> None:
    """Check that everything ends with the error."""
    with pytest.raises(ReplacedError, match=reason):
        await store.load()
    for call in (store.revision, lambda: store.commit(Commit(puts={"a": b"1"}))):
        with pytest.raises(ReplacedError, match=reason):
            await call()


async def test_a_store_that_was_deleted_is_not_written_to(etcd: EtcdCluster, store: EtcdStore) -> None:
    begin = (await store.load()).revision
    prefix = store._url.prefix
    async with store.changes(begin) as changes:
        etcd.etcdctl("del", "--prefix", prefix)
        with pytest.raises(ReplacedError, match="store is gone"):
            await anext(changes)
    await check_replaced(store, "store is gone")
    assert not etcd.etcdctl("get", "--prefix", prefix)
    async with EtcdStore(store._url) as again:
        first = (await again.load()).id
    assert first != store._space.id


# Members that fail


async def test_another_member_that_is_used_is_in_the_log(
    etcd: EtcdCluster, etcd_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxying() as proxy:
        proxy.port = etcd.members[0].client_port
        way = proxy.url.partition("//")[2]
        async with EtcdStore(EtcdUrl.parse(etcd_url.replace("etcd://", f"etcd://{way},"))) as store:
            use(store, int(way.rpartition(":")[2]))
            await store.load()
            caplog.clear()
            proxy.port = unused_port()
            proxy.go_dead()
            for _ in range(3):
                await store.load()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "cpg_trio.store"]
    assert line.startswith(
        f"etcd at http://127.0.0.1:{etcd.members[0].client_port} is used instead of {proxy.url}: "
    )


async def test_whatever_is_cancelled_leaves_no_connection_behind(store: EtcdStore) -> None:
    """Each call is cancelled at many moments: while it connects, sends, waits, reads, or has just ended."""

    async def follow() -> None:
        async with store.changes(begin) as changes:
            await anext(changes)

    async def be_there() -> None:
        async with store.present("hosts/1", b"", 2):
            await trio.sleep(0.001)

    await store.commit(Commit(puts=dict.fromkeys("abc", b"1")))
    begin = (await store.load()).revision - 1
    pool = store._space.gateway._pool
    for call in (
        store.load,
        store.revision,
        lambda: store.commit(Commit(puts={"a": b"2"})),
        follow,
        be_there,
    ):
        for moment in range(20):
            if moment % 4 == 0:
                pool._close_idle(not_used_since=math.inf)
            with trio.move_on_after(moment * 0.0002):
                await call()
            assert pool.statistics().active == 0
    assert set(await values_of(store)) <= {"a", "b", "c"}


@pytest.mark.parametrize("refusal", ["etcdserver: no leader", "etcdserver: too many requests"])
async def test_a_commit_that_a_member_refuses_for_now_is_made_by_another(
    etcd: EtcdCluster, etcd_url: str, refusal: str
) -> None:
    """No member of one that runs says so when asked to."""
    body = json.dumps({"error": refusal, "message": refusal, "code": 14}).encode()
    async with answering(lambda _: body) as port, EtcdStore(EtcdUrl.parse(etcd_url)) as direct:
        both = EtcdUrl.parse(etcd_url.replace("etcd://", f"etcd://127.0.0.1:{port},"))
        async with EtcdStore(both) as store:
            for number in (b"1", b"2"):
                use(store, port)
                await store.commit(Commit(puts={"a": number}))
                assert await values_of(direct) == {"a": number}


async def test_a_late_answer_of_a_member_that_was_left_is_taken(etcd: EtcdCluster, etcd_url: str) -> None:
    async with delaying(etcd.members[0].client_port) as slow:
        url = EtcdUrl.parse(etcd_url.replace("etcd://", f"etcd://127.0.0.1:{slow.port},"))
        async with EtcdStore(url) as store, trio.open_nursery() as nursery:
            use(store, slow.port)
            slow.delaying = True
            nursery.start_soon(store.load)
            await trio.testing.wait_all_tasks_blocked()
            use(store, etcd.members[0].client_port)
            await store.load()
            await slow.deliver()
