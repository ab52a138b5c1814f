"""An operator acts on plugins on real sockets, over the admin socket of the host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cpg_trio.host import AuditEvent, Host, HostConfig
from cpg_trio.host.admin import AdminConfig
from cpg_trio.http import Pool
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient
from cpg_trio.rpc import PoolClient
from tests.host.routed import routing
from tests.http.peers import OK, Peer
from tests.plugin.running import echo_plugin, hosting, plugged, until


@asynccontextmanager
async def admin_of(host: Host) -> AsyncIterator[AdminServiceClient]:
    async with Pool() as pool:
        yield AdminServiceClient("http://admin", PoolClient(pool, host.admin_addresses))


def with_admin(directory: Path) -> HostConfig:
    return HostConfig(admin=AdminConfig(socket=directory / "admin" / "a.sock"))


async def test_the_call_in_flight_of_a_drained_plugin_finishes_and_no_other_begins(short_path: Path) -> None:
    arrived, go_on = trio.Event(), trio.Event()

    async def slow(peer: Peer) -> None:
        while await peer.receive_head():
            arrived.set()
            await go_on.wait()
            await peer.send(OK)

    statuses: list[int] = []
    async with routing(slow, config=with_admin(short_path)) as setting, admin_of(setting.host) as admin:

        async def call() -> None:
            statuses.append((await setting.call(setting.head("GET"))).status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await arrived.wait()
            answer = await admin.drain_plugin(pb.DrainPluginRequest(plugin="echo-plugin"))
            assert answer.calls_in_flight == 1
            await call()
            assert statuses == [503]
            go_on.set()
        assert statuses == [503, 200]
        await admin.drain_plugin(pb.DrainPluginRequest(plugin="echo-plugin", undo=True))
        await call()
        assert statuses[-1] == 200


async def test_a_plugin_that_is_told_to_stop_stops_and_is_draining(short_path: Path) -> None:
    events: list[AuditEvent] = []
    async with hosting(with_admin(short_path)) as (host, url), admin_of(host) as admin:
        host.audit.subscribe(events.append)
        async with plugged(echo_plugin(), url):
            await until(host, lambda: host.registry.available("echo"))
            (plugin,) = (await admin.list_plugins(pb.ListPluginsRequest())).plugins
            assert plugin.state == pb.PLUGIN_STATE_HEALTHY
            assert plugin.lease_left.seconds > 5
            answer = await admin.shut_down_plugin(pb.ShutDownPluginRequest(plugin="echo", reason="update"))
            assert answer.runtime_id == plugin.runtime_id
            await until(host, lambda: not host.registry.provides("echo"))
        story = await admin.get_plugin(pb.GetPluginRequest(plugin="echo-plugin"))
        assert (story.plugin.state, story.plugin.reason) == (pb.PLUGIN_STATE_DRAINING, "it is stopping")
        texts = [event.text for event in story.events]
        assert any(text.startswith("told to stop, by uid ") and text.endswith(": update") for text in texts)
        (told,) = [event for event in events if event.target == "Shutdown"]
        assert told.actor.startswith("uid ")
