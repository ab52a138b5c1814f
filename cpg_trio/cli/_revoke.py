"""The command `revoke`: end the identity of a plugin, or a grant, at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio.cli._actions import ReasonOption, YesFlag, confirm, confirmed_plugin
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._errors import UsageError
from cpg_trio.cli._names import PluginName
from cpg_trio.cli._output import JsonFlag, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient


def revoke(
    plugin: PluginName = "",
    /,
    *,
    grant: Annotated[
        str, Parameter(help="Revoke this grant (cpg-trio capabilities) and not a plugin.", metavar="ID")
    ] = "",
    reason: ReasonOption = "",
    yes: YesFlag = False,
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Revoke a plugin or a grant."""
    if bool(plugin) == bool(grant):
        raise UsageError("name a plugin, or a grant with --grant, and not both")
    if grant:
        return _revoke_grant(grant, options, reason=reason, yes=yes, json=json)

    async def ask(host: AdminServiceClient) -> pb.RevokePluginResponse:
        meant = await confirmed_plugin(host, plugin, "end the identity of", yes=yes)
        return await host.revoke_plugin(pb.RevokePluginRequest(plugin=meant.runtime_id, reason=reason))

    answer = call_admin(options, ask)
    show_json(answer) if json else print(f"{answer.runtime_id} has no identity any more, and gets no calls")
    return 0


def _revoke_grant(grant: str, options: AdminOptions, *, reason: str, yes: bool, json: bool) -> int:
    if not yes:
        confirm(f"revoke the grant {grant}?")
    request = pb.RevokeGrantRequest(grant_id=grant, reason=reason)
    answer = call_admin(options, lambda host: host.revoke_grant(request))
    show_json(answer) if json else print(f"the grant {grant} is revoked")
    return 0
