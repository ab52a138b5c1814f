"""The plugins that call each other as tasks, and as processes; and many of them in one process.

`python -m benchmarks.task_plugins 50` starts so many in a host of its own, and prints how long that took and
what each one has cost.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial

import trio

from cpg_trio import Plugin
from cpg_trio._garbage import collecting_garbage
from cpg_trio.host import Host
from cpg_trio.host.supervision import PluginSpec
from cpg_trio.launch import TaskLauncher
from cpg_trio.protos.api.v1 import api_pb2 as api
from cpg_trio.protos.api.v1.api_trio import APIService
from cpg_trio.protos.logger.v1 import logger_pb2 as pb
from cpg_trio.protos.logger.v1.logger_trio import LoggerClient, LoggerService
from cpg_trio.rpc import Context

from .processes import memory_bytes

_MESSAGE = pb.LogRequest(message="x" * 100)


class Quiet(LoggerService):
    """Answers, and does nothing else."""

    async def log(self, _request: pb.LogRequest, _ctx: Context, /) -> pb.LogResponse:
        return pb.LogResponse(success=True)


class Load(APIService):
    """Calls the other plugin: `shorten` of `16,2` with 16 callers for two seconds."""

    def __init__(self, called: LoggerClient) -> None:
        self._called = called

    async def shorten(self, request: api.ShortenRequest, _ctx: Context, /) -> api.ShortenResponse:
        callers, seconds = map(int, request.url.split(","))
        times, end = list[float](), time.perf_counter() + seconds

        async def call() -> None:
            while (began := time.perf_counter()) < end:
                await self._called.log(_MESSAGE)
                times.append(time.perf_counter() - began)

        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(call)
        times.sort()
        figures = {"calls": len(times), "p50_us": 1e6 * times[len(times) // 2]}
        return api.ShortenResponse(short_code=json.dumps(figures))


def called_plugin() -> Plugin:
    """Return the plugin that is called."""
    plugin = Plugin("called", version="1.0.0")
    plugin.provide("called", Quiet())
    return plugin


def caller_plugin() -> Plugin:
    """Return the plugin that calls, when a client outside asks it to."""
    plugin = Plugin("caller", version="1.0.0")
    plugin.provide("caller", Load(plugin.require("called").client(LoggerClient)), public=True)
    return plugin


def _numbered(number: int) -> Plugin:
    """Return one of many plugins: each requires the one before."""
    plugin = Plugin(f"plugin-{number}", version="1.0.0")
    plugin.provide(f"service-{number}", Quiet())
    if number:
        plugin.require(f"service-{number - 1}").client(LoggerClient)
    return plugin


def _spec(number: int) -> PluginSpec:
    return PluginSpec(name=f"plugin-{number}", launcher=TaskLauncher(lambda: _numbered(number)))


async def _many(count: int) -> None:
    host, stop = Host(), trio.Event()
    with collecting_garbage():
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(host.serve, stop, bind="127.0.0.1:0"))
            await host.plugins.add(_spec(0))  # what the first one needs, the others find
            before, began = memory_bytes(os.getpid()), time.perf_counter()
            await host.plugins.add(*map(_spec, range(1, count + 1)))
            started_s = time.perf_counter() - began
            each = (memory_bytes(os.getpid()) - before) / count
            stop.set()
    print(json.dumps({"started_s": started_s, "bytes_each": each}))


if __name__ == "__main__":
    trio.run(_many, int(sys.argv[1]))
