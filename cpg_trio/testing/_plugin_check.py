"""What the checks of a plugin are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import Host
from cpg_trio.host.directory import LocalPlugins
from cpg_trio.launch.describe import plugin_of
from cpg_trio.plugin import Plugin
from cpg_trio.rpc import Service
from cpg_trio.testing._checks import expect
from cpg_trio.testing._memory_host import MemoryHost, StartedPlugin

MakePlugin: TypeAlias = Callable[[], Plugin | AbstractAsyncContextManager[Plugin]]


@attrs.frozen
class TestedPlugin:
    """A plugin, and what takes the place of its dependencies, by service type."""

    __test__ = False  # it is no test, as pytest thinks

    make: MakePlugin
    fakes: Mapping[str, Service]

    @asynccontextmanager
    async def made(self) -> AsyncIterator[Plugin]:
        """Yield the plugin, made anew."""
        async with plugin_of(self.make, {}) as plugin:
            _check_fakes(plugin, self.fakes)
            yield plugin

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Process]:
        """Yield a place for hosts, one after the other, and for the plugin."""
        async with open_plain_nursery() as nursery:
            yield Process(self, LocalPlugins(), nursery)
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def started(self) -> AsyncIterator[tuple[MemoryHost, StartedPlugin]]:
        """Yield the plugin, healthy, and its host."""
        async with self.made() as plugin, self.process() as process, process.host() as host:
            for service_type in self.fakes:
                await self.provide(host, service_type)
            yield host, await host.start(plugin)

    async def provide(self, host: MemoryHost, service_type: str) -> StartedPlugin:
        """Have somebody provide what the plugin requires."""
        return await host.fake(service_type, self.fakes[service_type])


@attrs.frozen
class Process:
    """A process that has hosts one after the other. What runs in it stays when they change."""

    tested: TestedPlugin
    local: LocalPlugins
    nursery: trio.Nursery

    @asynccontextmanager
    async def host(self) -> AsyncIterator[MemoryHost]:
        """Yield a new host, which knows nobody."""
        host = Host(local=self.local)
        async with host.application():
            yield MemoryHost(host, self.nursery)

    def without_host(self) -> MemoryHost:
        """Return a host that does not serve."""
        return MemoryHost(Host(local=self.local), self.nursery)


def _check_fakes(plugin: Plugin, fakes: Mapping[str, Service]) -> None:
    missing = [each for each in plugin.requires if each not in fakes]
    expect(not missing, f"{plugin.self_id} requires {', '.join(missing)}: give `fakes` that provide it")


Check: TypeAlias = Callable[[TestedPlugin], Awaitable[None]]
