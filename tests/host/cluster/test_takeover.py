"""A host takes over what was acknowledged: when others die, and when it was away or could not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import Keys
from cpg_trio.host.cluster import Stand
from cpg_trio.store import Commit, MemoryStore
from tests.host.calls import REGISTER, Headers
from tests.host.cluster.hosts import Member, departed, hosts, id_of, settled
from tests.host.cluster.late import Late
from tests.host.cluster.serving import Served, serving_hosts, until

_OLD, _NEW = "o" * 32, "n" * 32


def body(service_type: str, metadata: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "serviceType": service_type,
        "version": "1.0.0",
        "endpointPath": "/x/",
        "metadata": metadata or {},
    }


async def register(member: Member, plugin: Headers, service_type: str, **metadata: str) -> str:
    status, answer = await member.calls.post(REGISTER, body(service_type, metadata), plugin)
    assert status == 200, answer
    return str(answer["registrationId"])


async def test_plugins_are_adopted_however_much_they_have_registered(autojump_clock: MockClock) -> None:
    large = {f"k{number}": "x" * 4000 for number in range(50)}
    async with hosts() as group:
        a, b = await group.start(), await group.start()
        plugins = [await a.calls.plugin("p") for _ in range(10)]
        for plugin in plugins:
            await register(a, plugin, "t", **large)
        await settled()
        await group.kill(a)
        await trio.sleep(10)
        assert b.stands(Stand.READY)
        for plugin in plugins:
            assert b.owns(plugin)
            assert b.is_callable(plugin)


async def test_what_was_unregistered_while_a_host_was_away_is_registered_there_as_new(
    autojump_clock: MockClock,
) -> None:
    async with hosts() as group:
        a, b = await group.start(), await group.start()
        plugin = await a.calls.plugin("p")
        registration = await register(a, plugin, "t")
        await register(a, plugin, "u")
        await settled()
        b.store.cut = True
        assert await a.unregister(plugin, registration) == 200
        group.store._compacted = await group.store.revision()
        b.store.cut = False
        await trio.sleep(3)
        await group.shut_down(a)
        await settled()
        assert b.owns(plugin)
        await register(b, plugin, "t")
        entries = {entry.key for entry in (await group.store.load("services/")).entries}
        assert entries == {f"services/{each}/{id_of(plugin)}" for each in ("t", "u")}


def keys(path: Path, *texts: str) -> Keys:
    path.write_text("\n".join(texts))
    path.chmod(0o600)
    return Keys(path=path)


async def test_a_plugin_is_adopted_as_it_is_in_the_store_and_not_as_it_was_when_it_could_be_read(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    of_a, of_b = tmp_path / "a", tmp_path / "b"
    async with hosts() as group:
        a = await group.start(keys=keys(of_a, _OLD))
        b = await group.start(keys=keys(of_b, _OLD))
        plugin = await a.calls.plugin("p")
        await register(a, plugin, "t")
        await settled()
        of_a.write_text(f"{_NEW}\n{_OLD}\n")
        await trio.sleep(10)
        registered = await register(a, plugin, "u")
        await settled()
        assert "is sealed by the key" in caplog.text
        await group.shut_down(a)
        await trio.sleep(5)
        assert not b.owns(plugin)
        of_b.write_text(f"{_NEW}\n{_OLD}\n")
        await trio.sleep(10)
        assert b.owns(plugin)
        found = b.registration(plugin, "u")
        assert found is not None
        assert found.id == registered


def entered(store: MemoryStore) -> list[str]:
    return [key for key in store._entries if key.startswith("hosts/")]


async def test_a_host_whose_entry_is_removed_while_it_joins_joins_with_another_one() -> None:
    store = MemoryStore()
    late = Late(store)
    late.hold()
    joined = trio.Event()

    async def serve() -> None:
        async with serving_hosts(late) as (host,):
            assert isinstance(host, Served)
            joined.set()

    async with open_plain_nursery() as nursery:
        nursery.start_soon(serve)
        await until(lambda: entered(store))
        await store.commit(Commit(deletes=entered(store)))
        await until(lambda: entered(store))
        late.let_go.set()
        with trio.fail_after(5):
            await joined.wait()
        nursery.cancel_scope.cancel()


async def test_a_plugin_whose_document_cannot_be_read_is_not_taken_for_one_that_nobody_owns(
    autojump_clock: MockClock,
) -> None:
    async with hosts() as group:
        a = await group.start()
        plugin = await a.calls.plugin("p")
        await register(a, plugin, "t")
        (entry,) = (await group.store.load("plugins/")).entries
        await group.kill(a)
        later = entry.value.replace(b'"registrations":[', b'"registrations":[7,')
        await group.store.commit(Commit(puts={entry.key: later}))
        b = await group.start()
        status, answer = await b.calls.post(REGISTER, body("u"), plugin)
        assert (status, answer["code"]) == (503, "unavailable")
        await b.report(plugin)
        await trio.sleep(10)
        (entry,) = (await group.store.load("plugins/")).entries
        assert entry.value == later


@pytest.mark.parametrize("cut_s", [25.0, 27.5, 29.5])
async def test_a_host_that_is_back_does_not_end_what_it_had_given_up_and_another_has_heard_of(
    cut_s: float, autojump_clock: MockClock
) -> None:
    async with hosts() as group:
        a, b = await group.start(), await group.start()
        plugin = await a.calls.provider("t")
        await trio.sleep(cut_s)
        a.store.cut = True
        await departed(b, a)
        await settled()
        assert b.owns(plugin)
        await b.report(plugin)
        await trio.sleep(3)
        a.store.cut = False
        await trio.sleep(5)
        for member in (a, b):
            assert member.stands(Stand.READY)
            assert member.is_callable(plugin)
        assert b.owns(plugin)
        assert not (await group.store.load("ended/")).entries
