"""The entry of a directory that says which one it is: who is let in, who is refused, and what changes."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import Keys
from cpg_trio.host.cluster import META, Joined, check_fit, check_given, join
from cpg_trio.http import StartError
from cpg_trio.store import Commit, ConflictError, Entry, MemoryStore, StoreError

A, B, C = "a" * 32, "b" * 32, "c" * 32


async def joining(store: MemoryStore, keys: Keys) -> Joined:
    joined, _ = await join(store, keys)
    return joined


async def contents(store: MemoryStore) -> Sequence[Entry]:
    return (await store.load()).entries


async def canary_of(store: MemoryStore) -> str:
    (meta,) = await contents(store)
    return str(json.loads(meta.value)["canary"])


async def test_hosts_with_a_key_in_common_join_one_directory() -> None:
    store = MemoryStore()
    first = await joining(store, Keys([A]))
    before = await contents(store)
    second, found = await join(store, Keys([A]))
    assert second.id == first.id
    assert second.sealer.unseal("x", first.sealer.seal("x", b"secret")) == b"secret"
    assert await contents(store) == before
    assert A.encode() not in before[0].value
    assert found.entries == before


async def test_hosts_that_begin_a_directory_at_the_same_time_join_the_same_one() -> None:
    store, joined = MemoryStore(), list[Joined]()

    async def come() -> None:
        joined.append(await joining(store, Keys([A])))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(come)
    assert len({each.id for each in joined}) == 1


async def refused(store: MemoryStore, *keys: str) -> str:
    """Return why a host is refused, which has changed nothing."""
    before = await store.load()
    with pytest.raises(StartError) as checked:
        await check_fit(store, Keys(keys))
    with pytest.raises(StartError) as why:
        await joining(store, Keys(keys))
    assert await store.load() == before
    assert str(checked.value) == str(why.value)
    return str(why.value)


async def test_a_check_changes_nothing() -> None:
    store = MemoryStore()
    await check_fit(store, Keys([A]))
    assert not await contents(store)
    await joining(store, Keys([A]))
    before = await contents(store)
    await check_fit(store, Keys([B, A]))
    assert await contents(store) == before


async def test_a_host_whose_key_does_not_fit_is_refused() -> None:
    store = MemoryStore()
    joined = await joining(store, Keys([A]))
    why = await refused(store, B)
    assert why.startswith(
        f"the key of this host does not fit the directory {joined.id} in the store: meta is"
    )
    assert joined.sealer.key_id in why
    assert "CPG_HOST_KEY" in why
    assert why.endswith("End STATE_URL with a prefix that nothing else uses")


def test_a_host_without_a_key_that_others_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="set CPG_HOST_KEY or CPG_HOST_KEY_FILE, the same for all of them"):
        check_given(Keys())
    check_given(Keys([A]))
    check_given(Keys(path=tmp_path / "keys"))


@pytest.mark.parametrize("key", ["registry/pods/x", "zzz", "metal"])
async def test_a_store_with_something_else_in_it_is_refused(key: str) -> None:
    store = MemoryStore()
    await store.commit(Commit(puts={key: b"of somebody else"}))
    why = await refused(store, A)
    assert why.startswith(
        f"there is something else in the store already, and no directory of hosts: {key!r}."
    )


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b"1",
        b"{}",
        b'{"schema": "1"}',
        b'{"schema": 1}',
        b'{"schema": null, "id": "x"}',
        b'{"schema": 1, "id": "x", "origin": "y", "store": 3, "canary": "z"}',
    ],
)
async def test_an_entry_of_the_name_that_somebody_else_has_written_is_refused(value: bytes) -> None:
    store = MemoryStore()
    await store.commit(Commit(puts={META: value}))
    assert "its entry 'meta' is not that of a directory of hosts" in await refused(store, A)


async def test_a_schema_that_is_too_new_is_refused() -> None:
    store = MemoryStore()
    await joining(store, Keys([A]))
    (meta,) = await contents(store)
    await store.commit(Commit(puts={META: json.dumps({**json.loads(meta.value), "schema": 2}).encode()}))
    why = await refused(store, A)
    assert "has schema 2, and this release reads 1: a later release has written it; run that one" in why


async def test_a_canary_that_was_altered_is_refused() -> None:
    store = MemoryStore()
    joined = await joining(store, Keys([A]))
    (meta,) = await contents(store)
    altered = {**json.loads(meta.value), "canary": joined.sealer.seal(META, b"another")}
    await store.commit(Commit(puts={META: json.dumps(altered).encode()}))
    assert "it has another canary" in await refused(store, A)


async def test_a_store_that_was_restored_has_another_directory_whose_secrets_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    before = await joining(store, Keys([A]))
    sealed = before.sealer.seal("x", b"secret")
    store.id = "restored"
    after, again = await joining(store, Keys([A])), await joining(store, Keys([A]))
    assert after.id == again.id != before.id
    assert after.sealer.unseal("x", sealed) == b"secret"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "was restored or copied" in caplog.text


async def test_a_new_first_key_seals_the_canary_and_the_old_one_alone_fits_no_more() -> None:
    store = MemoryStore()
    first = await joining(store, Keys([A]))
    with_both = await joining(store, Keys([B, A]))
    assert with_both.id == first.id
    assert with_both.sealer.sealed_by_first(await canary_of(store))
    assert (await joining(store, Keys([B]))).id == first.id
    assert first.sealer.key_id not in await canary_of(store)
    await refused(store, A)


async def test_keys_that_change_while_a_host_runs_seal_the_canary_anew_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    store, path = MemoryStore(), tmp_path / "keys"
    path.write_text(f"{A}\n")
    path.chmod(0o600)
    joined = await joining(store, Keys(path=path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.follow_keys)
        before = await store.revision()
        await trio.sleep(60)
        assert await store.revision() == before
        path.write_text(f"{B}\n{A}\n")
        await trio.sleep(10)
        assert joined.sealer.sealed_by_first(await canary_of(store))
        await joining(store, Keys([A, B]))  # of a host whose keys are being changed still
        before = await store.revision()
        await trio.sleep(60)
        assert await store.revision() == before
        nursery.cancel_scope.cancel()


class Unreliable(MemoryStore):
    """Fails as often as it is told to."""

    failures: list[Exception]

    async def commit(self, commit: Commit) -> int:
        if self.failures:
            raise self.failures.pop()
        return await super().commit(commit)


async def test_a_change_of_keys_is_noted_when_the_store_can_be_reached_again(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, path = Unreliable(), tmp_path / "keys"
    store.failures = [ConflictError("another host was first")]
    path.write_text(f"{A}\n")
    path.chmod(0o600)
    joined = await joining(store, Keys(path=path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.follow_keys)
        store.failures = [StoreError("it is cut off"), ConflictError("meta has changed")]
        path.write_text(f"{B}\n{A}\n")
        await trio.sleep(30)
        assert joined.sealer.sealed_by_first(await canary_of(store))
        nursery.cancel_scope.cancel()
    assert "it is cut off" in caplog.text


async def test_a_store_that_fails_is_refused_with_why() -> None:
    store = Unreliable()
    store.failures = [StoreError("nobody answers")]
    with pytest.raises(StartError, match="the store cannot be used: nobody answers"):
        await joining(store, Keys([A]))
