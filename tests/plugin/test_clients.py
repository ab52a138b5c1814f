"""What a client without a host gets of a plugin, where that is switched on: a handshake, and its health.

The requests are those of a Go client, as observed.
"""

from __future__ import annotations

import json

import httpx
import pytest
import trio

from cpg_trio.plugin import HealthState, Plugin
from cpg_trio.protos.connectplugin.health.v1 import health_pb2
from cpg_trio.protos.connectplugin.health.v1.health_trio import HealthServiceClient
from cpg_trio.rpc import Code, ConnectError
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.calls import CHECK, COOKIE, HANDSHAKE, VERSIONS
from tests.plugin.controlling import INFO, post
from tests.plugin.running import echo_plugin, plugged
from tests.rpc.echo import Echo

ASKED: dict[str, object] = {**COOKIE, **VERSIONS, "clientMetadata": {"client_version": "0.1.0"}}
SERVING = {"status": "SERVING_STATUS_SERVING"}
KV = "echo.v1.EchoService"


def two() -> Plugin:
    plugin = echo_plugin(public=True)
    plugin.provide("private", Echo(), version="2.0.0")
    return plugin


async def test_a_client_with_the_cookie_learns_which_of_the_services_that_it_asks_for_there_are() -> None:
    async with plugged(two(), None, handshake_clients=True) as url:
        status, answer = await post(url, HANDSHAKE, {**ASKED, "requestedPlugins": ["echo", "kv", "echo"]})
        assert status == 200
        assert (answer["coreProtocolVersion"], answer["appProtocolVersion"]) == (1, 1)
        path = f"/{KV}/"
        provided = {"type": "echo", "version": "1.0.0", "path": path}
        assert answer["plugins"] == [
            {"name": "echo", "version": "1.0.0", "servicePath": path, "provides": [provided]}
        ]
        assert "plugins" not in (await post(url, HANDSHAKE, ASKED))[1]


async def test_the_cookie_gives_no_identity_and_opens_no_service_that_is_not_public() -> None:
    async with httpx.AsyncClient() as http:
        async with plugged(echo_plugin(public=True), None, handshake_clients=True) as url:
            _, answer = await post(url, HANDSHAKE, {**ASKED, "selfId": "a-client", "selfVersion": "1.0.0"})
            assert not answer.keys() & {"runtimeId", "runtimeToken", "hostCapabilities"}
            assert (await EchoServiceClient(url, http).echo(EchoRequest(text="public"))).text == "public"
        async with plugged(echo_plugin(), None, handshake_clients=True) as url:
            await post(url, HANDSHAKE, ASKED)
            with pytest.raises(ConnectError) as caught:
                await EchoServiceClient(url, http).echo(EchoRequest())
            assert caught.value.code == Code.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        ({"magicCookieValue": "another"}, "invalid_argument", "invalid magic cookie"),
        ({"coreProtocolVersion": 2}, "invalid_argument", "unsupported core protocol version: 2"),
        ({"appProtocolVersion": 2}, "failed_precondition", "version mismatch: client=2, server=1"),
        ({"requestedPlugins": ["a"] * 101}, "invalid_argument", "too many requested plugins"),
    ],
)
async def test_a_handshake_that_breaks_a_rule_is_refused_as_by_a_host(
    changed: dict[str, object], code: str, message: str
) -> None:
    async with plugged(two(), None, handshake_clients=True) as url:
        _, answer = await post(url, HANDSHAKE, {**ASKED, **changed})
    assert answer["code"] == code
    assert message in str(answer["message"])


async def test_the_health_of_a_plugin_and_of_its_services_is_told() -> None:
    plugin = two()
    async with plugged(plugin, None, handshake_clients=True) as url:
        assert await post(url, CHECK, {}) == (200, SERVING)
        assert await post(url, CHECK, {"service": "private"}) == (200, SERVING)
        status, answer = await post(url, CHECK, {"service": "kv"})
        assert (status, answer["message"]) == (404, "unknown service: kv")
        plugin.set_health(HealthState.UNHEALTHY, "full")
        await trio.testing.wait_all_tasks_blocked()
        assert await post(url, CHECK, {}) == (200, {"status": "SERVING_STATUS_NOT_SERVING"})


async def test_a_watch_of_health_tells_of_changes_and_ends_when_the_plugin_begins_to_stop() -> None:
    plugin, stop = two(), trio.Event()
    async with plugged(plugin, None, stop=stop, handshake_clients=True) as url, httpx.AsyncClient() as http:
        watch = HealthServiceClient(url, http).watch(health_pb2.HealthCheckRequest(service="echo"))
        with trio.fail_after(5):
            async with watch as stream:
                answers = aiter(stream)
                assert (await anext(answers)).status == health_pb2.SERVING_STATUS_SERVING
                plugin.set_health(HealthState.UNHEALTHY)
                assert (await anext(answers)).status == health_pb2.SERVING_STATUS_NOT_SERVING
                plugin.set_health(HealthState.HEALTHY)
                assert (await anext(answers)).status == health_pb2.SERVING_STATUS_SERVING
                stop.set()
                assert [each.status async for each in answers] == [health_pb2.SERVING_STATUS_NOT_SERVING]


async def test_watches_of_health_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpg_trio.plugin._clients._MOST_WATCHES", 1)
    async with plugged(two(), None, handshake_clients=True) as url, httpx.AsyncClient() as http:
        client = HealthServiceClient(url, http)
        for _ in range(2):  # the place is free again after the first
            async with client.watch(health_pb2.HealthCheckRequest()) as first:
                await anext(aiter(first))
                with pytest.raises(ConnectError, match="watches already"):
                    async with client.watch(health_pb2.HealthCheckRequest()) as second:
                        await anext(aiter(second))


async def test_without_the_setting_there_is_no_handshake_with_a_plugin() -> None:
    async with plugged(two(), None) as url:
        for path in (HANDSHAKE, CHECK):
            async with httpx.AsyncClient() as http:
                answer = await http.post(url + path, json=ASKED)
            assert answer.status_code == 404


async def test_the_control_services_stay_closed_to_such_a_client() -> None:
    token = "0123456789abcdef"
    async with plugged(two(), None, handshake_clients=True, enrolment_token=token) as url:
        await post(url, HANDSHAKE, ASKED)
        status, answer = await post(url, INFO, {})
    assert (status, answer["code"]) == (401, "unauthenticated"), json.dumps(answer)
