"""Calls to a host that fail are tried again, as late as the host asks; a refusal for good ends the plugin."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cpg_trio._cell import Cell
from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.host import Host, HostConfig, Rate, RateLimits
from cpg_trio.plugin import PluginConfig, RefusedError
from tests.host.calls import HANDSHAKE, REGISTER
from tests.http.apps import served
from tests.plugin.running import (
    ASKED_S,
    HEALTHY,
    Busy,
    echo_plugin,
    error,
    eventually,
    hosting,
    is_healthy,
    lines,
    meddled,
    plugged,
    state_of,
    until,
    unused_port,
)
from tests.rpc.echo import canned


async def test_a_registration_that_is_unavailable_is_tried_again(virtual_time: MockClock) -> None:
    tries = Cell(0)

    async def not_yet(scope: Scope, _receive: Receive, send: Send) -> bool:
        if scope["path"].endswith("RegisterService") and tries.value < 2:
            tries.set(tries.value + 1)
            return await error(send, 503, "unavailable")
        return False

    async with meddled(not_yet) as (host, url), plugged(echo_plugin(), url):
        await until(host, lambda: is_healthy(host, "echo"))
    assert tries.value == 2


async def test_a_plugin_that_starts_before_its_host_finds_it(
    virtual_time: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    port = unused_port()
    async with plugged(echo_plugin(), f"http://127.0.0.1:{port}"):
        while "cannot reach the host" not in caplog.text:
            await trio.testing.wait_all_tasks_blocked(0.01)
        async with hosting(bind=f"127.0.0.1:{port}") as (host, _):
            await until(host, lambda: state_of(host, "echo") == HEALTHY)
    assert [r.levelname for r in caplog.records].count("WARNING") == 1  # not at each try


async def test_a_host_that_refuses_a_plugin_ends_it_with_the_reason() -> None:
    refusal = canned(
        400,
        b'{"code": "failed_precondition", "message": "version mismatch"}',
        content_type="application/json",
    )
    async with served(refusal) as url:
        with pytest.raises(RefusedError, match="the host refuses: version mismatch"):
            await echo_plugin().serve(config=PluginConfig(host_url=url))


@pytest.mark.parametrize("path", [HANDSHAKE, REGISTER])
async def test_a_plugin_tries_again_as_late_as_the_host_asks(virtual_time: MockClock, path: str) -> None:
    busy = Busy(path)
    async with meddled(busy) as (host, url), plugged(echo_plugin(), url):
        await until(host, lambda: is_healthy(host, "echo"))
    assert busy.waited_s >= ASKED_S


async def test_many_plugins_at_once_are_all_registered_in_the_end(virtual_time: MockClock) -> None:
    host = Host(HostConfig(rates=RateLimits(handshake=Rate(2, 2), register=Rate(2, 1), watch=Rate(2, 1))))
    async with hosting(host=host) as (_, url), trio.open_nursery() as nursery:
        stop = trio.Event()

        async def run(number: int) -> None:
            async with plugged(echo_plugin(service_type=f"echo-{number}"), url):
                await stop.wait()

        for number in range(4):
            nursery.start_soon(run, number)
        await eventually(lambda: len(host.registry.service_types()) == 4)
        stop.set()


async def test_a_plugin_that_waits_for_its_host_logs_now_and_then_which_one_and_why(
    caplog: pytest.LogCaptureFixture, virtual_time: MockClock
) -> None:
    url = f"http://127.0.0.1:{unused_port()}"
    async with plugged(echo_plugin(), url):
        await trio.sleep(100)
    found = [line for line in lines(caplog, "cpg_trio.plugin") if url in line]
    assert 3 <= len(found) <= 5
    assert all(line.endswith("connection refused") for line in found), found
