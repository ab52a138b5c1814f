"""The command `apply`: have the host run what its platform file says now."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio.cli._actions import ReasonOption, YesFlag, confirm
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._output import Column, JsonFlag, Output, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from rich.text import Text

    from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient

_COLUMNS = Column("PLUGIN"), Column("CHANGE"), Column("WHAT DIFFERS", prose=True), Column("WRITTEN IN")
_KINDS = {
    pb.PlannedChange.KIND_ADD: ("+ add", "green"),
    pb.PlannedChange.KIND_REMOVE: ("- remove", "red"),
    pb.PlannedChange.KIND_REPLACE: ("~ replace", "yellow"),
    pb.PlannedChange.KIND_SCALE: ("~ scale", "yellow"),
    pb.PlannedChange.KIND_ADJUST: ("~ adjust", "cyan"),
}


def apply(
    *,
    plan: Annotated[bool, Parameter(help="Print what would be done, and do nothing.")] = False,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Have the host read its platform file, show what differs, and carry that out."""
    out = Output()

    async def ask(host: AdminServiceClient) -> int:
        planned = await host.get_plan(pb.GetPlanRequest())
        if plan or not planned.changes:
            show_json(planned) if json else show_plan(planned, out)
            return 0
        if not json:
            show_plan(planned, out)
        if not yes:
            confirm("carry this out?")
        request = pb.ApplyPlanRequest(plan_id=planned.plan_id, reason=reason)
        done = await host.apply_plan(request, timeout_s=math.inf)
        show_json(done) if json else out.line(f"done: {_number(len(done.changes), 'change')}")
        return 0

    return call_admin(options, ask)


def show_plan(plan: pb.GetPlanResponse, out: Output) -> None:
    """Write what would be done."""
    count = len(plan.unchanged)
    stay = "1 plugin stays as it is" if count == 1 else f"{count} plugins stay as they are"
    where = plan.source or "the platform file"
    if not plan.changes:
        out.line(f"{where}: nothing has to be done, {stay}")
        return
    out.line(f"{where}: {_number(len(plan.changes), 'change')}, {stay}")
    out.table(_COLUMNS, _rows(plan.changes))


def _rows(changes: Iterable[pb.PlannedChange]) -> Iterable[list[str | Text]]:
    from rich.text import Text  # noqa: PLC0415 - JSON does not need it

    for each in changes:
        word, colour = _KINDS.get(each.kind, (f"change {each.kind}", ""))
        scaled = f"{each.replicas_before} to {each.replicas_after} replicas"
        differs = ", ".join(scaled if name == "replicas" else name for name in each.differences)
        yield [each.plugin, Text.assemble((word, colour)), differs, each.source]


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
