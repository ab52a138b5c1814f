"""The command `replace`: put another run in the place of a plugin, without a call that fails."""

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


def replace(
    plugin: ManagedName,
    /,
    *,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Start a plugin anew as the platform file says now, move the calls to it, and stop the old one."""

    async def act(host: AdminServiceClient, name: str) -> pb.ReplacePluginResponse:
        request = pb.ReplacePluginRequest(plugin=name, reason=reason)
        return await host.replace_plugin(request, timeout_s=math.inf)

    return start_anew(options, plugin, "replace", act, yes=yes, json=json)
