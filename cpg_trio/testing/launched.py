"""Plugins that `check_launcher` has a launcher start. Each function is one; its name says what it does."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from cpg_trio.plugin import Plugin
from cpg_trio.protos.logger.v1 import logger_pb2 as pb
from cpg_trio.protos.logger.v1.logger_trio import LoggerService
from cpg_trio.rpc import Context

NAME = "launched-plugin"
SERVICE = "launched"
FAULT = "a fault that is made on purpose"
READY = "it writes"
LINES = 2000
UNICODE = "ä/ö 🎈 日本"
_TICK_S = 0.01
_SOON_S = 0.05
_CHILD = "import time; time.sleep(600)"

_log = logging.getLogger("cpg_trio.testing.launched")
_log.setLevel(logging.INFO)  # also where the process of a task has not configured its log


class _Echo(LoggerService):
    """Writes what it is called with to its output."""

    async def log(self, request: pb.LogRequest, _ctx: Context, /) -> pb.LogResponse:
        _log.info("%s", request.message)
        return pb.LogResponse(success=True)


def serves() -> Plugin:
    """Return a plugin that does its work until it is told to stop."""
    plugin = Plugin(NAME, version="1.0.0")
    plugin.provide(SERVICE, _Echo())
    return plugin


@asynccontextmanager
async def _beside(work: Callable[[], Awaitable[None]]) -> AsyncIterator[Plugin]:
    """Yield the plugin, with a task beside it that lives no longer."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        yield serves()
        nursery.cancel_scope.cancel()


def crashes() -> AbstractAsyncContextManager[Plugin]:
    """Return one that raises an exception once it runs."""

    async def fail() -> None:
        await trio.sleep(_SOON_S)
        raise RuntimeError(FAULT)

    return _beside(fail)


@asynccontextmanager
async def ends() -> AsyncIterator[Plugin]:
    """Yield one that ends by itself, in order."""
    with trio.move_on_after(_SOON_S):
        yield serves()


@asynccontextmanager
async def ignores_stop() -> AsyncIterator[Plugin]:
    """Yield one that stays, once it is told to stop, and goes on to write."""
    yield serves()
    await _tick()


def ticks() -> AbstractAsyncContextManager[Plugin]:
    """Return one that writes a line all the time."""
    return _beside(_tick)


async def _tick() -> None:
    while True:
        _log.info(READY)
        await trio.sleep(_TICK_S)


def writes() -> AbstractAsyncContextManager[Plugin]:
    """Return one that writes many lines at once, each with its number."""

    async def write() -> None:
        for number in range(LINES):
            _log.info("line %d. %s", number, UNICODE)
            await trio.lowlevel.checkpoint()

    return _beside(write)


@asynccontextmanager
async def leaves_a_child() -> AsyncIterator[Plugin]:
    """Yield one that has a child in a session of its own, and does not end it."""
    child = os.posix_spawn(  # noqa: ASYNC221 - it does not wait for the child
        sys.executable, [sys.executable, "-c", _CHILD], os.environ, setsid=True
    )
    _log.info("child %d.", child)
    yield serves()
