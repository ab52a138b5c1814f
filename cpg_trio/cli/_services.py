"""The command `services`: who provides each service, and who requires it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio._human import share
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._output import NOTHING, Column, JsonFlag, Output, call_cells, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS = (
    Column("SERVICE"),
    Column("STATE"),
    Column("PROVIDER"),
    Column("VERSION", optional=True),
    Column("SHARE", right=True, optional=True),
    Column("CALLS/S", right=True),
    Column("P95", right=True, optional=True),
    Column("FAILED", right=True, optional=True),
    Column("REQUIRED BY", optional=True),
    Column("SELECTION", optional=True),
    Column("WHY", prose=True),
)


def services(
    filter: Annotated[str, Parameter(help="Only services with this text in them.", name="text")] = "",  # noqa: A002
    /,
    *,
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Show all services: a row for each provider."""
    answer = call_admin(options, lambda host: host.list_services(pb.ListServicesRequest(filter=filter)))
    if json:
        show_json(answer)
    else:
        out = Output()
        out.table(COLUMNS, service_rows(answer.services, out), "no services")
    return 0


def service_rows(services: Iterable[pb.Service], out: Output) -> list[list[str | Text]]:
    """Return the cells of a table of services."""
    every = list(services)
    ids = out.ids(provider.runtime_id for each in every for provider in each.providers)
    rows: list[list[str | Text]] = []
    row: list[str | Text]
    for each in every:
        names = " ".join(each.required_by) or NOTHING
        for provider in each.providers:
            pace, _, p95, failed = call_cells(provider.calls)
            row = [each.service_type, out.state(provider.state), ids[provider.runtime_id], provider.version]
            row += [share(provider.share_of_calls, 1.0), pace.removesuffix("/s"), p95, failed]
            rows.append([*row, names, each.selection, provider.reason])
        if not each.providers:
            missing = out.state(each.state, "missing")
            row = [each.service_type, missing, NOTHING, NOTHING, NOTHING, "0", NOTHING, NOTHING]
            rows.append([*row, names, each.selection, each.reason])
    return rows
