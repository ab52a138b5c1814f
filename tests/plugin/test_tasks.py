"""Tasks of the author: they run from the first registration of a plugin to the end of its calls in flight."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cpg_trio import Context, HealthState, Plugin, PluginConfig
from cpg_trio.testing import check_plugin, open_host
from tests._gen.echo.v1.echo_pb2 import EchoRequest, EchoResponse
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import echo_plugin, eventually, hosting, lines, plugged, until, unused_port
from tests.rpc.echo import Echo


class Journal:
    """What has happened, in its order."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    async def stay(self, name: str = "task") -> None:
        self.entries.append(f"{name} begins")
        try:
            await trio.sleep_forever()
        finally:
            self.entries.append(f"{name} ends")


async def test_tasks_begin_when_the_plugin_is_registered_and_end_with_it(autojump_clock: MockClock) -> None:
    plugin, journal = echo_plugin(), Journal()
    plugin.task(partial(journal.stay, "one"), name="one")

    @plugin.task
    async def two() -> None:
        await journal.stay("two")

    @plugin.task(name="three")
    async def at_once() -> None:
        journal.entries.append("three is done")

    assert plugin.tasks == ("one", "two", "three")
    async with open_host() as host:
        started = await host.start(plugin, until=None)
        assert journal.entries == []
        await started.until(HealthState.HEALTHY)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(journal.entries) == ["one begins", "three is done", "two begins"]
        await started.stop()
        assert sorted(journal.entries[3:]) == ["one ends", "two ends"]


async def test_tasks_are_not_started_again_when_the_plugin_registers_again(virtual_time: MockClock) -> None:
    plugin, journal, port = echo_plugin(), Journal(), unused_port()
    plugin.task(journal.stay)
    async with plugged(plugin, f"http://127.0.0.1:{port}"):
        await trio.sleep(20)
        assert journal.entries == [], "there is no host yet"
        for _ in range(2):
            async with hosting(bind=f"127.0.0.1:{port}") as (host, _):
                await until(host, lambda: host.registry.available("echo"))
                await eventually(lambda: journal.entries == ["task begins"])
    assert journal.entries == ["task begins", "task ends"]


async def test_each_run_of_a_plugin_has_its_tasks(autojump_clock: MockClock) -> None:
    plugin, journal = echo_plugin(), Journal()
    plugin.task(journal.stay)
    async with open_host() as host:
        for _ in range(2):
            await (await host.start(plugin)).stop()
    assert journal.entries == ["task begins", "task ends"] * 2


class Batching(Echo):
    """Answers a call when the task that writes has written what it brought."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self.brought, self._work = trio.open_memory_channel[trio.Event](10)

    async def echo(self, request: EchoRequest, _ctx: Context, /) -> EchoResponse:
        written = trio.Event()
        await self.brought.send(written)
        self._journal.entries.append("call waits")
        await written.wait()
        self._journal.entries.append("call is answered")
        return EchoResponse(text=request.text)

    async def write(self) -> None:
        try:
            while True:
                await trio.sleep(3)
                (await self._work.receive()).set()
        finally:
            self._journal.entries.append("task ends")


async def test_a_call_in_flight_can_wait_for_a_task_until_it_is_answered(autojump_clock: MockClock) -> None:
    journal = Journal()
    service = Batching(journal)
    plugin = echo_plugin(service=service)
    plugin.task(service.write)
    async with open_host() as host, trio.open_nursery() as nursery:
        started = await host.start(plugin)
        echo = await host.client("echo", EchoServiceClient)

        async def call() -> None:
            assert (await echo.echo(EchoRequest(text="a"))).text == "a"

        nursery.start_soon(call)
        await eventually(lambda: "call waits" in journal.entries)
        await started.stop()
    assert journal.entries == ["call waits", "call is answered", "task ends"]


async def test_a_task_can_call_others_to_the_end(autojump_clock: MockClock) -> None:
    plugin, answers = echo_plugin("caller", "own"), list[str]()
    client = plugin.require("echo").client(EchoServiceClient)

    @plugin.task
    async def last_words() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(5, shield=True):
                answers.append((await client.echo(EchoRequest(text="bye"))).text)

    async with open_host() as host:
        await host.fake("echo", Echo())
        await (await host.start(plugin)).stop()
    assert answers == ["bye"]


async def test_an_error_in_a_task_ends_the_plugin_and_names_the_task(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    plugin, journal = echo_plugin(), Journal()
    plugin.task(journal.stay)

    @plugin.task
    async def flush() -> None:
        await trio.sleep(5)
        raise ValueError("the disk is full")

    async with hosting() as (_, url):
        with pytest.raises(ValueError, match="the disk is full") as caught:
            await plugin.serve(config=PluginConfig(host_url=url, hostname="127.0.0.1"))
    assert caught.value.__notes__ == ["in the task flush of echo-plugin"]
    assert journal.entries == ["task begins", "task ends"]
    said = "the task flush of echo-plugin has failed, which ends the plugin: ValueError('the disk is full')"
    assert [line for line in lines(caplog, "cpg_trio.plugin") if "flush" in line] == [said]


async def test_a_task_that_is_cancelled_has_not_failed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = echo_plugin()

    @plugin.task
    async def in_a_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    with caplog.at_level(logging.ERROR):
        async with open_host() as host:
            await (await host.start(plugin)).kill()
            await (await host.start(plugin)).stop()
    assert not caplog.messages


def with_tasks() -> Plugin:
    plugin = echo_plugin()
    plugin.task(Journal().stay, name="stays")
    plugin.task(trio.lowlevel.checkpoint, name="returns")
    return plugin


def test_a_plugin_with_tasks_passes_the_checks_of_plugins() -> None:
    check_plugin(with_tasks)


def stubborn() -> Plugin:
    plugin = echo_plugin()

    @plugin.task
    async def lingers() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1_000)

    return plugin


def test_a_task_that_does_not_end_is_named_by_the_checks() -> None:
    with pytest.raises(AssertionError, match="these tasks keep it from stopping: lingers"):
        check_plugin(stubborn)


def _sync() -> None: ...


async def _generator():  # type: ignore[no-untyped-def] # noqa: ANN202
    yield


async def _asks(queue: object) -> None: ...


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: _asks(1), "task\\(\\) takes a function, and not a coroutine: _asks, not _asks\\(\\)"),
        (lambda: _sync, "not the function _sync: define it with `async def`, and no `yield`"),
        (lambda: _generator, "not the function _generator: define it with `async def`, and no `yield`"),
        (lambda: Journal, "not the class Journal"),
        (lambda: 5, "task\\(\\) takes an async function, and not 5"),
        (
            lambda: _asks,
            "calls _asks without arguments \\(missing .* 'queue'\\): give partial\\(_asks, ...\\)",
        ),
    ],
)
def test_what_is_no_async_function_without_arguments_is_refused(given: Callable[[], Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        echo_plugin().task(given())


def test_two_tasks_have_two_names() -> None:
    plugin = echo_plugin()
    plugin.task(Journal().stay)
    with pytest.raises(ValueError, match="echo-plugin has a task stay already: give this one another name"):
        plugin.task(Journal().stay)
    plugin.task(Journal().stay, name="another")
    assert plugin.tasks == ("stay", "another")


async def test_a_task_is_declared_before_the_plugin_runs(autojump_clock: MockClock) -> None:
    plugin = echo_plugin()
    async with open_host() as host:
        await host.start(plugin)
        with pytest.raises(RuntimeError, match=r"task\(\) comes before serve\(\)"):
            plugin.task(Journal().stay)
