"""A plugin runs, loses its host, is killed, and stops with a grace period."""

from __future__ import annotations

from functools import partial

import httpx
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.host import Host, HostConfig, LeaseConfig
from cpg_trio.plugin import Plugin, PluginConfig
from cpg_trio.rpc import Code, ConnectError
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import (
    HEALTHY,
    echo_plugin,
    error,
    eventually,
    hosting,
    is_healthy,
    meddled,
    plugged,
    state_of,
    until,
    unused_port,
)
from tests.rpc.echo import Echo

SHORT = LeaseConfig(heartbeat_s=0.05, lease_s=0.3, probe_timeout_s=0.1)


async def test_a_local_stop_shortens_the_grace_period_of_the_host() -> None:
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
    virtual_time: MockClock, caplog: pytest.LogCaptureFixture
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


async def test_a_host_that_forgets_a_plugin_each_time_is_asked_less_and_less_often(
    virtual_time: MockClock,
) -> None:
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


async def test_a_plugin_whose_host_has_forgotten_it_registers_anew(virtual_time: MockClock) -> None:
    port = unused_port()
    plugin = echo_plugin()
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        config = PluginConfig(host_url=f"http://127.0.0.1:{port}", hostname="127.0.0.1", heartbeat_s=0.05)
        await nursery.start(partial(plugin.serve, stop, config=config))
        names = set()
        for _ in range(3):
            async with hosting(bind=f"127.0.0.1:{port}") as (host, _):
                await until(host, partial(is_healthy, host, "echo"))
                names.add(host.registry.discover("echo")[0].runtime_id)
        assert len(names) == 3
        stop.set()


async def test_a_plugin_that_dies_is_out_of_the_registry_after_two_leases(
    virtual_time: MockClock,
) -> None:
    async with hosting(HostConfig(leases=SHORT)) as (host, url):
        with trio.CancelScope() as death:
            async with plugged(echo_plugin(), url):
                await until(host, lambda: state_of(host, "echo") == HEALTHY)
                assert len(host.registry.registrations(host.registry.discover("echo")[0].runtime_id)) == 1
                death.cancel()
        await until(host, lambda: not host.registry.available("echo"))
        await until(host, lambda: host.registry.service_types() == [])


async def test_calls_in_flight_finish_within_the_grace_that_the_host_gives() -> None:
    class Slow(Echo):
        def __init__(self) -> None:
            super().__init__()
            self.entered, self.release = trio.Event(), trio.Event()

        async def echo(self, request, ctx, /):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            self.entered.set()
            await self.release.wait()
            return await super().echo(request, ctx)

    slow, plugin, answers = Slow(), Plugin("slow", version="1.0.0"), list[str]()
    plugin.provide("slow", slow, public=True)
    async with hosting() as (host, url), httpx.AsyncClient() as http, trio.open_nursery() as nursery:
        (plugin_url,) = await nursery.start(
            partial(plugin.serve, config=PluginConfig(host_url=url, hostname="127.0.0.1", grace_s=0.0))
        )
        await until(host, lambda: state_of(host, "slow") == HEALTHY)

        async def call() -> None:
            answers.append((await EchoServiceClient(plugin_url, http).echo(EchoRequest(text="done"))).text)

        nursery.start_soon(call)
        await slow.entered.wait()
        await host.shut_down_plugin(
            host.registry.discover("slow")[0].runtime_id, grace_s=20, reason="replaced"
        )
        await until(host, lambda: not host.registry.available("slow"))
        slow.release.set()
    assert answers == ["done"]


async def test_calls_in_flight_end_when_the_grace_is_over() -> None:
    plugin = echo_plugin(public=True)
    with trio.fail_after(10):
        async with hosting() as (host, url), httpx.AsyncClient() as http, trio.open_nursery() as nursery:
            config = PluginConfig(host_url=url, hostname="127.0.0.1")
            (plugin_url,) = await nursery.start(partial(plugin.serve, config=config))
            await until(host, lambda: state_of(host, "echo") == HEALTHY)

            async def call() -> None:
                with pytest.raises(ConnectError) as caught:
                    await EchoServiceClient(plugin_url, http).echo(EchoRequest(text="hang"))
                assert caught.value.code in {Code.UNAVAILABLE, Code.CANCELED}

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await host.shut_down_plugin(host.registry.discover("echo")[0].runtime_id, grace_s=0)
