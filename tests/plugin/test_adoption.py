"""Managed plugins: without a HOST_URL, a plugin gets its identity from a host that calls it."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from cpg_trio.asgi import Receive, Scope, Send
from tests.plugin.controlling import SET_IDENTITY, adopt, post
from tests.plugin.running import (
    HEALTHY,
    echo_plugin,
    error,
    hosting,
    is_healthy,
    lines,
    meddled,
    plugged,
    state_of,
    until,
)
from tests.plugin.signing import from_host


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


async def test_a_managing_host_that_refuses_the_plugin_does_not_end_it(virtual_time: MockClock) -> None:
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


async def test_a_second_identity_replaces_the_first(virtual_time: MockClock) -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), None) as plugin_url:
        await adopt(host, url, plugin_url)
        await until(host, lambda: is_healthy(host, "echo"))
        first = host.registry.discover("echo")[0].runtime_id
        identity, token = host.identities.issue("echo-plugin")
        proof = from_host(host, first, SET_IDENTITY)
        given: dict[str, object] = {"runtimeId": identity.runtime_id, "runtimeToken": token, "hostUrl": url}
        assert (await post(plugin_url, SET_IDENTITY, given, **proof))[0] == 200
        await until(host, lambda: host.registry.registrations(identity.runtime_id))


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


async def test_a_managed_plugin_that_its_host_has_forgotten_waits_for_another(
    virtual_time: MockClock,
) -> None:
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


async def test_a_plugin_without_a_host_url_logs_now_and_then_that_it_waits_to_be_called(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    async with plugged(echo_plugin(), None) as url:
        await trio.sleep(100)
        found = f"echo-plugin has no HOST_URL, and waits for a managing host to call it on {url}"
        assert lines(caplog, "cpg_trio.plugin").count(found) == 4
