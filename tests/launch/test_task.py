"""Plugins that run as tasks of the host's process: how they start, how they end, and what a crash ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cpg_trio import Plugin
from cpg_trio.host.supervision import LaunchError
from cpg_trio.launch.secrets import SecretReference
from cpg_trio.launch.task import TaskLauncher
from cpg_trio.rpc import Code, ConnectError, Context
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest, EchoResponse
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.launch.tasks import assignment, echo, registered, task
from tests.plugin.running import echo_plugin, eventually, hosting
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

    launched = trio.Event()

    async def _fail_later() -> None:
        await launched.wait()
        raise RuntimeError("the database is gone")

    async with hosting() as (host, _):
        async with TaskLauncher(breaking).launch(assignment(host, "echo-plugin")) as running:
            launched.set()
            with trio.fail_after(30):
                ended = await running.wait()
        assert ended.failed
        assert "RuntimeError: the database is gone" in ended.how
        assert "\n" not in ended.how
        logged = [record for record in caplog.records if record.exc_info and record.levelno >= logging.ERROR]
        assert [record.message for record in logged] == ["the task of echo-plugin has failed"]


async def test_an_authors_task_that_fails_ends_the_run_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    fails, begun = trio.Event(), list[str]()

    def with_task() -> Plugin:
        plugin = echo_plugin("fails", "other")

        @plugin.task
        async def flush() -> None:
            begun.append("flush")
            await fails.wait()
            raise RuntimeError("the disk is full")

        return plugin

    async with hosting() as (host, _), task(host, echo), task(host, with_task, "fails") as running:
        await registered(host, "other")
        await registered(host)
        await eventually(lambda: begun == ["flush"])
        fails.set()
        ended = await running.wait()
        assert ended.failed
        assert "RuntimeError: the disk is full" in ended.how
        await registered(host)
    assert "the task flush of fails has failed, which ends the plugin" in caplog.text


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


@asynccontextmanager
async def _beside(work: Callable[[], Awaitable[None]]) -> AsyncIterator[Plugin]:
    """Yield a plugin that does something of its own beside."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        yield echo()
        nursery.cancel_scope.cancel()


async def test_a_task_that_exits_ends_as_a_process_would() -> None:
    launched = trio.Event()

    async def leave() -> None:
        await launched.wait()
        sys.exit("the disk is full")

    async with hosting() as (host, _):
        async with TaskLauncher(lambda: _beside(leave)).launch(assignment(host, "echo-plugin")) as running:
            launched.set()
            with trio.fail_after(30):
                ended = await running.wait()
        assert (ended.failed, ended.how, ended.detail) == (True, "exit status 1", "the disk is full")


async def test_several_errors_at_once_are_all_named() -> None:
    launched = trio.Event()

    async def fail() -> None:
        await launched.wait()
        raise ExceptionGroup("two", [ValueError("first"), KeyError("second")])

    async with hosting() as (host, _):
        async with TaskLauncher(lambda: _beside(fail)).launch(assignment(host, "echo-plugin")) as running:
            launched.set()
            with trio.fail_after(30):
                ended = await running.wait()
        assert ended.failed
        assert "first" in ended.how
        assert "second" in ended.how


async def test_ctrl_c_is_the_programs_and_not_the_plugins() -> None:
    launched = trio.Event()

    async def interrupted() -> None:
        await launched.wait()
        raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught:
        async with (
            hosting() as (host, _),
            TaskLauncher(lambda: _beside(interrupted)).launch(assignment(host, "echo-plugin")),
        ):
            launched.set()
            await trio.sleep_forever()
    assert caught.group_contains(KeyboardInterrupt)


async def test_a_task_that_ignores_its_stop_is_cancelled() -> None:
    @asynccontextmanager
    async def stubborn() -> AsyncIterator[Plugin]:
        yield echo()
        await trio.sleep_forever()

    async with hosting() as (host, _):
        with trio.fail_after(10):
            async with TaskLauncher(stubborn).launch(assignment(host, "echo-plugin")) as running:
                await registered(host)
                running.stop()
                await eventually(lambda: not host.registry.providers("echo"))
            assert (await running.wait()).how == "it was ended"


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_task_that_shields_itself_is_named_with_its_place(
    *, cancelled: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpg_trio.launch.task._SLOW_END_S", 0.05)
    is_shielded, may_end = trio.Event(), trio.Event()

    @asynccontextmanager
    async def shielded() -> AsyncIterator[Plugin]:
        yield echo()
        with trio.CancelScope(shield=True):
            is_shielded.set()
            await may_end.wait()

    async def let_go() -> None:
        await eventually(lambda: "does not end" in caplog.text)
        may_end.set()

    async with hosting() as (host, _), trio.open_nursery() as nursery:
        with trio.CancelScope() as life:
            async with TaskLauncher(shielded).launch(assignment(host, "echo-plugin")) as running:
                await registered(host)
                running.stop()
                await is_shielded.wait()
                nursery.start_soon(let_go)
                if cancelled:
                    life.cancel()
                    await trio.lowlevel.checkpoint()
    assert "may_end.wait()" in caplog.text


async def test_a_context_manager_that_fails_is_a_run_that_has_failed() -> None:
    @asynccontextmanager
    async def unopened() -> AsyncIterator[Plugin]:
        with open("/no/such/database"):  # noqa: ASYNC230, PTH123 - it fails at once
            yield echo()

    async with (
        hosting() as (host, _),
        TaskLauncher(unopened).launch(assignment(host, "echo-plugin")) as running,
    ):
        with trio.fail_after(5):
            ended = await running.wait()
    assert ended.failed
    assert "No such file or directory: '/no/such/database'" in ended.how


async def test_a_task_is_given_its_variables_and_secrets(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    given: list[Mapping[str, str]] = []

    def taking(environment: Mapping[str, str]) -> Plugin:
        given.append(environment)
        return echo()

    launcher = TaskLauncher(taking, environment={"COLOUR": "blue"}, secrets={"KEY": SecretReference(file)})
    async with hosting() as (host, _), launcher.launch(assignment(host, "echo-plugin")):
        assert (given[0]["COLOUR"], given[0]["KEY"]) == ("blue", "s3cret")
    assert "s3cret" not in repr(launcher)
    file.unlink()
    async with hosting() as (host, _):
        with pytest.raises(LaunchError, match="a secret cannot be read"):
            async with launcher.launch(assignment(host, "echo-plugin")):
                pass
