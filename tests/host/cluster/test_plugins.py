"""What programs and operators do with a plugin they do at any host, whichever owns it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cpg_trio.plugin import Plugin
from cpg_trio.store import MemoryStore
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.calls import REPORT, runtime_id
from tests.host.cluster.serving import serving_hosts, until
from tests.plugin.running import echo_plugin, plugged


async def test_a_plugin_that_one_host_adds_may_call_another() -> None:
    async with serving_hosts() as (a, b), plugged(echo_plugin(), None) as url:
        with trio.fail_after(10):
            provider = await a.host.add_plugin(url, host_url=b.url)
        assert a.host.owners.owns(provider)
        await until(lambda: b.host.registry.available("echo"))
        await b.host.shut_down_plugin(provider, grace_s=1)
        await until(lambda: not a.host.registry.available("echo"))


async def test_plugins_of_different_hosts_call_each_other() -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    async with (
        serving_hosts() as (a, b),
        plugged(echo_plugin(), a.url, heartbeat_s=0.1),
        plugged(caller, b.url, heartbeat_s=0.1),
    ):
        for registered in (1, 2):
            await until(lambda count=registered: a.host.registry.statistics().registered == count)
            await echo.wait_available()
            assert (await client.echo(pb.EchoRequest(text="from afar"), timeout_s=10)).text == "from afar"
            (provider,) = a.host.registry.providers("echo")
            assert a.host.owners.owns(provider.runtime_id)
            await b.host.revoke_identity(provider.runtime_id)  # it comes back under another one


async def test_what_a_plugin_reports_of_its_direct_calls_is_counted_by_its_owner() -> None:
    async with serving_hosts() as (a, b):
        provider, caller = await a.calls.provider("t"), await a.calls.plugin("caller")
        entry = {"serviceType": "t", "providerId": runtime_id(provider), "series": "7", "calls": "3"}
        for host in (b, a, b):
            assert (await host.calls.post(REPORT, {"directCalls": [entry]}, caller))[0] == 200
        assert a.host.statistics().direct.calls == 3
        assert b.host.statistics().direct.calls == 0


@pytest.mark.parametrize(("store", "addresses"), [(None, 2), (MemoryStore(), 1)])
async def test_a_socket_that_a_plugin_offers_beside_its_url_is_used_by_a_host_alone(
    short_path: Path, store: MemoryStore | None, addresses: int
) -> None:
    async with (
        serving_hosts(store, socket_dir=short_path) as (host,),
        plugged(echo_plugin(), host.url, socket_dir=short_path),
    ):
        await until(lambda: host.host.registry.available("echo"))
        (registration,) = host.host.registry.providers("echo")
        assert len(registration.addresses) == addresses
        assert ("socket" in registration.metadata) is (addresses > 1)
