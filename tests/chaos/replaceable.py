"""A provider of `echo` in a process of its own, which is of use, or crashes at a step of its start."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from cpg_trio import HealthState
from cpg_trio.plugin import Plugin
from tests.host.supervision.load import SlowEcho

STATUS = 3


@asynccontextmanager
async def plugin(environment: Mapping[str, str]) -> AsyncIterator[Plugin]:
    """Yield the plugin. `CRASHES` is the step after which its process ends."""
    step = environment.get("CRASHES", "")
    if step == "started":
        os._exit(STATUS)
    made = Plugin("echo", version="1.0.0")
    made.provide("echo", SlowEcho(environment["NAME"]))
    if step == "registered":
        made.set_health(HealthState.UNHEALTHY, "it is about to crash")
    elif step == "degraded":
        made.set_health(HealthState.DEGRADED, "it is about to crash")
    async with trio.open_nursery() as nursery:
        if step:
            nursery.start_soon(_crash_after, 0.0 if step == "listening" else 1.0)
        yield made
        nursery.cancel_scope.cancel()


async def _crash_after(seconds: float) -> None:
    await trio.sleep(seconds)
    os._exit(STATUS)
