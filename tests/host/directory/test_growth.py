"""What a change, a discovery and a watch cost does not grow with the number of plugins.

Work is counted in bytecode instructions of the package, so that the speed of the machine is no matter.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import cpg_trio
from cpg_trio import HealthState
from cpg_trio.host import Health, Host, HostConfig, Limits, Selection
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.versions import Requirement

FEW, MANY = 30, 500
PACKAGE = str(Path(cpg_trio.__file__).parent)


def work(function: Callable[[], object]) -> int:
    """Return how many instructions of the package a call of a function takes."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # before the trace begins: 3.12 would tell of no opcode otherwise
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


class Directory:
    """A host with many plugins that provide one service, each also one of its own."""

    def __init__(self, host: Host, plugins: int) -> None:
        self.host = host
        self.registry = host.registry
        self.plugins = [self.add(number) for number in range(plugins)]
        self.registry.discover("t")
        self.registry.discover("t", Requirement("1.0.0"))

    def add(self, number: int) -> str:
        plugin = self.host.identities.issue("p", address="127.0.0.1")[0].runtime_id
        for service_type in ("t", f"t-{number}"):
            metadata = {"base_url": f"http://127.0.0.1:{number + 1}"}
            self.registry.register(plugin, service_type, "1.0.0", "/", metadata)
        return plugin

    def report(self, state: HealthState) -> None:
        self.registry.report_health(self.plugins[FEW // 2], Health(state))

    def costs(self) -> dict[str, int]:
        """Return the work that each operation takes, together with a discovery after it."""
        plugin = self.plugins[FEW // 2]
        operations: dict[str, Callable[[], object]] = {
            "discover": lambda: None,
            "register": lambda: self.add(len(self.plugins)),
            "sick": lambda: self.report(HealthState.UNHEALTHY),
            "well": lambda: self.report(HealthState.HEALTHY),
            "lapse": lambda: self.registry.set_lapsed(plugin, "silent"),
            "back": lambda: self.registry.set_lapsed(plugin, ""),
            "names": lambda: self.registry.provider_names("t"),
            "unregister": lambda: self.registry.unregister(plugin, self.registry.registrations(plugin)[0].id),
            "remove": lambda: self.registry.remove_plugin(plugin),
        }
        return {name: work(partial(self._discover_after, operate)) for name, operate in operations.items()}

    def _discover_after(self, operate: Callable[[], object]) -> None:
        operate()
        self.registry.discover("t")
        self.registry.discover("t", Requirement("1.0.0"))


@asynccontextmanager
async def directory(plugins: int, selection: Selection) -> AsyncIterator[Directory]:
    host = Host(HostConfig(default_selection=selection, limits=Limits()))
    async with host.application():
        yield Directory(host, plugins)


@pytest.mark.parametrize("selection", [Selection.FIRST, Selection.ROUND_ROBIN])
async def test_a_change_of_one_of_many_plugins_costs_as_much_as_of_one_of_few(selection: Selection) -> None:
    async with directory(FEW, selection) as few:
        small = few.costs()
    async with directory(MANY, selection) as many:
        large = many.costs()
    assert large.keys() == small.keys()
    assert {name: cost for name, cost in large.items() if cost > 1.1 * small[name]} == {}


def cost_of_a_report(replicas: int, selection: Selection) -> int:
    """Return the work that a report of a replica takes, with as many watchers of the service as replicas."""
    registry = Registry(default_selection=selection)
    plugins = [f"p-{number}" for number in range(replicas)]
    for plugin in plugins:
        registry.register(plugin, "t", "1.0.0", "/", {})
    hub = WatchHub(registry)
    with ExitStack() as stack:
        for plugin in plugins:
            stack.enter_context(hub.watch(plugin)).subscribe("t")
        return work(partial(registry.report_health, plugins[1], Health(HealthState.UNHEALTHY)))


@pytest.mark.parametrize("selection", [Selection.FIRST, Selection.ROUND_ROBIN])
def test_a_change_of_a_provider_costs_nothing_for_watchers_that_have_another(selection: Selection) -> None:
    assert cost_of_a_report(MANY, selection) <= 1.1 * cost_of_a_report(FEW, selection)


def test_a_provider_that_is_gone_costs_nothing_for_watchers_that_were_not_told_of_it() -> None:
    def cost(watchers: int) -> int:
        registry = Registry()
        hub = WatchHub(registry)
        with ExitStack() as stack:
            for number in range(watchers):
                stack.enter_context(hub.watch(f"w-{number}"))
            return work(partial(registry.cancel_calls, "p"))

    assert cost(MANY) == cost(FEW)
