"""The command `impact`: what would be lost without a plugin."""

from __future__ import annotations

from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._names import PluginName
from cpg_trio.cli._output import JsonFlag, Output, show_json
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

_MOST_NAMED = 5


def impact(plugin: PluginName, /, *, json: JsonFlag = False, options: AdminOptions = HERE) -> int:
    """Show what would be lost if a plugin were removed. Nothing is done."""
    answer = call_admin(options, lambda host: host.get_impact(pb.GetImpactRequest(plugin=plugin)))
    show_json(answer) if json else show_impact(answer.impact, Output())
    return 0


def show_impact(impact: pb.Impact, out: Output) -> None:
    """Write what would be lost."""
    if not impact.losers:
        out.line(f"without {impact.plugin} nobody loses anything")
    for line in impact.lines:
        out.line(line)
    if len(impact.order) > 1:
        out.line(f"in this order they would go down: {', '.join(impact.order)}")


def why_refused(impact: pb.Impact) -> str:
    """Return why a plugin is not removed, and what to do."""
    names = [loser.plugin for loser in impact.losers if loser.requires]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    who = ", ".join(names[:_MOST_NAMED]) + more
    return (
        f"{impact.plugin} is not removed, as {who} would be left without a service that it requires:"
        " say --force if that is meant"
    )
