"""The checks of plugins: the example's pass, and each check finds what it is for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cpg_trio import HealthState, Plugin
from cpg_trio.demo.api import api_plugin
from cpg_trio.demo.logger import logger_plugin
from cpg_trio.demo.storage import storage_plugin
from cpg_trio.protos.logger.v1.logger_trio import LoggerService
from cpg_trio.protos.storage.v1.storage_trio import StorageService
from cpg_trio.rpc import Context
from cpg_trio.testing import check_plugin
from tests._gen.echo.v1.echo_pb2 import CountRequest, CountResponse
from tests._gen.echo.v1.echo_trio import EchoService, EchoServiceClient
from tests.rpc.echo import Echo


def test_the_examples_logger_passes() -> None:
    check_plugin(logger_plugin)


def test_the_examples_storage_passes(tmp_path: Path) -> None:
    check_plugin(lambda: storage_plugin(tmp_path / "urls.sqlite3"), {"logger": LoggerService()})


def test_the_examples_api_passes() -> None:
    check_plugin(api_plugin, {"storage": StorageService()})


def echo(service: EchoService | None = None) -> Plugin:
    plugin = Plugin("echo-plugin", version="1.0.0")
    plugin.provide("echo", service or Echo())
    return plugin


class Endless(Echo):
    """Streams for ever, also when it is asked to stop."""

    async def count(self, _request: CountRequest, _ctx: Context, /) -> AsyncIterator[CountResponse]:
        with trio.CancelScope(shield=True):
            while True:
                yield CountResponse()
                await trio.sleep(1)


@asynccontextmanager
async def failing_later() -> AsyncIterator[Plugin]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_fail)
        yield echo()
        nursery.cancel_scope.cancel()


async def _fail() -> None:
    await trio.sleep(10)
    raise RuntimeError("the plugin's own task has failed")


def sick() -> Plugin:
    plugin = echo()
    plugin.set_health(HealthState.UNHEALTHY, "always")
    return plugin


def lacking() -> Plugin:
    plugin = echo()
    plugin.require("other").client(EchoServiceClient)
    return plugin


@asynccontextmanager
async def slow_to_end() -> AsyncIterator[Plugin]:
    try:
        yield echo()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(10_000)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lacking, "requires other: give `fakes` that provide it"),
        (sick, r"it waits for its host and becomes healthy: echo-plugin does not report healthy.*always"),
        (failing_later, "it waits for its host and becomes healthy: .*the plugin's own task has failed"),
        (lambda: echo(Endless()), "it stops while a stream is open: .*Count keeps it from stopping"),
        (slow_to_end, "no end of it within"),
    ],
)
def test_what_a_plugin_does_wrong_is_named(make: Callable[[], Plugin], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_plugin(make)
