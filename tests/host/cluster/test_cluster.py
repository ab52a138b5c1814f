"""Several hosts with one directory: what one knows all know, and no plugin is lost with its host."""

from __future__ import annotations

import gc

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host.cluster import Stand, Standing, peer_url
from cpg_trio.http import StartError
from cpg_trio.store import Commit, Snapshot
from tests.host.calls import REGISTER, REPORT, Headers
from tests.host.cluster.hosts import TTL_S, Hosts, Member, departed, hosts, id_of, settled

LEASE_S = 15.0


async def changed(standing: Standing) -> None:
    """Wait until a host stands otherwise with its store."""
    event = trio.Event()
    with standing.changes.added(lambda _: event.set()):
        await event.wait()


async def two(group: Hosts) -> tuple[Member, Member]:
    return await group.start(), await group.start()


async def test_what_registers_at_one_host_is_found_at_each(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        plugin = await a.calls.provider("t")
        other = await b.calls.plugin("other")
        await settled()
        assert a.owns(plugin)
        assert not b.owns(plugin)
        assert b.host.owners.owner(id_of(plugin)) == a.id
        assert await b.calls.discover("t", other) == id_of(plugin)
        assert await a.calls.discover("t", other) == id_of(plugin)
        assert a.directory() == b.directory()
        assert a.host.registry.id == b.host.registry.id


async def test_hosts_do_not_hold_what_they_have_loaded(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        await a.calls.provider("t")
        await b.cluster.follower.compared()
        await settled()
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, Snapshot)]


async def test_health_and_ends_are_known_at_each(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        plugin = await a.calls.provider("t")
        await settled()
        await a.report(plugin, "UNHEALTHY", "ill")
        await settled()
        assert not b.is_callable(plugin)
        assert b.host.registry.health(id_of(plugin)).reason == "ill"
        await a.report(plugin)
        await settled()
        assert b.is_callable(plugin)
        await b.host.revoke_identity(id_of(plugin), "bad")
        await settled()
        for host in (a, b):
            assert host.registration(plugin) is None
            assert host.host.identities.ended(id_of(plugin)) is not None
            assert await host.report(plugin) == 401
        assert [e.key for e in (await group.store.load()).entries if id_of(plugin) in e.key] == [
            f"ended/{id_of(plugin)}"
        ]


async def test_a_plugin_that_falls_silent_lapses_at_each_host_and_ends(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        plugin = await a.calls.provider("t")
        await trio.sleep(LEASE_S + 1)
        assert not b.is_callable(plugin)
        assert b.registration(plugin) is not None
        await trio.sleep(LEASE_S + 1)
        assert b.registration(plugin) is None
        assert b.host.identities.ended(id_of(plugin)) is not None


async def test_a_host_that_starts_later_knows_all(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a = await group.start()
        plugin = await a.calls.provider("t")
        await a.report(plugin, "DEGRADED", "slow")
        b = await group.start()
        assert b.directory() == a.directory()
        assert b.host.registry.revision > 0


async def test_the_plugins_of_a_host_that_is_killed_are_adopted_and_never_vanish(
    autojump_clock: MockClock,
) -> None:
    async with hosts() as group:
        a, b, c = await group.start(), await group.start(), await group.start()
        plugin = await a.calls.provider("t")
        await settled()
        await group.kill(a)
        for _ in range(20):
            await trio.sleep(TTL_S / 10)
            assert b.is_callable(plugin)
            assert c.is_callable(plugin)
        assert b.owns(plugin) is not c.owns(plugin)
        owner = b if b.owns(plugin) else c
        await owner.report(plugin)
        await trio.sleep(LEASE_S - 1)
        assert b.is_callable(plugin)
        assert c.is_callable(plugin)
        await trio.sleep(2)
        assert not b.is_callable(plugin)
        assert not c.is_callable(plugin)


async def test_a_host_that_stops_hands_its_plugins_over_at_once(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        plugin = await a.calls.provider("t")
        await settled()
        await group.shut_down(a)
        await settled()
        assert b.owns(plugin)
        assert b.is_callable(plugin)


async def test_a_host_that_is_cut_off_says_so_and_owns_nobody_once_its_entry_may_be_gone(
    autojump_clock: MockClock,
) -> None:
    async with hosts() as group:
        a, b = await two(group)
        plugin = await a.calls.provider("t")
        await settled()
        a.store.cut = True
        began = trio.current_time()
        await changed(a.host.standing)
        assert a.stands(Stand.CUT_OFF)
        assert trio.current_time() - began < TTL_S
        assert a.owns(plugin)
        body = {"serviceType": "u", "version": "1.0.0", "endpointPath": "/x/"}
        status, answer = await a.calls.post(REGISTER, body, plugin)
        assert (status, answer["code"]) == (503, "unavailable")
        await trio.sleep(TTL_S)
        assert a.stands(Stand.LOST)
        assert not a.owns(plugin)
        assert b.owns(plugin)
        for _ in range(12):
            await b.report(plugin)
            await trio.sleep(LEASE_S / 4)
        assert a.is_callable(plugin)  # what it knows stays
        a.store.cut = False
        await trio.sleep(TTL_S)
        assert a.stands(Stand.READY)
        assert a.directory() == b.directory()


async def test_a_host_without_an_entry_owns_nothing_whatever_it_follows(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a = await group.start()
        plugin = await a.calls.provider("t")
        a.store.is_absent = a.store.cut = True
        await trio.sleep(2 * TTL_S)
        key = f"plugins/{id_of(plugin)}"
        (document,) = (await group.store.load(key)).entries
        await group.store.commit(Commit(puts={key: document.value}))
        a.store.cut = False
        await trio.sleep(TTL_S)
        assert a.stands(Stand.LOST)
        assert not a.owns(plugin)
        a.store.is_absent = False
        await trio.sleep(TTL_S)
        assert a.owns(plugin)
        assert a.is_callable(plugin)


async def test_reports_are_taken_and_plugins_sent_elsewhere_for_as_long_as_the_store_is_away(
    autojump_clock: MockClock,
) -> None:
    async with hosts() as group:
        a = await group.start()
        plugin = await a.calls.provider("t")
        a.store.cut = True
        for _ in range(12):
            await trio.sleep(LEASE_S / 4)
            answer = await a.calls.http.post(
                REPORT, json={"state": "HEALTH_STATE_DEGRADED", "reason": "slow"}, headers=plugin
            )
            assert answer.status_code == 200
            assert answer.headers["x-plugin-elsewhere"] == "true"
        assert a.stands(Stand.LOST)
        assert a.is_callable(plugin)
        a.store.cut = False
        await trio.sleep(TTL_S)
        b = await group.start()
        assert a.owns(plugin)
        assert b.host.registry.health(id_of(plugin)).reason == "slow"


async def test_a_host_that_is_back_before_another_one_adopts_owns_its_plugins_again(
    autojump_clock: MockClock,
) -> None:
    async with hosts() as group:
        a = await group.start()
        plugin = await a.calls.provider("t")
        a.store.cut = True
        await trio.sleep(2 * TTL_S)
        assert not a.owns(plugin)
        a.store.cut = False
        await trio.sleep(TTL_S)
        assert a.owns(plugin)
        assert a.host._liveness.lease(id_of(plugin)) is not None


# Races, and what is wrong in a store


async def test_a_new_run_at_the_same_url_takes_over_from_the_former_one_at_once(
    autojump_clock: MockClock,
) -> None:
    async with hosts() as group:
        a = await group.start(peer_url="http://192.0.2.1:8080")
        b = await group.start(peer_url="http://192.0.2.2:8080")
        plugin = await a.calls.provider("t")
        await settled()
        began = trio.current_time()
        await group.kill(a)
        again = await group.start(peer_url="http://192.0.2.1:8080")
        await settled()
        assert trio.current_time() - began < TTL_S / 2
        assert a.id not in b.host.owners.members
        assert again.owns(plugin) is not b.owns(plugin)
        assert again.is_callable(plugin)


async def test_two_hosts_that_adopt_the_same_plugin_at_the_same_time_do_not_both_own_it(
    autojump_clock: MockClock,
) -> None:
    async with hosts() as group:
        a, b, c = await group.start(), await group.start(), await group.start()
        plugins = [await a.calls.provider("t") for _ in range(10)]
        await settled()
        await group.kill(a)
        await departed(b, a)
        async with trio.open_nursery() as nursery:
            for member in (b, c):
                for plugin in plugins:
                    nursery.start_soon(member.cluster.adopt, id_of(plugin))
        await settled()
        for plugin in plugins:
            assert b.owns(plugin) is not c.owns(plugin)


async def test_an_orphan_that_calls_a_host_is_adopted_by_that_host(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b, c = await group.start(), await group.start(), await group.start()
        plugin = await a.calls.provider("t")
        await settled()
        await group.kill(a)
        second = max((b, c), key=lambda member: member.member.rank(id_of(plugin)))
        await departed(second, a)
        assert not second.owns(plugin)
        await second.cluster.adopt(id_of(plugin))
        await settled()
        assert b.owns(plugin) is not c.owns(plugin)


async def test_a_commit_of_which_nothing_is_known_does_not_bring_back_what_was_refused(
    autojump_clock: MockClock,
) -> None:
    async with hosts() as group:
        a, b = await two(group)
        plugin = await a.calls.plugin("p")
        a.store.done_though_failed = True
        body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/x/"}
        assert (await a.calls.post(REGISTER, body, plugin))[0] == 503
        assert a.registration(plugin) is None
        await trio.sleep(3)
        assert a.registration(plugin) is None
        assert b.registration(plugin) is None


async def test_a_service_name_belongs_to_one_plugin_name_at_all_hosts(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        first, second = await a.calls.plugin("first"), await b.calls.plugin("second")
        body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/x/"}
        statuses: list[int] = []

        async def register(member: Member, plugin: Headers) -> None:
            statuses.append((await member.calls.post(REGISTER, body, plugin))[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(register, a, first)
            nursery.start_soon(register, b, second)
        await settled()
        assert sorted(statuses) == [200, 403]
        assert a.host.registry.provider_names("t") == b.host.registry.provider_names("t")


async def test_a_drain_at_any_host_holds_at_each_and_outlives_the_owner(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        plugin = await a.calls.provider("t")
        await settled()
        b.host.registry.drain(id_of(plugin), "maintenance")
        await settled()
        assert a.host.registry.why_drained(id_of(plugin)) == "maintenance"
        assert not a.is_callable(plugin)
        await group.shut_down(a)
        await settled()
        c = await group.start()
        for member in (b, c):
            assert not member.is_callable(plugin)
        c.host.registry.undrain(id_of(plugin))
        await settled()
        assert b.is_callable(plugin)


async def test_an_identity_that_is_dropped_as_idle_stays_where_it_is_in_use(
    autojump_clock: MockClock,
) -> None:
    async with hosts() as group:
        a, b = await two(group)
        plugin, idle = await a.calls.plugin("watcher"), await a.calls.plugin("idle")
        await settled()
        with b.host.watches.watch(id_of(plugin)):
            for each in (plugin, idle):
                a.host.identities.forget(id_of(each))
            await settled()
            assert b.owns(plugin)
            assert b.host.identities.entry(id_of(plugin)) is not None
            assert b.host.identities.entry(id_of(idle)) is None
            assert a.host.owners.owner(id_of(plugin)) == b.id
            assert a.host.identities.entry(id_of(plugin)) is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("plugins/x-1", b"\xff"),
        ("plugins/x-1", b"[" * 100_000),
        ("plugins/x-1", b'{"owner": 3}'),
        ("plugins/x-1", b'{"owner": "h", "digest": "AA", "expires_at": "soon"}'),
        ("ended/x-1", b"7"),
        ("drained/x-1", b"nothing"),
        ("hosts/x", b"{}}"),
        ("hosts/x", b'{"since": "long ago"}'),
        ("not_before", b"{}"),
        ("of-a-later-release/x", b"?"),
    ],
)
async def test_an_entry_that_cannot_be_read_is_left_out_and_nothing_else(
    autojump_clock: MockClock, key: str, value: bytes
) -> None:
    async with hosts() as group:
        a = await group.start()
        await group.store.commit(Commit(puts={key: value}))
        plugin = await a.calls.provider("t")
        b = await group.start()
        await settled()
        for member in (a, b):
            assert member.is_callable(plugin)
            assert member.stands(Stand.READY)


async def test_what_was_changed_while_too_much_was_changed_is_loaded(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        plugin, gone = await a.calls.provider("t"), await a.calls.provider("u")
        await settled()
        b.store.cut = True
        await a.report(plugin, "DEGRADED")
        await a.host.revoke_identity(id_of(gone), "bad")
        group.store._compacted = await group.store.revision()
        b.store.cut = False
        await trio.sleep(TTL_S)
        assert b.stands(Stand.READY)
        assert b.directory() == a.directory()
        assert b.registration(gone, "u") is None


async def test_a_host_ends_that_finds_another_store_than_it_began_with(autojump_clock: MockClock) -> None:
    with pytest.raises(StartError, match="it was restored"):
        async with hosts() as group:
            a = await group.start()
            a.store.is_replaced = True
            await a.cluster.follower.compared()


async def test_a_host_whose_entry_is_removed_comes_back_and_owns_its_plugins(
    autojump_clock: MockClock,
) -> None:
    async with hosts() as group:
        a = await group.start()
        plugin = await a.calls.provider("t")
        await group.store.commit(Commit(deletes=[f"hosts/{a.id}"]))
        await settled()
        assert a.stands(Stand.LOST)
        assert not a.owns(plugin)
        await trio.sleep(1)
        assert a.stands(Stand.READY)
        assert a.owns(plugin)


async def test_two_hosts_that_say_that_they_are_at_one_place_are_told_of(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosts(peer_url="http://192.0.2.1:8080") as group:
        a, b = await two(group)
        await trio.sleep(TTL_S)
        assert a.stands(Stand.READY)
        assert b.stands(Stand.READY)
        assert f"other hosts are reached at http://192.0.2.1:8080, too ({b.id}): set PEER_URL" in caplog.text


async def test_hosts_at_the_same_loopback_address_of_two_machines_do_not_take_over_from_each_other() -> None:
    with pytest.raises(StartError, match="set PEER_URL"):
        peer_url("", ["http://127.0.0.1:8080"])
    assert peer_url("http://127.0.0.1:8080", ["http://127.0.0.1:8080"]) == "http://127.0.0.1:8080"
    assert peer_url("", ["http://127.0.0.1:8080"], one_machine=True) == "http://127.0.0.1:8080"


@pytest.mark.parametrize("bound", ["http://0.0.0.0:8080", "http://[::]:8080", "unix:/run/host.sock"])
def test_a_host_has_to_say_where_others_reach_it(bound: str) -> None:
    with pytest.raises(StartError, match="set PEER_URL"):
        peer_url("", [bound])
    assert peer_url("http://host-0:8080", [bound]) == "http://host-0:8080"
    assert peer_url("", [bound, "http://192.0.2.7:8080"]) == "http://192.0.2.7:8080"


async def test_a_host_that_cannot_enter_the_store_does_not_start(autojump_clock: MockClock) -> None:
    with pytest.raises(StartError, match="the store cannot be used: it is cut off"):
        async with hosts() as group:
            await group.start(cut=True)
