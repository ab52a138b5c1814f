"""A session: the identity of a plugin on a host, its intervals, and when it has ended."""

from __future__ import annotations

import math

import httpx
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cpg_trio.host import HostConfig, Keys
from cpg_trio.http import Pool
from cpg_trio.plugin import Plugin, _session
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._session import Session
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.calls import DISCOVER
from tests.plain_host import plain_host
from tests.plugin.running import (
    HEALTHY,
    echo_plugin,
    eventually,
    hosting,
    plugged,
    provides,
    state_of,
    until,
    unused_port,
)


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "x", "²", "٣", "9" * 5000])
def test_a_time_that_makes_no_sense_is_the_usual_one(value: str) -> None:
    session = Session(Hosts(["http://host.test"], Pool()), "a-1", "token")
    session.apply({"heartbeat_interval_ms": value, "lease_ms": value, "token_ttl_ms": value})
    assert (session.heartbeat_s, session.lease_s, session.token_ttl_s) == (5.0, 15.0, math.inf)


@pytest.mark.parametrize("same_key", [True, False])
async def test_to_a_host_that_has_forgotten_all_a_plugin_comes_back_as_who_it_was_if_it_is_believed(
    virtual_time: MockClock,
    same_key: bool,  # noqa: FBT001
) -> None:
    port, names = unused_port(), []
    keys = Keys(["k" * 32])
    async with plugged(echo_plugin(), f"http://127.0.0.1:{port}", heartbeat_s=0.05):
        for _ in range(2):
            config = HostConfig(keys=keys if same_key else Keys())
            async with hosting(config, bind=f"127.0.0.1:{port}") as (host, _):
                await until(host, lambda: host.registry.available("echo"))
                names.append(host.registry.discover("echo")[0].runtime_id)
    assert (names[0] == names[1]) == same_key


async def test_a_plugin_of_one_host_is_known_to_another_that_has_its_key() -> None:
    config = HostConfig(keys=Keys(["k" * 32]))
    plugin = echo_plugin()
    async with hosting(config) as (host, url), hosting(config) as (_, other), plugged(plugin, url):
        await until(host, lambda: host.registry.available("echo"))
        identity, token = host.identities.issue("caller")
        proof = {"X-Plugin-Runtime-ID": identity.runtime_id, "Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient() as http:
            answer = await http.post(f"{other}{DISCOVER}", json={"serviceType": "echo"}, headers=proof)
    assert answer.json()["code"] == "not_found"  # and not unauthenticated: who asks is known


async def test_an_identity_that_is_revoked_is_replaced_before_anyone_notices(virtual_time: MockClock) -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url, heartbeat_s=0.05):
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        first = host.registry.discover("echo")[0].runtime_id
        await host.revoke_identity(first)
        await until(host, lambda: host.registry.available("echo") and state_of(host, "echo") == HEALTHY)
        assert host.registry.discover("echo")[0].runtime_id != first


@pytest.mark.parametrize(
    ("announced", "seconds"), [("5000", 5.0), ("20", 0.02), ("", 5.0), ("0", 5.0), ("-1", 5.0), ("soon", 5.0)]
)
def test_a_host_that_asks_for_nothing_sensible_gets_the_usual(announced: str, seconds: float) -> None:
    assert _session._seconds(announced, 5.0) == seconds


async def test_a_plugin_comes_back_to_a_host_that_has_restarted_and_takes_any_heartbeat(
    virtual_time: MockClock,
) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    async with (
        plain_host() as (host, url),
        plugged(echo_plugin(), url, heartbeat_s=0.1, accept_unsigned=True),
        plugged(caller, url, heartbeat_s=0.1),
    ):
        with trio.fail_after(20):
            before = await echo.wait_available()
            host.forget()
            await eventually(lambda: provides(host, "echo"))
            async for state in echo.changes():
                if state.available and state.providers[0].id != before.id:
                    break
        assert (await echo.client(EchoServiceClient).echo(EchoRequest(text="x"))).text == "x"
