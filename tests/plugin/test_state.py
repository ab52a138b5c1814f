"""The probes: started, alive, ready."""

from __future__ import annotations

import httpx
import trio
import trio.testing
from trio.testing import MockClock

from cpg_trio import HealthState
from cpg_trio.asgi import Receive, Scope, Send, send_text
from cpg_trio.host import HostConfig, LeaseConfig
from tests.plugin.running import (
    echo_plugin,
    hosting,
    is_healthy,
    meddled,
    plugged,
    until,
    unused_port,
)

PROBES = ("/health", "/healthz", "/readyz")


async def _until_probes_answer(http: httpx.AsyncClient, *expected: tuple[int, str]) -> None:
    """Wait until the probes say something: only the plugin itself can tell what it knows."""
    seen: list[tuple[int, str]] = []
    with trio.move_on_after(20):
        while seen != [*expected]:
            await trio.sleep(0.02)
            answers = [await http.get(path) for path in PROBES]
            seen = [(answer.status_code, answer.text) for answer in answers]
    assert seen == [*expected]


async def test_the_probes_tell_whether_it_has_started_is_alive_and_has_a_fresh_lease(
    virtual_time: MockClock,
) -> None:
    port = unused_port()
    short = HostConfig(leases=LeaseConfig(lease_s=0.3))
    no_handshake = (503, "not ready: no handshake with a host yet")
    async with (
        plugged(echo_plugin(), f"http://127.0.0.1:{port}", heartbeat_s=None) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        await _until_probes_answer(http, no_handshake, (200, "ok"), no_handshake)
        async with hosting(short, bind=f"127.0.0.1:{port}"):
            await _until_probes_answer(http, (200, "OK"), (200, "ok"), (200, "ready"))
        stale = (503, "not ready: no heartbeat has reached the host in the last 0.3 s")
        await _until_probes_answer(http, (200, "OK"), (200, "ok"), stale)
        async with hosting(short, bind=f"127.0.0.1:{port}"):
            await _until_probes_answer(http, (200, "OK"), (200, "ok"), (200, "ready"))


async def test_a_plugin_is_not_ready_before_a_health_report_has_reached_its_host(
    virtual_time: MockClock,
) -> None:
    async def no_reports(scope: Scope, _receive: Receive, send: Send) -> bool:
        if silent := str(scope["path"]).endswith("/ReportHealth"):
            await send_text(send, 503, "not now")
        return silent

    async with (
        meddled(no_reports) as (host, host_url),
        plugged(echo_plugin(), host_url) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        await until(host, lambda: host.registry.providers("echo"))
        unheard = (503, "not ready: no heartbeat has reached the host in the last 15 s")
        await _until_probes_answer(http, (200, "OK"), (200, "ok"), unheard)


async def test_a_plugin_that_says_that_it_is_unhealthy_is_alive_and_not_ready() -> None:
    plugin = echo_plugin()
    async with (
        hosting() as (_, host_url),
        plugged(plugin, host_url) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        await _until_probes_answer(http, (200, "OK"), (200, "ok"), (200, "ready"))
        plugin.set_health(HealthState.UNHEALTHY, "the disk is full")
        await _until_probes_answer(http, (200, "OK"), (200, "ok"), (503, "not ready: the disk is full"))
        plugin.set_health(HealthState.DEGRADED, "the disk is slow")
        await _until_probes_answer(http, (200, "OK"), (200, "ok"), (200, "ready"))


async def test_a_plugin_that_takes_its_leave_is_alive_and_not_ready() -> None:
    leaving, leave, stop = trio.Event(), trio.Event(), trio.Event()

    async def hold(scope: Scope, _receive: Receive, _send: Send) -> bool:
        if scope["path"].endswith("/UnregisterService"):
            leaving.set()
            await leave.wait()
        return False

    async with meddled(hold) as (host, host_url), plugged(echo_plugin(), host_url, stop=stop) as url:
        await until(host, lambda: is_healthy(host, "echo"))
        stop.set()
        await leaving.wait()
        async with httpx.AsyncClient(base_url=url) as http:
            await _until_probes_answer(http, (200, "OK"), (200, "ok"), (503, "not ready: stopping"))
        leave.set()
