"""The command `replace`: put another run in the place of a plugin, without a call that fails."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cpg_trio._gen.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.cli._actions import ReasonOption, YesFlag
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._managed import ManagedName, confirmed_managed, show_managed
from cpg_trio.cli._output import JsonFlag, Output, show_json

if TYPE_CHECKING:
    from cpg_trio._gen.cpgtrio.admin.v1.admin_trio import AdminServiceClient


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

    async def ask(host: AdminServiceClient) -> pb.ReplacePluginResponse:
        meant = await confirmed_managed(host, plugin, "replace", yes=yes)
        request = pb.ReplacePluginRequest(plugin=meant.name, reason=reason)
        return await host.replace_plugin(request, timeout_s=math.inf)

    answer = call_admin(options, ask)
    show_json(answer) if json else show_managed(answer.plugin, Output())
    return 0
