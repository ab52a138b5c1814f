"""A store in etcd whose cluster is replaced, restored, full, or away at the end; each test has its own."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trustme

from cpg_trio.http import StartError
from cpg_trio.store import Commit, EtcdStore, EtcdUrl, ReplacedError, StoreError
from tests.certificates import Files
from tests.chaos_cluster.etcd_cluster import USER, etcd_members
from tests.store.test_etcd import check_replaced, values_of


async def test_a_presence_ends_with_its_block_though_the_store_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cpg_trio.store.etcd._lease._REVOKE_S", 0.2)
    with etcd_members() as cluster:
        async with EtcdStore(EtcdUrl.parse(cluster.url())) as store:
            begun = trio.current_time()
            async with store.present("hosts/1", b"me", 1):
                cluster.stop(0)
            assert trio.current_time() - begun < 1
            cluster.cont(0)
            with trio.fail_after(5):
                while await values_of(store):  # noqa: ASYNC110 - it lapses
                    await trio.sleep(0.1)


async def test_another_cluster_is_not_written_to() -> None:
    with etcd_members() as cluster:
        async with EtcdStore(EtcdUrl.parse(cluster.url())) as store:
            await store.commit(Commit(puts={"a": b"1"}))
            async with store.present("hosts/1", b"me", 1) as presence:
                cluster.kill(0)
                cluster.forget()
                cluster.token = "another"
                cluster.start(0)
                await trio.to_thread.run_sync(cluster.wait_ready)
                with trio.fail_after(5):
                    await presence.lost.wait()
            await check_replaced(store, "another cluster answers")
            assert not cluster.etcdctl("get", "--prefix", "/")


async def test_a_store_that_was_restored_is_another_one_or_has_gone_back(tmp_path: Path) -> None:
    with etcd_members() as cluster:
        url = EtcdUrl.parse(cluster.url())
        async with EtcdStore(url) as store, EtcdStore(url) as other:
            first = await store.load()
            await store.commit(Commit(puts={"a": b"1"}))
            cluster.snapshot(tmp_path / "backup")
            await store.commit(Commit(puts={"a": b"2"}))
            cluster.kill(0)
            cluster.restore(tmp_path / "backup", token=cluster.token)  # as nobody should do it
            cluster.start(0)
            await trio.to_thread.run_sync(cluster.wait_ready)
            await check_replaced(store, "its revision went back from")
            async with other.changes(first.revision + 2) as changes:  # which it has not seen itself
                with pytest.raises(ReplacedError), trio.fail_after(5):
                    await anext(changes)
        cluster.kill(0)
        cluster.restore(tmp_path / "backup", token="restored")
        cluster.start(0)
        await trio.to_thread.run_sync(cluster.wait_ready)
        async with EtcdStore(url) as store:
            restored = await store.load()
            assert [entry.value for entry in restored.entries] == [b"1"]
            assert restored.id != first.id


async def test_a_database_that_is_full_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with etcd_members() as cluster:
        async with EtcdStore(EtcdUrl.parse(cluster.url())) as store:
            await store.load()
            cluster.terminate(0)
            cluster.start(0, "--quota-backend-bytes=40000")
            await trio.to_thread.run_sync(cluster.wait_ready)
            with pytest.raises(StoreError, match="etcd's database is full: compact and defragment it"):
                for i in range(20):
                    await store.commit(Commit(puts={f"k/{i}": bytes(100_000)}))
            await store.load()


async def test_etcd_asks_for_users_and_none_is_named() -> None:
    with etcd_members() as cluster:
        cluster.add_user()
        store = EtcdStore(EtcdUrl.parse(cluster.url().replace(f"{USER}@", "")))
        with pytest.raises(StartError, match="etcd asks for a user: name one in the URL"):
            await store.__aenter__()


async def test_to_follow_begins_once_a_member_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it begins is a sign that the store is reached."""
    monkeypatch.setattr("cpg_trio.store.etcd._gateway.ATTEMPT_S", 0.3)
    with etcd_members() as cluster:
        async with EtcdStore(EtcdUrl.parse(cluster.url())) as store:
            for away in (cluster.stop, cluster.kill):
                away(0)
                with pytest.raises(StoreError), trio.fail_after(5):
                    async with store.changes(2):
                        raise AssertionError


async def test_a_certificate_is_read_again_when_its_files_change(tmp_path: Path) -> None:
    with etcd_members(tls=True) as cluster:
        assert cluster.tls
        own = Files.write(tmp_path, trustme.CA(), "client.example")
        url = f"{cluster.url().partition('?')[0]}?ca={cluster.tls.ca}&cert={own.cert}&key={own.key}"
        store = EtcdStore(EtcdUrl.parse(url))
        with pytest.raises(StartError, match="it may ask for another certificate"):
            await store.__aenter__()
        own.key.write_bytes(cluster.tls.key.read_bytes())
        own.cert.write_bytes(cluster.tls.cert.read_bytes())
        with trio.fail_after(10):
            while True:  # files are looked at once in a while
                with suppress(StartError):
                    async with store:
                        await store.load()
                        return
                await trio.sleep(0.1)
