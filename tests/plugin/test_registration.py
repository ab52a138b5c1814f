"""A plugin registers its services, once each, and takes back what it has registered."""

from __future__ import annotations

import logging
import socket
from functools import partial
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cpg_trio import HealthState
from cpg_trio.asgi import App, Receive, Scope, Send, send_text
from cpg_trio.host import Host
from cpg_trio.host.directory import endpoint_validation, unix_sockets
from cpg_trio.host.directory.registration import Change
from cpg_trio.plugin import PluginConfig, RefusedError
from cpg_trio.plugin._session import REGISTER_TIMEOUT_S
from tests.host.calls import REGISTER
from tests.http.apps import served
from tests.names import Names
from tests.plain_host import plain_host
from tests.plugin.running import (
    HEALTHY,
    echo_plugin,
    error,
    eventually,
    hosting,
    is_healthy,
    lines,
    meddled,
    plugged,
    provides,
    state_of,
    two_services,
    until,
    unused_port,
)

ELSEWHERE = "192.0.2.9"


async def test_a_registration_that_is_under_way_when_a_stop_begins_is_taken_back(
    virtual_time: MockClock,
) -> None:
    registered, go_on = trio.Event(), trio.Event()

    async def hold_back(scope: Scope, receive: Receive, send: Send) -> bool:
        if not scope["path"].endswith("RegisterService") or registered.is_set():
            return False
        messages: list[dict[str, object]] = []

        async def collect(message: dict[str, object]) -> None:
            messages.append(message)

        await apps[0](scope, receive, collect)  # type: ignore[arg-type]
        registered.set()
        await go_on.wait()
        for message in messages:
            await send(message)
        return True

    apps: list[App] = []
    host = Host()
    async with host.application() as app:
        apps.append(app)

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            if not await hold_back(scope, receive, send):
                await app(scope, receive, send)

        async with served(dispatch) as url:
            async with plugged(two_services(), url):
                await registered.wait()
                assert host.registry.service_types() == ["a"]
                trio.lowlevel.spawn_system_task(_later, go_on)
            assert host.registry.service_types() == []


async def _later(event: trio.Event) -> None:
    await trio.sleep(0.05)
    event.set()


async def test_a_plugin_that_is_refused_half_way_takes_back_the_other_half(virtual_time: MockClock) -> None:
    async def refuse_b(scope: Scope, receive: Receive, send: Send) -> bool:
        if scope["path"].endswith("RegisterService") and host.registry.service_types() == ["a"]:
            return await error(send, 403, "permission_denied")
        return False

    async with meddled(refuse_b) as (host, url):
        with pytest.raises(RefusedError, match="cannot register b"):
            await two_services().serve(config=PluginConfig(host_url=url, hostname="127.0.0.1"))
        assert host.registry.service_types() == []


async def test_a_plugin_listens_before_it_registers_and_registers_before_it_is_healthy() -> None:
    seen: list[tuple[bool, HealthState | None]] = []

    def look(change: Change) -> None:
        provider = change.registration
        where = urlsplit(provider.base_url)
        with socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=5):
            seen.append((True, host.registry.health(provider.runtime_id).state))

    async with hosting() as (host, url):
        host.registry.changes.add(look)
        async with plugged(echo_plugin(), url):
            await until(host, lambda: state_of(host, "echo") == HEALTHY)
            assert seen == [(True, None), (True, HEALTHY)]


async def test_its_base_url_is_made_of_its_host_name_and_port() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url) as plugin_url:
        await until(host, lambda: host.registry.available("echo"))
        registration, _ = host.registry.discover("echo")
        assert registration.base_url == plugin_url
        assert registration.endpoint_path == "/echo.v1.EchoService/"


async def test_a_plugin_whose_name_resolves_elsewhere_registers_once_it_resolves_to_it(
    virtual_time: MockClock, caplog: pytest.LogCaptureFixture, names: Names
) -> None:
    names.known["moved.test"] = [ELSEWHERE]
    async with hosting() as (host, url), plugged(echo_plugin(), url, hostname="moved.test"):
        await eventually(lambda: len(names.asked) >= 3)
        names.known["moved.test"] = ["127.0.0.1"]
        await until(host, lambda: is_healthy(host, "echo"))
    told = [line for line in caplog.messages if "cannot register echo yet, and tries on: base_url" in line]
    assert len(told) == 1


async def test_a_plugin_whose_service_another_provides_registers_when_that_has_gone(
    virtual_time: MockClock,
) -> None:
    async with hosting() as (host, url), trio.open_nursery() as nursery:
        stop = trio.Event()
        async with plugged(echo_plugin("old"), url):
            await until(host, lambda: is_healthy(host, "echo"))
            config = PluginConfig(host_url=url, hostname="127.0.0.1")
            await nursery.start(partial(echo_plugin("new").serve, stop, config=config))
            await eventually(lambda: len(host.identities) == 2)
        await until(
            host, lambda: [p.runtime_id.startswith("new-") for p in host.registry.providers("echo")] == [True]
        )
        stop.set()


async def test_an_address_that_is_not_the_plugins_own_ends_it_with_the_reason() -> None:
    async with hosting() as (_, url):
        with pytest.raises(RefusedError, match=f"base_url http://{ELSEWHERE}"):
            await echo_plugin().serve(config=PluginConfig(host_url=url, hostname=ELSEWHERE))


async def test_a_registration_may_take_as_long_as_its_host_needs(virtual_time: MockClock) -> None:
    assert REGISTER_TIMEOUT_S > 2 * endpoint_validation._RESOLVE_S + unix_sockets._ASK_S
    asked: list[str] = []

    async def slow(scope: Scope, _receive: Receive, _send: Send) -> bool:
        if scope["path"] == REGISTER:
            asked.append(scope["path"])
            await trio.sleep(2.2)
        return False

    async with meddled(slow) as (host, url), plugged(echo_plugin(), url):
        await until(host, lambda: is_healthy(host, "echo"))
    assert len(asked) == 1


async def test_a_stop_during_a_registration_that_hangs_is_prompt(virtual_time: MockClock) -> None:
    stop, hangs = trio.Event(), trio.Event()

    async def hang(scope: Scope, receive: Receive, _send: Send) -> bool:
        if scope["path"] != REGISTER:
            return False
        hangs.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        return True

    with trio.fail_after(REGISTER_TIMEOUT_S - 2):
        async with meddled(hang) as (_, url), plugged(echo_plugin(), url, stop=stop):
            await hangs.wait()
            stop.set()


async def test_a_host_logs_each_registration_and_its_end_as_a_registered_service(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with hosting() as (host, url):
        async with plugged(echo_plugin(), url):
            await until(host, lambda: host.registry.available("echo"))
            plugin = host.registry.discover("echo")[0].runtime_id
        await until(host, lambda: not host.registry.available("echo"))
    assert f"Registered service: echo v1.0.0 of {plugin}" in lines(caplog, "cpg_trio.host")
    assert f"Unregistered service: echo of {plugin}" in lines(caplog, "cpg_trio.host")


async def test_a_plugin_whose_token_has_expired_is_registered_once_again_and_never_not_at_all(
    virtual_time: MockClock,
) -> None:
    counts: list[int] = []

    async def count() -> None:
        async for _ in host.changes.reader():
            counts.append(len(host.registered))

    async with plain_host() as (host, url), plugged(echo_plugin(), url, heartbeat_s=0.1):
        await eventually(lambda: provides(host, "echo"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            host.tokens.clear()
            await eventually(lambda: provides(host, "echo"))
            await eventually(lambda: len(host.registered) == 1)
            nursery.cancel_scope.cancel()
    assert 0 not in counts


# Leaving


@pytest.mark.parametrize("path", ["ReportHealth", "UnregisterService"])
async def test_one_lost_call_of_leaving_does_not_lose_the_others(virtual_time: MockClock, path: str) -> None:
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


async def test_a_leave_that_does_not_reach_the_host_is_logged_once(
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
