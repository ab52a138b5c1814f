"""The command `drain`: give a plugin no new calls, or calls again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio.cli._actions import ReasonOption, YesFlag, confirmed_plugin
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._names import PluginName
from cpg_trio.cli._output import JsonFlag, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient


def drain(
    plugin: PluginName,
    /,
    *,
    undo: Annotated[bool, Parameter(help="Give it calls again.")] = False,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Drain a plugin."""

    async def ask(host: AdminServiceClient) -> pb.DrainPluginResponse:
        meant = await confirmed_plugin(host, plugin, "drain", yes=yes or undo)
        return await host.drain_plugin(
            pb.DrainPluginRequest(plugin=meant.runtime_id, undo=undo, reason=reason)
        )

    answer = call_admin(options, ask)
    if json:
        show_json(answer)
    elif undo:
        print(f"{answer.plugin.runtime_id} gets calls again")
    else:
        print(f"{answer.plugin.runtime_id} gets no new calls; {answer.calls_in_flight} are in flight")
    return 0
