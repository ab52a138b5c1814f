"""The command `scale`: change how many replicas of a plugin run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio.cli._actions import ReasonOption, YesFlag, confirm
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._errors import UsageError
from cpg_trio.cli._managed import ManagedName, managed_plugin, show_managed, standing
from cpg_trio.cli._output import JsonFlag, Output, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient

_MOST = 2**32 - 1


def scale(
    plugin: ManagedName,
    replicas: Annotated[
        int, Parameter(help="How many replicas there are to be.", name="replicas", show=True)
    ],
    /,
    *,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Change how many replicas of a plugin run, and wait for that. It asks before it takes some away."""
    if not 0 <= replicas <= _MOST:
        raise UsageError(f"the number of replicas must be 0 or more, not {replicas}")

    async def ask(host: AdminServiceClient) -> pb.ScalePluginResponse:
        meant = await managed_plugin(host, plugin)
        if not yes and replicas < meant.wanted:
            confirm(f"scale {meant.name} from {meant.wanted} to {replicas} ({standing(meant)})?")
        request = pb.ScalePluginRequest(plugin=meant.name, replicas=replicas, reason=reason)
        return await host.scale_plugin(request, timeout_s=math.inf)

    answer = call_admin(options, ask)
    show_json(answer) if json else show_managed(answer.plugin, Output())
    return 0
