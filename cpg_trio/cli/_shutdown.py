"""The command `shutdown`: ask a plugin to stop."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio.cli._actions import ReasonOption, YesFlag, confirmed_plugin
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._durations import parse_duration
from cpg_trio.cli._names import PluginName
from cpg_trio.cli._output import JsonFlag, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient


def shutdown(
    plugin: PluginName,
    /,
    *,
    grace: Annotated[
        str, Parameter(help="How long its calls in flight may take (default: 30s).", metavar="TIME")
    ] = "30s",
    reason: ReasonOption = "",
    yes: YesFlag = False,
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Ask a plugin to stop."""
    grace_s = parse_duration("--grace", grace)

    async def ask(host: AdminServiceClient) -> pb.ShutDownPluginResponse:
        meant = await confirmed_plugin(host, plugin, "shut down", yes=yes)
        request = pb.ShutDownPluginRequest(plugin=meant.runtime_id, reason=reason)
        request.grace.FromTimedelta(timedelta(seconds=grace_s))
        return await host.shut_down_plugin(request)

    answer = call_admin(options, ask)
    show_json(answer) if json else print(f"{answer.runtime_id} was asked to stop within {grace}")
    return 0
