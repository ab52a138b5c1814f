"""The command `impact`: what would be lost without a plugin."""

from __future__ import annotations

from collections.abc import Iterator

from cpg_trio._gen.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._managed import ManagedName
from cpg_trio.cli._output import JsonFlag, Output, show_json


def impact(plugin: ManagedName, /, *, json: JsonFlag = False, options: AdminOptions = HERE) -> int:
    """Show what would be lost if a plugin were removed. Nothing is done."""
    answer = call_admin(options, lambda host: host.get_impact(pb.GetImpactRequest(plugin=plugin)))
    show_json(answer) if json else show_impact(answer.impact, Output())
    return 0


def show_impact(impact: pb.Impact, out: Output) -> None:
    """Write what would be lost."""
    for line in impact_lines(impact):
        out.line(line)


def impact_lines(impact: pb.Impact) -> Iterator[str]:
    """Yield what would be lost, one sentence a line."""
    if not impact.plugins:
        yield f"without {impact.plugin} nobody loses anything"
    for service in impact.services:
        others = ", ".join(service.other_providers)
        who = f"{others} would still provide it" if others else "nobody would provide it"
        yield f"{service.service_type}: {who}"
    for plugin in impact.plugins:
        lost = ", ".join(plugin.services)
        what = f"requires {lost}, and could not work" if plugin.required else f"would work without {lost}"
        path = f" ({' <- '.join(plugin.path)})" if len(plugin.path) > 2 else ""  # noqa: PLR2004 - not itself
        yield f"{plugin.name} {what}{path}"
    if len(impact.order) > 1:
        yield f"they would go down in this order: {', '.join(impact.order)}"


def why_refused(impact: pb.Impact) -> str:
    """Return why a plugin is not removed, and what to do."""
    names = [plugin.name for plugin in impact.plugins if plugin.required]
    who = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")  # noqa: PLR2004
    return f"{impact.plugin} is not removed, as {who} could not work without it: say --force if that is meant"
