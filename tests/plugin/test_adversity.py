"""A plugin whose host or network misbehaves: it leaves nothing behind, and it does not give up."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from functools import partial

import httpx
import pytest
import trio

from cpg_trio._cell import Cell
from cpg_trio.asgi import App, Receive, Scope, Send, no_websocket, send_response, send_text
from cpg_trio.host import Host, HostConfig, LeaseConfig
from cpg_trio.plugin import Plugin, PluginConfig, RefusedError, _runtime
from cpg_trio.plugin._handshake import CALL_TIMEOUT_S
from cpg_trio.plugin._session import Session
from cpg_trio.rpc import Code, ConnectError
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.http.apps import served
from tests.plugin.running import (
    DEGRADED,
    HEALTHY,
    echo_plugin,
    eventually,
    hosting,
    is_healthy,
    meddled,
    plugged,
    state_of,
    until,
    unused_port,
)
from tests.plugin.signing import from_host
from tests.plugin.test_control import SET_IDENTITY, adopt, post
from tests.rpc.echo import Echo


def two_services() -> Plugin:
    plugin = Plugin("two", version="1.0.0")
    plugin.provide("a", Echo())
    plugin.provide("b", Echo())
    return plugin


async def error(send: Send, status: int, code: str) -> bool:
    body = json.dumps({"code": code, "message": "meddled with"}).encode()
    await send_response(send, status, body, [(b"content-type", b"application/json")])
    return True


@pytest.mark.parametrize("path", ["ReportHealth", "UnregisterService"])
async def test_one_word_of_leave_that_is_lost_does_not_lose_the_others(path: str) -> None:
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


async def test_that_the_host_hears_nothing_of_a_leave_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
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


async def test_a_registration_that_is_under_way_when_a_stop_begins_is_taken_back() -> None:
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


async def test_a_plugin_that_is_refused_half_way_takes_back_the_other_half() -> None:
    async def refuse_b(scope: Scope, receive: Receive, send: Send) -> bool:
        if scope["path"].endswith("RegisterService") and host.registry.service_types() == ["a"]:
            return await error(send, 403, "permission_denied")
        return False

    async with meddled(refuse_b) as (host, url):
        with pytest.raises(RefusedError, match="cannot register b"):
            await two_services().serve(config=PluginConfig(host_url=url, hostname="127.0.0.1"))
        assert host.registry.service_types() == []


async def test_a_name_that_is_not_known_yet_is_no_refusal() -> None:
    tries = Cell(0)

    async def not_yet(scope: Scope, _receive: Receive, send: Send) -> bool:
        if scope["path"].endswith("RegisterService") and tries.value < 2:
            tries.set(tries.value + 1)
            return await error(send, 503, "unavailable")
        return False

    async with meddled(not_yet) as (host, url), plugged(echo_plugin(), url):
        await until(host, lambda: is_healthy(host, "echo"))
    assert tries.value == 2


@pytest.mark.parametrize(
    "body",
    [
        {"runtimeId": "x-0", "runtimeToken": "t", "hostUrl": "garbage://x"},
        {"runtimeId": "x-0", "runtimeToken": "t", "hostUrl": "http://"},
        {"runtimeId": "x-é", "runtimeToken": "t"},
        {"runtimeId": "x-0", "runtimeToken": "t\n"},
        {"runtimeId": "x-0"},
        {"runtimeToken": "t"},
    ],
)
async def test_an_identity_that_cannot_be_one_is_refused_and_the_plugin_waits_on(
    body: dict[str, object],
) -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), None) as plugin_url:
        status, answer = await post(plugin_url, SET_IDENTITY, body)
        assert (status, answer["code"]) == (400, "invalid_argument")
        await adopt(host, url, plugin_url)
        await until(host, lambda: is_healthy(host, "echo"))


async def test_a_managing_host_that_will_not_have_the_plugin_does_not_end_it() -> None:
    async def refuse(scope: Scope, _receive: Receive, send: Send) -> bool:
        return scope["path"].endswith("RegisterService") and await error(send, 403, "permission_denied")

    async with (
        meddled(refuse) as (wrong, wrong_url),
        hosting() as (right, right_url),
        plugged(echo_plugin(), None) as plugin_url,
    ):
        await adopt(wrong, wrong_url, plugin_url)
        with trio.fail_after(10):
            while True:
                identity, token = right.identities.issue("echo-plugin")
                taken: dict[str, object] = {
                    "runtimeId": identity.runtime_id,
                    "runtimeToken": token,
                    "hostUrl": right_url,
                }
                if (await post(plugin_url, SET_IDENTITY, taken))[0] == 200:
                    break
        await until(right, lambda: is_healthy(right, "echo"))


async def test_a_second_identity_replaces_the_first() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), None) as plugin_url:
        await adopt(host, url, plugin_url)
        await until(host, lambda: is_healthy(host, "echo"))
        first = host.registry.discover("echo")[0].runtime_id
        identity, token = host.identities.issue("echo-plugin")
        proof = from_host(host, first, SET_IDENTITY)
        given: dict[str, object] = {"runtimeId": identity.runtime_id, "runtimeToken": token, "hostUrl": url}
        assert (await post(plugin_url, SET_IDENTITY, given, **proof))[0] == 200
        await until(host, lambda: host.registry.registrations(identity.runtime_id))


def frames(*messages: tuple[int, bytes]) -> bytes:
    return b"".join(bytes([flags]) + len(content).to_bytes(4, "big") + content for flags, content in messages)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0",
        frames((0, b"\xff\xff")),
        frames((2, b"[" * 20_000)),
        frames((2, b'{"error": {"code": "internal", "details": [{"type": "a", "value": "\xc3\xa9"}]}}')),
        # an available provider of version "v1"
        frames((0, b"\x0a\x04echo\x10\x01\x1a\x0e\x0a\x03p-1\x12\x02v1\x1a\x03/x/")),
    ],
)
async def test_garbage_on_a_watch_stream_does_not_end_a_plugin(answer: bytes) -> None:
    watches = Cell(0)

    async def garbage(scope: Scope, receive: Receive, send: Send) -> bool:
        if scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
            return True
        if not scope["path"].endswith("WatchService"):
            return False
        watches.set(watches.value + 1)
        await send_response(send, 200, answer, [(b"content-type", b"application/connect+proto")])
        return True

    plugin = echo_plugin("needy", "needs")
    dependency = plugin.require("echo", min_version="1.0.0")
    async with meddled(garbage) as (host, url), plugged(plugin, url):
        await until(host, lambda: state_of(host, "needs") == DEGRADED)
        with trio.fail_after(20):
            async for count in watches.reader():
                if count >= 3:
                    break
        assert not dependency.available
        assert state_of(host, "needs") == DEGRADED


async def test_a_host_that_is_replaced_is_noticed_by_the_watch_and_not_only_by_the_heartbeat() -> None:
    plugin = echo_plugin("needy", "needs")
    plugin.require("echo")
    old, new = Host(), Host()
    async with old.application() as old_app, new.application() as new_app:
        current = [old_app]

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            await current[0](scope, receive, send)

        async with served(dispatch) as url, plugged(plugin, url, heartbeat_s=3600.0):
            await until(old, lambda: state_of(old, "needs") == DEGRADED)
            await eventually(lambda: old.watches.watchers("echo"))
            current[0] = new_app
            old.watches.close()
            await until(new, lambda: state_of(new, "needs") == DEGRADED)


async def test_a_heartbeat_that_hangs_is_given_up_when_the_next_is_due() -> None:
    hung: list[str] = []

    async def hang_once(scope: Scope, receive: Receive, _send: Send) -> bool:
        if hung or not scope["path"].endswith("ReportHealth"):
            return False
        hung.append(scope["path"])
        while (await receive())["type"] != "http.disconnect":
            pass
        return True

    async with meddled(hang_once) as (host, url), plugged(echo_plugin(), url, heartbeat_s=0.2):
        with trio.fail_after(CALL_TIMEOUT_S - 1):
            await until(host, lambda: is_healthy(host, "echo"))


async def test_a_call_with_an_identity_that_has_ended_is_unavailable_and_gets_the_plugin_a_new_one() -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    async with hosting() as (host, url), plugged(echo_plugin(), url):
        async with plugged(caller, url, heartbeat_s=3600.0):
            provider = await echo.wait_available()
            host.identities.revoke(provider.session.runtime_id)
            with pytest.raises(ConnectError) as caught:
                await client.echo(EchoRequest())
            assert caught.value.code == Code.UNAVAILABLE
            with trio.fail_after(10):
                async for now in echo.changes.reader():
                    if now is not None and now.session != provider.session:
                        break
            assert (await client.echo(EchoRequest(text="again"))).text == "again"
        assert not echo.available
        with pytest.raises(ConnectError, match="no provider"):
            await client.echo(EchoRequest())


async def test_whoever_runs_a_plugin_may_cut_the_hosts_grace_short() -> None:
    plugin, stop = echo_plugin(), trio.Event()
    with trio.fail_after(10):
        async with hosting() as (host, url), httpx.AsyncClient() as http, trio.open_nursery() as nursery:
            config = PluginConfig(host_url=url, hostname="127.0.0.1", grace_s=0.1)
            (plugin_url,) = await nursery.start(partial(plugin.serve, stop, config=config))
            await until(host, lambda: is_healthy(host, "echo"))

            async def call() -> None:
                with pytest.raises(ConnectError):
                    await EchoServiceClient(plugin_url, http).echo(EchoRequest(text="hang"))

            nursery.start_soon(call)
            await host.shut_down_plugin(host.registry.discover("echo")[0].runtime_id, grace_s=3600)
            await until(host, lambda: not host.registry.available("echo"))
            stop.set()


async def test_a_plugin_that_is_killed_and_comes_back_on_its_port_is_there_once_and_asked_as_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The host asks the first one how it is, at an address where the second one answers by now.
    short = HostConfig(leases=LeaseConfig(lease_s=0.5))
    async with hosting(short) as (host, host_url), trio.open_nursery() as nursery:
        config = PluginConfig(
            bind=f"127.0.0.1:{unused_port()}", host_url=host_url, hostname="127.0.0.1", heartbeat_s=None
        )

        def there() -> list[str]:
            return [provider.runtime_id for provider in host.registry.providers("echo")]

        async with trio.open_nursery() as killed:
            killed.start_soon(partial(echo_plugin().serve, config=config))
            await until(host, lambda: is_healthy(host, "echo"))
            (first,) = there()
            killed.cancel_scope.cancel()
        nursery.start_soon(partial(echo_plugin().serve, config=config))
        await until(host, lambda: len(there()) == 2)
        await until(host, lambda: len(there()) == 1)
        assert there() != [first]
        assert "refused a call" not in caplog.text
        nursery.cancel_scope.cancel()


async def test_a_host_that_forgets_a_plugin_each_time_is_asked_less_and_less_often() -> None:
    handshakes: list[str] = []

    async def forget(scope: Scope, _receive: Receive, send: Send) -> bool:
        if scope["path"].endswith("Handshake"):
            handshakes.append(scope["path"])
        return scope["path"].endswith("ReportHealth") and await error(send, 401, "unauthenticated")

    host = Host(HostConfig(leases=LeaseConfig(lease_s=0.3)))
    async with meddled(forget, host) as (_, url), plugged(echo_plugin(), url):
        await eventually(lambda: len(handshakes) >= 2)
        await trio.sleep(1)
        assert len(handshakes) <= 9


@pytest.mark.parametrize("said", ["", "0", "-1", "1.5", "x", "²", "٣", "9" * 5000])
def test_a_time_that_makes_no_sense_is_the_usual_one(said: str) -> None:
    session = Session("http://host.test", "a-1", "token", None)  # type: ignore[arg-type]
    session.apply({"heartbeat_interval_ms": said, "lease_ms": said, "token_ttl_ms": said})
    assert (session.heartbeat_s, session.lease_s, session.token_ttl_s) == (5.0, 15.0, math.inf)


async def test_a_plugin_with_many_calls_in_flight_still_tells_its_host_that_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_runtime, "_MAX_PER_ORIGIN", 6)
    needy = Plugin("needy", version="1.0.0")
    needy.provide("needy", Echo())
    client = needy.require("echo").client(EchoServiceClient)
    config = HostConfig(leases=LeaseConfig(lease_s=0.6))

    async def call() -> None:
        with suppress(ConnectError):
            await client.echo(EchoRequest(text="hang"))

    async with (
        hosting(config) as (host, url),
        plugged(echo_plugin(), url, heartbeat_s=0.2),
        plugged(needy, url, heartbeat_s=0.2) as needy_url,
        httpx.AsyncClient() as http,
        trio.open_nursery() as calls,
    ):
        await until(host, lambda: is_healthy(host, "needy"))
        for _ in range(12):
            calls.start_soon(call)
        await eventually(lambda: host.statistics().router.in_flight >= 3)
        await trio.sleep(3 * 0.6)
        assert (await http.get(f"{needy_url}/readyz")).status_code == 200
        calls.cancel_scope.cancel()
