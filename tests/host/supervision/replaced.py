"""A platform with providers of `echo` that can be replaced by others, good and bad."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from cpg_trio import HealthState
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import Host, HostConfig
from cpg_trio.host.supervision import Assignment, PluginSpec
from cpg_trio.plugin import Plugin
from tests.host.supervision.launching import LEASES, UNLIMITED, Launches
from tests.host.supervision.load import SlowEcho
from tests.rpc.echo import Echo


def echo(name: str, *service_types: str, version: str = "1.0.0") -> Launches:
    """Return a launcher of a provider of `echo`, or of other services, which says its name."""

    def plugin(assignment: Assignment) -> Plugin:
        made = Plugin(assignment.self_id, version=version)
        for service_type in service_types or ("echo",):
            made.provide(service_type, SlowEcho(name))
        return made

    return Launches(plugin)


def sick(state: HealthState) -> Launches:
    """Return a launcher of a provider of `echo` that is never healthy."""

    def plugin(assignment: Assignment) -> Plugin:
        made = Plugin(assignment.self_id, version="1.0.0")
        made.provide("echo", Echo())
        made.set_health(state, "it has no disk")
        return made

    return Launches(plugin)


@attrs.define
class Platform:
    host: Host
    url: str

    def serving(self) -> list[str]:
        """Return the runtime ids of those who get calls to `echo`."""
        registry = self.host.registry
        return [r.runtime_id for r in registry.providers("echo") if r.id in registry.callable_ids]

    def registered(self) -> list[str]:
        return [each.runtime_id for each in self.host.registry.providers("echo")]


@asynccontextmanager
async def platform(*specs: PluginSpec) -> AsyncIterator[Platform]:
    host, stop = Host(HostConfig(rates=UNLIMITED, leases=LEASES)), trio.Event()
    async with open_plain_nursery() as nursery:
        url, *_ = await nursery.start(partial(host.serve, stop, bind="127.0.0.1:0"))
        try:
            await host.plugins.add(*specs)
            yield Platform(host, url)
        finally:
            stop.set()
