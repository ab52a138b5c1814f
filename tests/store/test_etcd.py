"""A store in etcd, against a real member."""

from __future__ import annotations

import pytest
import trio

from cpg_trio.store import Commit, ConflictError, EtcdStore, EtcdUrl
from cpg_trio.store._store import Changed


async def test_a_commit_is_done_once_and_only_if_all_is_as_expected(etcd_url: str) -> None:
    async with EtcdStore(EtcdUrl.parse(etcd_url)) as store:
        first = await store.commit(Commit(puts={"a": b"1", "b": b"2"}, expected={"a": 0}))
        with pytest.raises(ConflictError, match="a has changed"):
            await store.commit(Commit(puts={"a": b"3", "c": b"3"}, expected={"a": 0}))
        assert await store.commit(Commit(deletes=["a", "none"], expected={"a": first})) > first
        assert [(entry.key, entry.value) for entry in (await store.load()).entries] == [("b", b"2")]


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


async def test_an_entry_is_there_for_as_long_as_its_host_is(etcd_url: str) -> None:
    async with EtcdStore(EtcdUrl.parse(etcd_url)) as store:
        async with store.present("hosts/1", b"me", 2) as presence:
            assert trio.current_time() < presence.valid_until <= trio.current_time() + 2
            await store.commit(Commit(puts={"a": b"1"}, expected={"hosts/1": presence.revision}))
        with pytest.raises(ConflictError):
            await store.commit(Commit(puts={"a": b"2"}, expected={"hosts/1": presence.revision}))
