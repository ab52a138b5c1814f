"""Several hosts with one directory: what one knows all know, and no plugin is lost with its host."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from cpg_trio.host.cluster import Stand, Standing
from tests.host.calls import REGISTER
from tests.host.cluster.hosts import TTL_S, Hosts, Member, hosts, id_of, settled

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
