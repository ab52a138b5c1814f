"""The command `calls`: the calls of the last minute, what fails, what is slow, and what is in flight."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio._human import duration, seconds_of, size
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._output import NOTHING, Column, JsonFlag, Output, call_cells, show_json, since
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from rich.text import Text

SERIES = (
    Column("CALLER"),
    Column("PROVIDER"),
    Column("METHOD"),
    Column("CODE"),
    Column("CALLS/S", right=True),
    Column("P50", right=True, optional=True),
    Column("P95", right=True),
    Column("IN FLIGHT", right=True, optional=True),
)
_FAILURES = (
    Column("AT"),
    Column("CALLER"),
    Column("PROVIDER"),
    Column("METHOD"),
    Column("CODE"),
    Column("TOOK", right=True, optional=True),
    Column("WHY", prose=True),
    Column("REQUEST ID", optional=True),
)
_SLOWEST = (
    Column("TOOK", right=True),
    Column("AT"),
    Column("CALLER"),
    Column("PROVIDER"),
    Column("METHOD"),
    Column("CODE"),
    Column("REQUEST ID", optional=True),
)
_IN_FLIGHT = (
    Column("FOR", right=True),
    Column("CALLER"),
    Column("PROVIDER"),
    Column("METHOD"),
    Column("STAGE"),
    Column("SENT", right=True, optional=True),
    Column("RECEIVED", right=True, optional=True),
    Column("REQUEST ID", optional=True),
)


def calls(
    filter: Annotated[  # noqa: A002 - what it is called
        str, Parameter(help="Only calls of or to this: a plugin's name or id, or a service.", name="of")
    ] = "",
    /,
    *,
    failed: Annotated[bool, Parameter(help="The last calls that failed or were refused, and why.")] = False,
    slow: Annotated[bool, Parameter(help="The slowest calls of the last minute.")] = False,
    in_flight: Annotated[bool, Parameter(help="The calls that have not ended.")] = False,
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Show the calls of the last minute."""
    answer = call_admin(options, lambda host: host.list_calls(pb.ListCallsRequest(filter=filter)))
    if json:
        show_json(answer)
        return 0
    out = Output()
    if failed:
        out.table(_FAILURES, failure_rows(answer.failures, out), "no call has failed")
    if slow:
        out.table(_SLOWEST, _slow_rows(answer.slowest, out), "no calls in the last minute")
    if in_flight:
        out.table(_IN_FLIGHT, _in_flight_rows(answer.in_flight, out), "no calls in flight")
    if not (failed or slow or in_flight):
        show_calls(answer, out)
    return 0


def show_calls(answer: pb.ListCallsResponse, out: Output) -> None:
    """Write the calls by who calls what; on a terminal, what has failed last as well."""
    out.table(SERIES, series_rows(answer.series), "no calls in the last minute")
    if out.is_terminal and answer.failures:
        out.line("")
        out.line(out.label("failed last (more: cpg-trio calls --failed)", 0))
        out.table(_FAILURES, failure_rows(answer.failures[:5], out))


def series_rows(series: Iterable[pb.CallSeries]) -> list[list[str | Text]]:
    """Return the cells of a table of calls by who calls what, with which outcome."""
    rows: list[list[str | Text]] = []
    for each in series:
        pace, p50, p95, _ = call_cells(each.calls)
        cells = (
            each.caller or NOTHING,
            each.provider or NOTHING,
            each.method or each.service_type,
            each.code,
        )
        rows.append([*cells, pace.removesuffix("/s"), p50, p95, str(each.calls.in_flight)])
    return rows


def failure_rows(failures: Iterable[pb.FailedCall], out: Output) -> list[list[str | Text]]:
    """Return the cells of a table of calls that failed."""
    every = list(failures)
    ids = _ids(every, out)
    return [
        [
            out.when(each.at),
            ids[each.caller_id],
            ids[each.provider_id],
            each.method or each.service_type or NOTHING,
            each.code,
            duration(seconds_of(each.duration)),
            f"refused: {each.reason}" if each.refused else each.reason,
            each.request_id,
        ]
        for each in every
    ]


def _slow_rows(slowest: Iterable[pb.SlowCall], out: Output) -> list[list[str | Text]]:
    every = list(slowest)
    ids = _ids(every, out)
    return [
        [
            duration(seconds_of(each.duration)),
            out.when(each.at),
            ids[each.caller_id],
            ids[each.provider_id],
            each.method or each.service_type,
            each.code,
            each.request_id,
        ]
        for each in every
    ]


def _in_flight_rows(in_flight: Iterable[pb.CallInFlight], out: Output) -> list[list[str | Text]]:
    every = list(in_flight)
    ids = _ids(every, out)
    return [
        [
            since(each.since),
            ids[each.caller_id],
            ids[each.provider_id],
            each.method or each.service_type,
            each.stage,
            size(each.request_bytes),
            size(each.response_bytes),
            each.request_id,
        ]
        for each in every
    ]


def _ids(every: Iterable[pb.FailedCall | pb.SlowCall | pb.CallInFlight], out: Output) -> dict[str, str]:
    named = {each for call in every for each in (call.caller_id, call.provider_id) if each}
    return {"": NOTHING, **out.ids(named)}
