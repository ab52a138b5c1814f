"""Plugins of several hosts with one directory: what they notice when one stops, is killed or is cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import BaseUrls, Host, HostConfig, Keys
from cpg_trio.host.cluster import Stand
from cpg_trio.plugin import Dependency, Plugin
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.store import MemoryStore
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.cluster.hosts import LEASES, UNLIMITED, Reached
from tests.plugin.running import echo_plugin, eventually, goes_directly, grant_of, plugged
from tests.rpc.echo import Echo


@attrs.define(eq=False)
class Serving:
    """A host that serves on a socket."""

    host: Host
    url: str
    store: Reached
    scope: trio.CancelScope
    stop: trio.Event
    ended: trio.Event

    async def kill(self) -> None:
        """End it as if its process were killed."""
        self.store.cut = True
        self.scope.cancel()
        await self.ended.wait()

    async def shut_down(self) -> None:
        """Stop it in order."""
        self.stop.set()
        await self.ended.wait()


async def _serve(
    memory: MemoryStore, lapses: trio.Nursery, bind: str, *, task_status: trio.TaskStatus[Serving]
) -> None:
    store, stop, ended = Reached(memory, lapses), trio.Event(), trio.Event()
    config = HostConfig(
        store=store, keys=Keys(["k" * 32]), leases=LEASES, rates=UNLIMITED, base_urls=BaseUrls.ANY
    )
    host = Host(config)
    try:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                url, *_ = await nursery.start(partial(host.serve, stop, bind=bind))
                task_status.started(Serving(host, url, store, scope, stop, ended))
    finally:
        ended.set()


@asynccontextmanager
async def directory(count: int = 3) -> AsyncIterator[list[Serving]]:
    """Run so many hosts with one store."""
    memory = MemoryStore()
    async with open_plain_nursery() as lapses, open_plain_nursery() as nursery:
        serving = [await nursery.start(_serve, memory, lapses, "127.0.0.1:0") for _ in range(count)]
        yield serving
        nursery.cancel_scope.cancel()
        lapses.cancel_scope.cancel()


def urls_of(hosts: list[Serving]) -> str:
    return ",".join(each.url for each in hosts)


def used_by(dependency: Dependency, hosts: list[Serving]) -> Serving:
    """Return the host that a plugin uses."""
    session = dependency._service.link.session
    assert session is not None
    return next(each for each in hosts if each.url == session.host_url)


def needy() -> tuple[Plugin, Dependency]:
    plugin = Plugin("needy", version="1.0.0")
    plugin.provide("needs", Echo())
    return plugin, plugin.require("echo")


@asynccontextmanager
async def calling(
    hosts: list[Serving], *, direct_calls: bool = False
) -> AsyncIterator[tuple[Dependency, list[str]]]:
    """Run a plugin that calls another one all the time; yield how calls have failed."""
    plugin, echo = needy()
    failed: list[str] = []

    async def call() -> None:
        client = echo.client(EchoServiceClient)
        while True:
            try:
                await client.echo(EchoRequest(text="x"), retry=True)
            except ConnectError as error:
                failed.append(error.message)
            await trio.sleep(0.5)

    async with (
        plugged(echo_plugin(), urls_of(hosts), heartbeat_s=None),
        plugged(plugin, urls_of(hosts), heartbeat_s=None, direct_calls=direct_calls),
    ):
        with trio.fail_after(20):
            await echo.wait_available()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            yield echo, failed
            nursery.cancel_scope.cancel()


def _note_gone(host: Host, vanished: list[bool], _: object) -> None:
    vanished.append(not host.registry.available("echo"))


@pytest.mark.parametrize("how", ["kill", "shut_down"])
async def test_when_the_host_of_a_plugin_ends_no_call_fails_and_no_watcher_sees_a_provider_vanish(
    virtual_time: MockClock, how: str
) -> None:
    async with directory() as hosts, calling(hosts) as (echo, failed):
        session, before = echo._service.link.session, used_by(echo, hosts)
        assert session is not None
        vanished: list[bool] = []
        left = [each for each in hosts if each is not before]
        for each in left:
            each.host.registry.changes.add(partial(_note_gone, each.host, vanished))
        await getattr(before, how)()
        await trio.sleep(16)
        assert failed == []
        assert not any(vanished)
        assert echo._service.link.session is session
        assert not session.void.is_set()
        assert used_by(echo, hosts) in left


async def test_a_plugin_of_a_host_that_is_cut_off_from_the_store_is_sent_elsewhere(
    virtual_time: MockClock,
) -> None:
    async with directory() as hosts, calling(hosts) as (echo, failed):
        before = used_by(echo, hosts)
        before.store.cut = True
        await eventually(lambda: used_by(echo, hosts) is not before)
        await trio.sleep(15)
        before.store.cut = False
        await eventually(lambda: before.host.standing.stand is Stand.READY)
        assert failed == []


async def test_where_all_hosts_are_cut_off_plugins_stay_and_call_each_other(virtual_time: MockClock) -> None:
    async with directory(2) as hosts, calling(hosts) as (echo, failed):
        for each in hosts:
            each.store.cut = True
        session = echo._service.link.session
        assert session is not None
        moved = session.hosts.moved
        await trio.sleep(16)
        assert session.hosts.moved - moved <= 6
        assert failed == []
        for each in hosts:
            each.store.cut = False
        await trio.sleep(15)
        assert failed == []
        assert echo._service.link.session is session
        assert not session.void.is_set()


async def test_hosts_that_are_rolled_one_after_the_other_are_noticed_by_nobody(
    virtual_time: MockClock,
) -> None:
    memory = MemoryStore()
    async with open_plain_nursery() as lapses, open_plain_nursery() as nursery:
        start = partial(nursery.start, _serve, memory, lapses)
        hosts = [await start("127.0.0.1:0") for _ in range(3)]
        async with calling(hosts) as (echo, failed):
            session = echo._service.link.session
            for each in list(hosts):
                await each.shut_down()
                await trio.sleep(5)
                hosts[hosts.index(each)] = await start(each.url.removeprefix("http://"))
                await trio.sleep(5)
            assert failed == []
            assert echo._service.link.session is session
        nursery.cancel_scope.cancel()
        lapses.cancel_scope.cancel()


async def test_direct_calls_and_their_grants_are_good_after_a_move(virtual_time: MockClock) -> None:
    async with directory() as hosts, calling(hosts, direct_calls=True) as (echo, failed):
        await goes_directly(echo)
        grant = grant_of(echo)
        await used_by(echo, hosts).kill()
        await trio.sleep(10)
        assert grant_of(echo) is grant
        assert failed == []


async def test_a_call_that_may_have_run_is_not_run_again(virtual_time: MockClock) -> None:
    plugin, echo = needy()
    service, provider = Echo(), Plugin("echo-plugin", version="1.0.0")
    provider.provide("echo", service)
    async with (
        directory() as hosts,
        plugged(provider, urls_of(hosts), heartbeat_s=None),
        plugged(plugin, urls_of(hosts), heartbeat_s=None),
        trio.open_nursery() as nursery,
    ):
        await echo.wait_available()
        errors: list[Code] = []

        async def call() -> None:
            with pytest.raises(ConnectError) as caught:
                await echo.client(EchoServiceClient).echo(EchoRequest(text="hang"), timeout_s=60.0)
            errors.append(caught.value.code)

        nursery.start_soon(call)
        await eventually(lambda: service.contexts)
        await used_by(echo, hosts).kill()
        await eventually(lambda: errors)
        assert errors == [Code.UNAVAILABLE]
        assert len(service.contexts) == 1
