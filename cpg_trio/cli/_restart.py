"""The command `restart`: stop a plugin that the host runs, and start it again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cpg_trio.cli._actions import ReasonOption, YesFlag
from cpg_trio.cli._admin import HERE, AdminOptions
from cpg_trio.cli._managed import ManagedName, start_anew
from cpg_trio.cli._output import JsonFlag
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient


def restart(
    plugin: ManagedName,
    /,
    *,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Stop a plugin, start it again, and wait until it is ready."""

    async def act(host: AdminServiceClient, name: str) -> pb.RestartPluginResponse:
        request = pb.RestartPluginRequest(plugin=name, reason=reason)
        return await host.restart_plugin(request, timeout_s=math.inf)

    return start_anew(options, plugin, "restart", act, yes=yes, json=json)
