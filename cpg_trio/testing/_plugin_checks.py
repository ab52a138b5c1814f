"""The checks of a plugin. Each is named like what it checks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import trio
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor

from cpg_trio.plugin import Plugin
from cpg_trio.rpc import ConnectError, ServiceClient
from cpg_trio.states import HealthState
from cpg_trio.testing._checks import expect
from cpg_trio.testing._memory_host import MemoryHost
from cpg_trio.testing._plugin_check import TestedPlugin

_A_WHILE_S = 20.0
_LONGEST_STOP_S = 60.0
_STEPS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233)  # of all tasks, after which it is cancelled


async def it_waits_for_its_host_and_becomes_healthy(tested: TestedPlugin) -> None:
    async with tested.made() as plugin, tested.process() as process:
        started = await process.without_host().start(plugin, until=None)
        await trio.sleep(_A_WHILE_S)
        expect(started.is_running, "it has ended, as there was no host yet")
        await started.kill()
    async with tested.made() as plugin, tested.process() as process:
        early = await process.without_host().start(plugin, until=None)
        async with process.host() as host:
            for service_type in tested.fakes:
                await tested.provide(host, service_type)
            await host.take(early).until(HealthState.HEALTHY)


async def it_comes_back_to_a_host_that_knows_nobody(tested: TestedPlugin) -> None:
    async with tested.made() as plugin, tested.process() as process:
        started = await process.without_host().start(plugin, until=None)
        for _ in range(2):
            async with process.host() as host:
                fakes = [await tested.provide(host, each) for each in tested.fakes]
                await host.take(started).until(HealthState.HEALTHY)
                for fake in fakes:
                    await fake.kill()
            await trio.sleep(_A_WHILE_S)
        expect(started.is_running, "it has ended with its host")


async def it_is_degraded_while_a_dependency_is_away(tested: TestedPlugin) -> None:
    async with tested.made() as plugin, tested.process() as process, process.host() as host:
        fakes = {each: await tested.provide(host, each) for each in tested.fakes}
        started = await host.start(plugin)
        for service_type in plugin.requires:
            await fakes[service_type].stop()
            await started.until(HealthState.DEGRADED)
            expect(
                service_type in started.reason, f"its reason does not name {service_type}: {started.reason}"
            )
            fakes[service_type] = await tested.provide(host, service_type)
            await started.until(HealthState.HEALTHY)


async def its_tasks_are_started_once_and_end_with_it(tested: TestedPlugin) -> None:
    async with tested.made() as plugin, tested.process() as process:
        with _following_tasks(plugin) as tasks:
            started = await process.without_host().start(plugin, until=None)
            await trio.sleep(_A_WHILE_S)
            expect(not tasks.begun, f"{tasks} began before it has registered")
            for _ in range(2):
                async with process.host() as host:
                    fakes = [await tested.provide(host, each) for each in tested.fakes]
                    await host.take(started).until(HealthState.HEALTHY)
                    for fake in fakes:
                        await fake.kill()
            once = sorted(tasks.begun) == sorted(plugin.tasks)
            expect(once, f"with two hosts, one after the other, these have begun: {tasks}")
            with trio.move_on_after(_LONGEST_STOP_S) as limit:
                await started.stop()
            running = ", ".join(tasks.running)
            expect(not limit.cancelled_caught, f"these tasks keep it from stopping: {running or 'none'}")
            expect(not running, f"it has stopped, and these tasks have not: {running}")


async def it_stops_in_order(tested: TestedPlugin) -> None:
    async with tested.started() as (host, started):
        with trio.move_on_after(_LONGEST_STOP_S) as limit:
            await started.stop()
        expect(not limit.cancelled_caught, f"it has not stopped within {_LONGEST_STOP_S:g} s")
        left = [each for each in started.plugin.provides if host.host.registry.providers(each)]
        expect(not left, f"it has stopped, and {', '.join(left)} is still registered")


async def it_stops_while_a_stream_is_open(tested: TestedPlugin) -> None:
    async with tested.started() as (host, started):
        for service_type, method in _streams(started.plugin):
            async with trio.open_nursery() as nursery:
                await nursery.start(_read, host, service_type, method)
                with trio.move_on_after(_LONGEST_STOP_S) as limit:
                    await started.stop()
                expect(not limit.cancelled_caught, f"{method.full_name} keeps it from stopping")
                nursery.cancel_scope.cancel()
            return


async def it_can_be_cancelled_at_any_step(tested: TestedPlugin) -> None:
    for steps in _STEPS:
        async with tested.made() as plugin, tested.process() as process, process.host() as host:
            for service_type in tested.fakes:
                await tested.provide(host, service_type)
            started = await host.start(plugin, until=None)
            async with _after(steps):
                with trio.move_on_after(_LONGEST_STOP_S) as limit:
                    await started.kill()
            expect(not limit.cancelled_caught, f"it does not end when it is cancelled after {steps} steps")


def _streams(plugin: Plugin) -> list[tuple[str, MethodDescriptor]]:
    """Return the methods of a plugin that answer in streams, with their service types."""
    found = []
    for service_type, name in plugin.services.items():
        service = descriptor_pool.Default().FindServiceByName(name)
        methods = [each for each in service.methods if each.server_streaming and not each.client_streaming]
        found += [(service_type, method) for method in methods]
    return found


async def _read(
    host: MemoryHost, service_type: str, method: MethodDescriptor, *, task_status: trio.TaskStatus[None]
) -> None:
    """Call a method with an empty message, and read what it answers, as long as it does."""
    client_class = type("Client", (ServiceClient,), {"service_name": method.containing_service.full_name})
    client: Any = await host.client(service_type, client_class)
    request = message_factory.GetMessageClass(method.input_type)()
    response = message_factory.GetMessageClass(method.output_type)
    is_open = False
    with suppress(ConnectError):  # it is not one that is answered to an empty message, or it was ended
        async with client._server_stream(method.name, request, response, {}) as messages:  # noqa: SLF001 - any service's
            is_open = True
            task_status.started()
            async for _ in messages:
                pass
    if not is_open:
        task_status.started()


class _FollowingTasks(trio.abc.Instrument):
    """Sees which of the own tasks of a plugin begin and end."""

    def __init__(self, plugin: Plugin) -> None:
        self._names = {f"{each} of {plugin.self_id}": each for each in plugin.tasks}
        self.begun: list[str] = []
        self.running: list[str] = []

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.name in self._names:
            self.begun.append(self._names[task.name])
            self.running.append(self._names[task.name])

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        if task.name in self._names:
            self.running.remove(self._names[task.name])

    def __str__(self) -> str:
        return ", ".join(self.begun) or "none"


@contextmanager
def _following_tasks(plugin: Plugin) -> Iterator[_FollowingTasks]:
    following = _FollowingTasks(plugin)
    trio.lowlevel.add_instrument(following)
    try:
        yield following
    finally:
        trio.lowlevel.remove_instrument(following)


@asynccontextmanager
async def _after(steps: int) -> AsyncIterator[None]:
    """Enter the block after some steps of all tasks."""
    counting = _Counting(steps)
    trio.lowlevel.add_instrument(counting)
    try:
        with trio.move_on_after(_A_WHILE_S):
            await counting.reached.wait()
    finally:
        trio.lowlevel.remove_instrument(counting)
    yield


class _Counting(trio.abc.Instrument):
    def __init__(self, steps: int) -> None:
        self._left = steps
        self.reached = trio.Event()

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self.reached.set()
