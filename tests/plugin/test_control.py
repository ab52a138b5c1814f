"""What a plugin tells and does for its host, and for nobody else."""

from __future__ import annotations

import httpx
import pytest
import trio

from cpg_trio.assertions import Purpose
from cpg_trio.host import Host
from cpg_trio.plugin import Plugin
from tests.plugin.running import DEGRADED, HEALTHY, echo_plugin, hosting, plugged, state_of, until
from tests.plugin.signing import digest_of, from_host, signed
from tests.rpc.echo import Echo

INFO = "/connectplugin.v1.PluginIdentity/GetPluginInfo"
SET_IDENTITY = "/connectplugin.v1.PluginIdentity/SetRuntimeIdentity"
GET_HEALTH = "/connectplugin.v1.PluginControl/GetHealth"
SHUTDOWN = "/connectplugin.v1.PluginControl/Shutdown"


async def post(url: str, path: str, body: dict[str, object], **headers: str) -> tuple[int, dict[str, object]]:
    async with httpx.AsyncClient() as http:
        response = await http.post(url + path, json=body, headers=headers)
        return response.status_code, response.json()


async def test_a_plugin_tells_what_it_is_in_the_shape_of_the_protocol() -> None:
    plugin = Plugin("storage-plugin", version="1.0.0", name="Storage Plugin")
    plugin.provide("storage", Echo())
    plugin.require("logger", min_version="1.0.0")
    async with plugged(plugin, None) as url:
        assert await post(url, INFO, {}) == (
            200,
            {
                "selfId": "storage-plugin",
                "selfVersion": "1.0.0",
                "provides": [{"type": "storage", "version": "1.0.0", "path": "/echo.v1.EchoService/"}],
                "requires": [
                    {
                        "type": "logger",
                        "minVersion": "1.0.0",
                        "requiredForStartup": True,
                        "watchForChanges": True,
                    }
                ],
                "metadata": {"name": "Storage Plugin", "version": "1.0.0", "renews": "true"},
            },
        )


async def test_a_plugin_tells_how_it_is_and_not_always_that_it_is_well() -> None:
    plugin = echo_plugin()
    plugin.require("logger")
    async with hosting() as (host, host_url), plugged(plugin, host_url) as url:
        await until(host, lambda: state_of(host, "echo") == DEGRADED)
        me = host.registry.providers("echo")[0].runtime_id
        assert await post(url, GET_HEALTH, {}, **from_host(host, me, GET_HEALTH)) == (
            200,
            {
                "state": "HEALTH_STATE_DEGRADED",
                "reason": "waiting for logger",
                "unavailableDependencies": ["logger"],
            },
        )


@pytest.mark.parametrize("path", [SHUTDOWN, SET_IDENTITY, GET_HEALTH, INFO])
async def test_a_stranger_gets_nothing_from_a_plugin_and_can_neither_stop_it_nor_point_it_elsewhere(
    path: str,
) -> None:
    body: dict[str, object] = {"runtimeId": "x-0", "runtimeToken": "t", "hostUrl": "http://evil"}
    body = body if path == SET_IDENTITY else {}
    async with hosting() as (host, url), plugged(echo_plugin(), url) as plugin_url:
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        me = host.registry.discover("echo")[0].runtime_id
        digest = digest_of(host, me)
        other, token = host.identities.issue("other")
        of_other = digest_of(host, other.runtime_id)
        another = SHUTDOWN if path != SHUTDOWN else GET_HEALTH
        for authorization in (
            "",
            "Bearer",
            "Bearer x",
            f"Bearer {token}",
            from_host(host, other.runtime_id, path)["authorization"],  # signed for another plugin
            f"Bearer {signed(of_other, Purpose.CONTROL, me, path)}",  # with the token of another
            f"Bearer {signed(digest, Purpose.CONTROL, other.runtime_id, path)}",
            from_host(host, me, another)["authorization"],
            from_host(host, me, path, for_s=-31.0)["authorization"],
            from_host(host, me, path)["authorization"][:-1],
        ):
            status, answer = await post(plugin_url, path, body, authorization=authorization)
            assert (status, answer["code"]) == (401, "unauthenticated"), authorization
        for purpose in (Purpose.CALLER, Purpose.DIRECT, Purpose.ENROL):
            shown = signed(digest, purpose, me, path)
            status, answer = await post(plugin_url, path, body, authorization=f"Bearer {shown}")
            assert (status, answer["code"]) == (401, "unauthenticated")
        assert state_of(host, "echo") == HEALTHY
        if path in {GET_HEALTH, INFO}:
            assert (await post(plugin_url, path, body, **from_host(host, me, path)))[0] == 200


async def test_a_plugin_without_a_host_cannot_be_stopped_by_anyone() -> None:
    async with plugged(echo_plugin(), None) as url:
        assert (await post(url, SHUTDOWN, {}))[0] == 401


async def test_a_plugin_that_looks_for_its_host_itself_takes_no_identity() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url) as plugin_url:
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        proof = from_host(host, host.registry.discover("echo")[0].runtime_id, SET_IDENTITY)
        body: dict[str, object] = {"runtimeId": "x", "runtimeToken": "t"}
        status, answer = await post(plugin_url, SET_IDENTITY, body, **proof)
        assert (status, answer["code"]) == (400, "failed_precondition")


async def test_a_managed_plugin_registers_with_the_identity_that_it_is_given() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), None, heartbeat_s=0.05) as plugin_url:
        await adopt(host, url, plugin_url)
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        first = host.registry.discover("echo")[0].runtime_id
        assert (await post(plugin_url, SET_IDENTITY, {"runtimeId": "x", "runtimeToken": "t"}))[0] == 401
        status, answer = await post(plugin_url, SET_IDENTITY, {}, **from_host(host, first, SET_IDENTITY))
        assert (status, answer["code"]) == (400, "invalid_argument")
        await host.shut_down_plugin(first, grace_s=1)
        await until(host, lambda: not host.registry.available("echo"))


async def adopt(host: Host, host_url: str, plugin_url: str) -> None:
    identity, token = host.identities.issue("echo-plugin")
    body: dict[str, object] = {"runtimeId": identity.runtime_id, "runtimeToken": token, "hostUrl": host_url}
    assert await post(plugin_url, SET_IDENTITY, body) == (200, {"acknowledged": True})


async def test_a_managed_plugin_that_its_host_has_forgotten_waits_for_another() -> None:
    async with plugged(echo_plugin(), None, heartbeat_s=0.05) as plugin_url:
        async with hosting() as (first, url):
            await adopt(first, url, plugin_url)
            await until(first, lambda: state_of(first, "echo") == HEALTHY)
            port = url.rpartition(":")[2]
        async with hosting(bind=f"127.0.0.1:{port}") as (second, url):
            with trio.fail_after(20):
                while True:
                    identity, token = second.identities.issue("echo-plugin")
                    status, _ = await post(
                        plugin_url,
                        SET_IDENTITY,
                        {"runtimeId": identity.runtime_id, "runtimeToken": token, "hostUrl": url},
                    )
                    if status == 200:
                        break
                    await trio.sleep(0.02)
            await until(second, lambda: state_of(second, "echo") == HEALTHY)


async def test_a_negative_grace_is_refused() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url) as plugin_url:
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        proof = from_host(host, host.registry.discover("echo")[0].runtime_id, SHUTDOWN)
        status, answer = await post(plugin_url, SHUTDOWN, {"gracePeriodSeconds": -1}, **proof)
        assert (status, answer["code"]) == (400, "invalid_argument")
        assert state_of(host, "echo") == HEALTHY
