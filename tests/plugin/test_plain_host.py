"""Plugins on a host that knows nothing but the wire protocol."""

from __future__ import annotations

import trio

from cpg_trio.plugin import Plugin
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plain_host import PlainHost, plain_host
from tests.plugin.running import echo_plugin, eventually, plugged


async def test_calls_reach_a_provider_through_a_host_that_knows_only_bare_methods() -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    async with (
        plain_host() as (_, url),
        plugged(caller, url),
        plugged(echo_plugin(), url, accept_unsigned=True),
    ):
        with trio.fail_after(20):
            await echo.wait_available()
        assert (await client.echo(EchoRequest(text="x"))).text == "x"
        async with client.count(CountRequest(to=2)) as stream:
            assert [message.number async for message in stream] == [0, 1]


def provides(host: PlainHost, service_type: str) -> bool:
    found = host.provider(service_type)
    return found is not None and found[0] in host.tokens


async def test_a_plugin_comes_back_to_a_host_that_has_restarted_and_takes_any_heartbeat() -> None:
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
            async for now in echo.changes.reader():
                if now is not None and now.runtime_id != before.runtime_id:
                    break
        assert (await echo.client(EchoServiceClient).echo(EchoRequest(text="x"))).text == "x"


async def test_a_plugin_whose_token_has_expired_is_registered_once_again_and_never_not_at_all() -> None:
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


async def test_a_stream_that_always_ends_at_once_is_opened_less_and_less_often() -> None:
    caller = Plugin("caller", version="1.0.0")
    caller.require("echo")
    async with plain_host() as (host, url):
        host.ends_streams = True
        async with plugged(caller, url):
            await eventually(lambda: host.watches >= 2)
            await trio.sleep(1)
            assert host.watches <= 8
