"""The command `log-level`: change what the host logs, for a while."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from cyclopts import Parameter

from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._durations import parse_duration
from cpg_trio.cli._output import JsonFlag, Output, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb


def log_level(
    level: Annotated[
        Literal["debug", "info", "warning", "error", "reset"],
        Parameter(help="The level; reset: what it was before."),
    ],
    logger: Annotated[str, Parameter(help="Of this logger, as in cpg_trio.router (default: all).")] = "",
    /,
    *,
    duration: Annotated[
        str, Parameter(name="--for", help="For how long (default: 10m).", metavar="TIME")
    ] = "10m",
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Set the level of a logger for a while."""
    request = pb.SetLogLevelRequest(logger=logger, level="" if level == "reset" else level)
    request.duration.FromTimedelta(timedelta(seconds=parse_duration("--for", duration)))
    answer = call_admin(options, lambda host: host.set_log_level(request))
    if json:
        show_json(answer)
    elif level == "reset":
        print(f"{logger or 'all loggers'}: as before")
    else:
        print(f"{logger or 'all loggers'}: {level} until {Output().when(answer.until)}")
    return 0
