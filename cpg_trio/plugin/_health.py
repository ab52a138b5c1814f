"""The health that a plugin reports: what its author sets, made worse by dependencies that are missing."""

from __future__ import annotations

from typing import TypeVar

import trio

from cpg_trio._cell import Cell
from cpg_trio._health_states import health_number
from cpg_trio.plugin._declaration import Declaration
from cpg_trio.plugin.direct import report_of
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.states import HealthState

_T = TypeVar("_T")

_MAX_REASON = 500  # characters, of which a host takes at least twice as many bytes


class Health:
    """The health of a plugin. `report` is what its host is told, and changes while `follow` runs."""

    def __init__(self, declared: Declaration) -> None:
        self._declared = declared
        self.report: Cell[pb.ReportHealthRequest] = Cell(self._current())

    async def follow(self) -> None:
        """Keep the report up to date, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, self._declared.own_health)
            nursery.start_soon(
                self._declared.dependencies.for_each, lambda dependency: self._follow(dependency.states)
            )

    def with_direct_calls(self) -> pb.ReportHealthRequest:
        """Return the report, with the counts of calls that did not go through the host."""
        report = pb.ReportHealthRequest()
        report.CopyFrom(self.report.value)
        report.direct_calls.extend(report_of(each.direct for each in self._declared.dependencies.values()))
        return report

    async def _follow(self, cell: Cell[_T]) -> None:
        async for _ in cell.reader():
            self.report.set(self._current())

    def _current(self) -> pb.ReportHealthRequest:
        state, reason = self._declared.own_health.value
        missing = self._declared.missing
        if missing and state is not HealthState.UNHEALTHY:
            state = HealthState.DEGRADED
            reason = "; ".join(filter(None, [reason, *missing.values()]))[:_MAX_REASON]
        return pb.ReportHealthRequest(
            state=health_number(state), reason=reason, unavailable_dependencies=missing
        )
