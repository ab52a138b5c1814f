"""The services for a plugin's host: what they answer, and that they answer nobody else."""

from __future__ import annotations

import pytest

from cpg_trio.assertions import Purpose
from cpg_trio.host import Host
from cpg_trio.plugin import Plugin
from cpg_trio.rpc import Code, ConnectError
from tests.plugin.controlling import GET_HEALTH, INFO, SET_IDENTITY, SHUTDOWN, post
from tests.plugin.running import (
    DEGRADED,
    HEALTHY,
    echo_plugin,
    hosting,
    plugged,
    state_of,
    until,
)
from tests.plugin.signing import digest_of, from_host, signed
from tests.rpc.echo import Echo


async def test_a_host_cannot_stop_what_it_does_not_know() -> None:
    with pytest.raises(ConnectError) as caught:
        await Host().shut_down_plugin("nobody-0")
    assert caught.value.code == Code.NOT_FOUND


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


async def test_a_negative_grace_is_refused() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url) as plugin_url:
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        proof = from_host(host, host.registry.discover("echo")[0].runtime_id, SHUTDOWN)
        status, answer = await post(plugin_url, SHUTDOWN, {"gracePeriodSeconds": -1}, **proof)
        assert (status, answer["code"]) == (400, "invalid_argument")
        assert state_of(host, "echo") == HEALTHY
