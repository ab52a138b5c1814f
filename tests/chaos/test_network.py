"""Connections that go wrong without a sign."""

from __future__ import annotations

import json
from pathlib import Path

import trio

from tests.chaos.glass_host import GLASS_HOST
from tests.chaos.proxy import proxying
from tests.chaos.trial import ALL_WELL, AVAILABLE, DEGRADED, PLUGINS, SLACK_S, UNAVAILABLE, trial

IDLE_S = 1.0  # after which the host closes a connection that nothing is asked on, or pings a websocket


async def test_a_plugin_whose_connections_to_the_host_go_dead_goes_on_over_new_ones(tmp_path: Path) -> None:
    async with proxying() as proxy, trial(tmp_path, writers=0) as t:
        proxy.port = t.system.port
        await t.restart("storage", HOST_URL=proxy.url)
        await t.all_is_well()
        assert proxy.go_dead()
        with trio.fail_after(t.bound_s):
            await proxy.wait_passed_on(b"ReportHealth")
        await t.becomes(ALL_WELL, t.observer.picture, *PLUGINS)
        await t.becomes(200, t.writer.shorten)
        with trio.fail_after(t.bound_s):
            await proxy.wait_passed_on(b"Log")


async def test_a_plugin_whose_connections_to_the_host_go_dead_hears_what_it_was_not_told(
    tmp_path: Path,
) -> None:
    async with proxying() as proxy, trial(tmp_path) as t:
        proxy.port = t.system.port
        await t.restart("storage", HOST_URL=proxy.url)
        await t.all_is_well()
        assert proxy.go_dead()
        await t.stop("logger")
        meanwhile = {"logger": UNAVAILABLE, "storage": DEGRADED, "api": AVAILABLE}
        await t.becomes(meanwhile, t.observer.picture, *meanwhile, within_s=2 * t.lease_s)
        await t.start("logger")
        await t.all_is_well()


async def test_a_host_drops_connections_that_have_gone_dead(tmp_path: Path) -> None:
    environment = {"SERVE": json.dumps({"idle_timeout_s": IDLE_S, "websocket_ping_s": IDLE_S})}
    async with proxying() as proxy, trial(tmp_path, modules=GLASS_HOST, environment=environment) as t:
        proxy.port = t.system.port
        await t.restart("storage", HOST_URL=proxy.url)
        await t.all_is_well()
        assert proxy.go_dead()
        await t.becomes(0, proxy.left_over, within_s=2 * IDLE_S + SLACK_S)
