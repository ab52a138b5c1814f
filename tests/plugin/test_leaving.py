"""A plugin leaves its host: it reports that it stops, and takes its registrations back, in a bounded time."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cpg_trio.asgi import Receive, Scope, Send, send_text
from cpg_trio.plugin import PluginConfig
from tests.plugin.running import (
    HEALTHY,
    echo_plugin,
    hosting,
    meddled,
    plugged,
    state_of,
    two_services,
    until,
    unused_port,
)


@pytest.mark.parametrize("path", ["ReportHealth", "UnregisterService"])
async def test_one_word_of_leave_that_is_lost_does_not_lose_the_others(
    virtual_time: MockClock, path: str
) -> None:
    leaving, lost = trio.Event(), list[str]()

    async def lose_one(scope: Scope, _receive: Receive, send: Send) -> bool:
        if leaving.is_set() and not lost and scope["path"].endswith(path):
            lost.append(path)
            await send_text(send, 502, "bad gateway")
            return True
        return False

    async with meddled(lose_one) as (host, url):
        async with plugged(two_services(), url):
            await until(host, lambda: state_of(host, "a") == state_of(host, "b") == HEALTHY)
            leaving.set()
        assert host.registry.service_types() == []


async def test_that_the_host_hears_nothing_of_a_leave_is_told_once(
    virtual_time: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    leaving = trio.Event()

    async def lose_all(_scope: Scope, _receive: Receive, send: Send) -> bool:
        if leaving.is_set():
            await send_text(send, 502, "bad gateway")
        return leaving.is_set()

    caplog.set_level("INFO")
    async with meddled(lose_all) as (host, url), plugged(two_services(), url):
        await until(host, lambda: state_of(host, "a") == state_of(host, "b") == HEALTHY)
        leaving.set()
    assert [message for message in caplog.messages if "leaves without its host" in message] == [
        "two leaves without its host: bad gateway"
    ]


async def test_a_plugin_that_stops_unregisters_and_no_registration_piles_up() -> None:
    async with hosting() as (host, url):
        for _ in range(5):
            async with plugged(echo_plugin(), url):
                await until(host, lambda: state_of(host, "echo") == HEALTHY)
            assert host.registry.service_types() == []


async def test_a_stop_while_the_host_is_away_is_prompt(virtual_time: MockClock) -> None:
    with trio.fail_after(5):
        async with plugged(echo_plugin(), f"http://127.0.0.1:{unused_port()}"):
            await trio.testing.wait_all_tasks_blocked(0.05)


async def test_a_stop_before_the_start_is_prompt(virtual_time: MockClock) -> None:
    stop = trio.Event()
    stop.set()
    with trio.fail_after(5):
        async with hosting() as (host, url), plugged(echo_plugin(), url, stop=stop):
            pass
        assert host.registry.service_types() == []


async def test_a_stop_does_not_wait_for_a_host_that_does_not_answer(virtual_time: MockClock) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass

    stop = trio.Event()
    async with hosting() as (host, url):
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    partial(
                        echo_plugin().serve, stop, config=PluginConfig(host_url=url, hostname="127.0.0.1")
                    )
                )
                await until(host, lambda: state_of(host, "echo") == HEALTHY)
                # the host hangs: its registry answers nobody any more
                host.registry.report_health = lambda *_: trio.lowlevel.current_task()  # type: ignore[method-assign, assignment]
                stop.set()
