"""A thousand plugins: what an operator asks for costs no more for each of them than for one of ten."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType

from cpg_trio.call_record import Call, CallKind
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from tests.host.admin.operating import Operator, operating


def add(operator: Operator, count: int) -> None:
    """Add plugins that call each other in a ring, and require one more service that is missing."""
    ids = [operator.plugin(f"s{i}", f"s{(i + 1) % count}", f"missing{i}") for i in range(count)]
    for i, caller in enumerate(ids):
        call = Call(CallKind.ROUTED, caller, ids[(i + 1) % count], f"s{(i + 1) % count}", "M", "1.1")
        operator.host.calls.begun.tell(call)
        call.succeed(200, "ok")
        operator.host.calls.end(call)


def steps(act: Callable[[], object]) -> int:
    """Return how many Python functions are called."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


REQUESTS: dict[str, object] = {
    "plugins": pb.ListPluginsRequest(),
    "services": pb.ListServicesRequest(),
    "graph": pb.GetGraphRequest(),
    "status": pb.GetStatusRequest(),
    "calls": pb.ListCallsRequest(),
}


async def costs(count: int) -> dict[str, float]:
    """Return what each answer costs for a plugin, if there are so many of them."""
    async with operating() as operator:
        add(operator, count)
        view = operator.host.admin.view
        return {name: steps(partial(getattr(view, name), asked)) / count for name, asked in REQUESTS.items()}


async def test_an_answer_costs_each_plugin_the_same() -> None:
    few, many = await costs(100), await costs(1000)
    for name, cost in many.items():
        assert cost < 1.3 * few[name], name
        assert cost < 130, name  # a millisecond has some 10,000 of them: 1,000 plugins take some 15 ms
