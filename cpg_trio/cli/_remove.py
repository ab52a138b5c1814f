"""The command `remove`: stop a plugin that the host runs, for good."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio.cli._actions import ReasonOption, YesFlag
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._errors import CommandError
from cpg_trio.cli._impact import show_impact, why_refused
from cpg_trio.cli._managed import ManagedName, confirmed_managed
from cpg_trio.cli._output import JsonFlag, Output, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient


def remove(
    plugin: ManagedName,
    /,
    *,
    force: Annotated[
        bool, Parameter(help="Also if somebody is left without a service that it requires.")
    ] = False,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Stop a plugin for good. Status 1 and nothing done, if somebody could not work without it."""

    async def ask(host: AdminServiceClient) -> pb.Impact:
        impact = (await host.get_impact(pb.GetImpactRequest(plugin=plugin))).impact
        show_json(impact) if json else show_impact(impact, Output())
        if impact.refused and not force:
            raise CommandError(why_refused(impact))
        meant = await confirmed_managed(host, impact.plugin, "remove", yes=yes)
        request = pb.RemovePluginRequest(plugin=meant.name, force=force, reason=reason)
        return (await host.remove_plugin(request, timeout_s=math.inf)).impact

    removed = call_admin(options, ask)
    if not json:
        print(f"{removed.plugin} is removed")
    return 0
