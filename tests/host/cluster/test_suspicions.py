"""A host that cannot reach a provider tells the provider's owner, which asks the provider at once."""

from __future__ import annotations

import json
import time

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import LeaseConfig, Rate, RateLimits
from cpg_trio.host.cluster import Stand, suspicions
from cpg_trio.store import Commit
from tests.host.calls import Provider, runtime_id
from tests.host.cluster.hosts import hosts, id_of, settled
from tests.host.cluster.serving import Served, serving_hosts, until
from tests.http.peers import serving, url_of
from tests.plugin.running import unused_port

SUSPECT = "/cpgtrio.hosts.v1.HostService/Suspect"


async def call(host: Served, caller: dict[str, str], provider: dict[str, str]) -> int:
    path = f"/services/t/{runtime_id(provider)}/M"
    return (await host.send(path, {}, caller)).status_code


async def test_a_provider_that_nobody_reaches_gets_no_calls_at_any_host_soon() -> None:
    async with serving_hosts(leases=LeaseConfig(lease_s=300.0)) as (a, b):
        provider = await a.calls.provider("t", f"http://127.0.0.1:{unused_port()}")
        caller = await b.calls.plugin("caller")
        await until(lambda: b.is_callable(provider))
        assert await call(b, caller, provider) == 502
        while a.is_callable(provider):  # a host that was held up a moment ago blames itself
            await trio.sleep(0.1)
            await call(b, caller, provider)
        await until(lambda: not b.is_callable(provider))
        assert a.host.registry.health(runtime_id(provider)).reason == "it could not be reached"


async def test_a_provider_that_answers_its_owner_is_not_doubted_for_what_another_host_says() -> None:
    peer = Provider("t-plugin")
    async with serving(peer) as origin, serving_hosts() as (a, b):
        provider = await a.calls.provider("t", url_of(origin))
        await until(lambda: b.is_callable(provider))
        asked = peer.asked.value
        b.host._suspicions.suspect(runtime_id(provider))
        await until(lambda: peer.asked.value > asked)
        await trio.sleep(0.1)
        assert a.is_callable(provider)
        assert b.is_callable(provider)


async def test_many_failures_are_one_question_a_second() -> None:
    peer = Provider("t-plugin")
    async with serving(peer) as origin, serving_hosts() as (a, b):
        provider = await a.calls.provider("t", url_of(origin))
        await until(lambda: b.is_callable(provider))
        for _ in range(100):
            b.host._suspicions.suspect(runtime_id(provider))
        await until(lambda: peer.asked.value >= 2)
        await trio.sleep(0.2)
        assert peer.asked.value == 2  # who it is, and how it is
        for number in range(300):
            b.host.owners.set(f"other-{number}", a.id)
            b.host._suspicions.suspect(f"other-{number}")
        assert len(b.host._suspicions._told) == suspicions._MOST


async def test_nobody_but_a_host_has_a_provider_doubted() -> None:
    rates = RateLimits(failed_authentication=Rate(0.001, 3))
    async with serving_hosts(rates=rates) as (a, b):
        provider = await a.calls.provider("t", f"http://127.0.0.1:{unused_port()}")
        me = await a.calls.plugin("attacker")
        body = {"runtimeId": runtime_id(provider)}
        other = b.stated(a, SUSPECT, runtime_id(me), time.time())
        for headers in ({}, {**me, "X-Plugin-Forwarded": "x"}, {**me, **other}):
            assert (await a.send(SUSPECT, body, headers)).status_code == 403
        assert (await a.send(SUSPECT, body, {})).status_code == 429
        assert a.is_callable(provider)
        good = b.stated(a, SUSPECT, runtime_id(provider), time.time())
        assert (await a.send(SUSPECT, body, good)).status_code == 200
        assert not a.is_callable(provider)


async def test_a_host_that_shares_its_directory_with_nobody_has_no_such_service() -> None:
    async with serving_hosts(None) as (alone,):
        assert (await alone.send(SUSPECT, {}, {})).status_code == 404


@pytest.mark.parametrize("key", ["hosts/x", "hosts/\udcff"])
@pytest.mark.parametrize(
    "fields", [{"url": ""}, {"url": "http://["}, {"url": "x" * 9}, {"url": "http://[::1]:1", "address": "?"}]
)
async def test_a_host_that_cannot_be_told_harms_nobody(
    key: str, fields: dict[str, str], autojump_clock: MockClock
) -> None:
    async with hosts() as group:
        a = await group.start()
        plugin = await a.calls.provider("t")
        await group.store.commit(Commit(puts={key: json.dumps(fields).encode()}))
        await settled()
        a.host.owners.set(id_of(plugin), "x")
        a.host._suspicions.suspect(id_of(plugin))
        assert await a.report(plugin) in {200, 503}
        await trio.sleep(10)
        assert a.stands(Stand.READY)
