"""The command `capabilities`: what the host offers to plugins, and who has a grant of it."""

from __future__ import annotations

from collections.abc import Mapping

from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._output import NOTHING, Column, JsonFlag, Output, show_json, until
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

_COLUMNS = (
    Column("CAPABILITY"),
    Column("PLUGIN"),
    Column("PROVIDER", optional=True),
    Column("EXPIRES IN", right=True),
    Column("GRANT"),
    Column("REASON", prose=True, optional=True),
)


def capabilities(*, json: JsonFlag = False, options: AdminOptions = HERE) -> int:
    """Show capabilities and grants."""
    answer = call_admin(options, lambda host: host.list_capabilities(pb.ListCapabilitiesRequest()))
    if json:
        show_json(answer)
        return 0
    out = Output()
    if out.is_terminal:
        offered = ", ".join(f"{each.capability_type} {each.version}" for each in answer.capabilities)
        out.line(f"the host offers {offered or 'nothing'}; {len(answer.grants)} grants")
    ids = {"": NOTHING, **out.ids({i for g in answer.grants for i in (g.runtime_id, g.provider_id) if i})}
    granted = {each.capability_type for each in answer.grants}
    rows = [_row(each, ids) for each in answer.grants]
    rows += [
        [each.capability_type, NOTHING, NOTHING, NOTHING, NOTHING, "no grants"]
        for each in answer.capabilities
        if each.capability_type not in granted
    ]
    out.table(_COLUMNS, rows)
    return 0


def _row(grant: pb.Grant, ids: Mapping[str, str]) -> list[str]:
    plugins = ids[grant.runtime_id], ids[grant.provider_id]
    return [grant.capability_type, *plugins, until(grant.expires_at), grant.grant_id, grant.reason]
