"""Plugins that run as tasks of the host's process: how they start, how they end, and what a crash ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from cpg_trio import Plugin
from cpg_trio.host.supervision import LaunchError
from cpg_trio.launch.task import TaskLauncher
from cpg_trio.rpc import Code, ConnectError, Context
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest, EchoResponse
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.launch.tasks import assignment, echo, registered, task
from tests.plugin.running import eventually, hosting
from tests.rpc.echo import Echo


class Failing(Echo):
    """Raises what it is asked for."""

    async def echo(self, request: EchoRequest, ctx: Context) -> EchoResponse:
        match request.text:
            case "exit":
                sys.exit(3)
            case "bug":
                raise RuntimeError("a secret of the plugin")
        return await super().echo(request, ctx)


def failing_plugin() -> Plugin:
    plugin = Plugin("echo-plugin", version="1.0.0")
    plugin.provide("echo", Failing())
    return plugin


async def test_a_task_is_called_and_ends_when_it_is_asked_to() -> None:
    async with hosting() as (host, _):
        async with task(host, echo) as running:
            await registered(host)
            assert running.where == "task"
            client = host.client("echo", EchoServiceClient)
            assert (await client.echo(EchoRequest(text="✓"))).text == "✓"
            async with client.count(CountRequest(to=3)) as stream:
                assert [m.number async for m in stream] == [0, 1, 2]
        ended = await running.wait()
        assert (ended.failed, ended.how) == (False, "it has stopped")
        assert not host.registry.providers("echo")


async def test_a_method_that_raises_costs_its_call_alone() -> None:
    async with hosting() as (host, _), task(host, failing_plugin):
        await registered(host)
        client = host.client("echo", EchoServiceClient)
        with pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(text="bug"))
        assert caught.value.code is Code.INTERNAL
        assert "secret" not in str(caught.value)
        assert (await client.echo(EchoRequest(text="✓"))).text == "✓"


async def test_a_method_that_exits_ends_its_plugin_and_no_other() -> None:
    async with hosting() as (host, _):
        other = Plugin("other", version="1.0.0")
        other.provide("other", Echo())
        async with task(host, other, "other"), task(host, failing_plugin) as running:
            await registered(host)
            await registered(host, "other")
            with pytest.raises(ConnectError) as caught:
                await host.client("echo", EchoServiceClient).echo(EchoRequest(text="exit"))
            assert caught.value.code is Code.UNAVAILABLE
            with trio.fail_after(5):
                ended = await running.wait()
            assert (ended.failed, ended.how) == (True, "exit status 3")
            answer = await host.client("other", EchoServiceClient).echo(EchoRequest(text="✓"))
            assert answer.text == "✓"


async def test_what_a_plugin_raises_ends_its_run_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def breaking() -> AsyncIterator[Plugin]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_fail_later)
            yield echo()
            nursery.cancel_scope.cancel()

    async def _fail_later() -> None:
        await trio.sleep(0.05)
        raise RuntimeError("the database is gone")

    async with hosting() as (host, _):
        async with TaskLauncher(breaking).launch(assignment(host, "echo-plugin")) as running:
            with trio.fail_after(5):
                ended = await running.wait()
        assert ended.failed
        assert "RuntimeError: the database is gone" in ended.how
        assert "\n" not in ended.how
        logged = [record for record in caplog.records if record.exc_info and record.levelno >= logging.ERROR]
        assert [record.message for record in logged] == ["the task of echo-plugin has failed"]


async def test_leaving_the_block_ends_the_run() -> None:
    async with hosting() as (host, _):
        async with TaskLauncher(echo).launch(assignment(host, "echo-plugin")) as running:
            await registered(host)
            url = host.registry.providers("echo")[0].base_url
            assert host.local.find(url) is not None
        assert host.local.find(url) is None
        with trio.fail_after(1):
            assert (await running.wait()).how == "it was ended"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("no_such_module:plugin", "there is no module no_such_module"),
        ("tests.launch.tasks:no_such", "tests.launch.tasks has no no_such"),
        ("tests.launch.tasks:registered", "registered"),
    ],
)
async def test_what_is_no_plugin_cannot_be_started(target: str, why: str) -> None:
    async with hosting() as (host, _):
        with pytest.raises(LaunchError, match=why):
            async with TaskLauncher(target).launch(assignment(host, "echo-plugin")):
                pass


async def test_a_plugin_of_another_name_is_told_what_to_write() -> None:
    async with hosting() as (host, _):
        with pytest.raises(LaunchError, match='id = "echo-plugin"'):
            async with TaskLauncher(echo).launch(assignment(host, "echo")):
                pass


async def test_a_port_that_is_taken_is_named() -> None:
    async with hosting() as (host, url):
        port = int(url.rpartition(":")[2])
        with pytest.raises(LaunchError, match=str(port)):
            async with TaskLauncher(echo, port=port).launch(assignment(host, "echo-plugin")):
                pass


async def test_what_a_task_logs_is_its_output(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cpg_trio")
    lines: list[str] = []
    async with hosting() as (host, _), task(host, echo, lines=lines):
        await registered(host)
        await eventually(lambda: any("Registered service: echo v1.0.0" in line for line in lines))
        assert not any("host listening" in line for line in lines)
