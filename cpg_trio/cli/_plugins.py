"""The command `plugins`: all plugins in a table, or the whole story of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cpg_trio._human import rate, seconds_of, span
from cpg_trio.cli._admin import HERE, AdminOptions, call_admin
from cpg_trio.cli._calls import SERIES, series_rows
from cpg_trio.cli._errors import UsageError
from cpg_trio.cli._events import event_line
from cpg_trio.cli._graph import EDGES, edge_rows
from cpg_trio.cli._logs import log_line
from cpg_trio.cli._managed import phase_word, replica_text
from cpg_trio.cli._names import PluginName
from cpg_trio.cli._output import NOTHING, Column, JsonFlag, Output, call_cells, show_json, since, until
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.text import Text

COLUMNS = (
    Column("PLUGIN"),
    Column("STATE"),
    Column("SINCE", right=True),
    Column("VERSION", optional=True),
    Column("PROVIDES", optional=True),
    Column("REQUIRES", optional=True),
    Column("IN/S", right=True, optional=True),
    Column("OUT/S", right=True, optional=True),
    Column("WHY", prose=True),
)
_HOST = Column("HOST", optional=True)  # where several share a directory
_LAST_EVENTS = 10


def plugins(
    plugin: PluginName = "",
    /,
    *,
    state: Annotated[
        list[str], Parameter(help="Only those in this state; may be given several times.", metavar="STATE")
    ] = [],  # noqa: B006 - the parser copies it
    filter: Annotated[  # noqa: A002 - what the option is called
        str, Parameter(help="Only those whose name, id or services have this text in them.", metavar="TEXT")
    ] = "",
    all: Annotated[bool, Parameter(help="Those that have gone, too.")] = False,  # noqa: A002 - the same
    json: JsonFlag = False,
    options: AdminOptions = HERE,
) -> int:
    """Show all plugins, or all about one."""
    if plugin:
        story = call_admin(options, lambda host: host.get_plugin(pb.GetPluginRequest(plugin=plugin)))
        show_json(story) if json else show_plugin(story, Output())
        return 0
    request = pb.ListPluginsRequest(states=map(_state, state), filter=filter, include_gone=all)
    answer = call_admin(options, lambda host: host.list_plugins(request))
    show_json(answer) if json else show_plugins(answer.plugins, Output())
    return 0


def show_plugins(plugins: Sequence[pb.Plugin], out: Output) -> None:
    """Write a table of plugins; on a terminal after a line that counts their states."""
    if out.is_terminal:
        out.line(states_line(plugins, out))
    rows = plugin_rows(plugins, out)
    if any(each.host_id for each in plugins):
        rows = [[*row, _host_of(each)] for row, each in zip(rows, plugins, strict=True)]
        out.table((*COLUMNS, _HOST), rows)
    else:
        out.table(COLUMNS, rows)


def states_line(plugins: Sequence[pb.Plugin], out: Output) -> Text:
    """Return how many plugins are in each state, in one line."""
    counts = [(state.number, sum(each.state == state.number for each in plugins)) for state in State]
    told = (out.state(number, f"{count} {out.word(number)}") for number, count in counts if count)
    return out.joined([f"{len(plugins)} plugin{'' if len(plugins) == 1 else 's'}"], told)


def plugin_rows(plugins: Iterable[pb.Plugin], out: Output) -> list[list[str | Text]]:
    """Return the cells of a table of plugins."""
    every = list(plugins)
    ids = out.ids(each.runtime_id for each in every if each.runtime_id)
    return [
        [
            ids[each.runtime_id] if each.runtime_id else _replica_name(each),
            out.state(each.state),
            since(each.state_since),
            each.version or NOTHING,
            " ".join(service.service_type for service in each.provides) or NOTHING,
            " ".join(_requirement(required, out) for required in each.requires) or NOTHING,
            rate(each.calls_in.calls_per_second).removesuffix("/s"),
            rate(each.calls_out.calls_per_second).removesuffix("/s"),
            each.reason + _again(each),
        ]
        for each in every
    ]


def _replica_name(plugin: pb.Plugin) -> str:
    """Return the name of a plugin that the host runs, and that has no identity."""
    return plugin.name if plugin.replica.number <= 1 else f"{plugin.name}/{plugin.replica.number}"


def _again(plugin: pb.Plugin) -> str:
    return f"; again in {until(plugin.replica.again_at)}" if plugin.replica.HasField("again_at") else ""


def show_plugin(story: pb.GetPluginResponse, out: Output) -> None:
    """Write all about one plugin."""
    plugin, managed = story.plugin, story.managed
    if story.HasField("plugin"):
        reason = f": {plugin.reason}" if plugin.reason else ""
        lasting = f" for {since(plugin.state_since)}: {plugin.name}{reason}{_again(plugin)}"
        out.line(out.state(plugin.state) + lasting)
    else:
        reason = f": {managed.reason}" if managed.reason else ""
        out.line(out.state(managed.state) + f": {managed.name}{reason}")
    out.line("")
    for name, text in [*(_facts(plugin) if plugin.runtime_id else ()), *_managed_facts(story)]:
        out.line(out.label(f"  {name}", 12), text)
    for required in plugin.requires:
        why = f": {required.reason}" if required.reason else ""
        out.line(out.label("  requires", 12), f"{_requirement(required, out)}{why}")
    _history(story.history, out)
    if story.edges:
        _section("calls", out)
        out.table(EDGES, edge_rows(story.edges, out))
    if story.calls:
        _section("methods", out)
        out.table(SERIES, series_rows(story.calls))
    if story.events:
        _section("last events", out)
    for event in story.events[-_LAST_EVENTS:]:
        out.line(event_line(event, out))
    if story.lines:
        _section(f"last lines (more: cpg-trio logs {managed.name})", out)
    for line in story.lines[-_LAST_EVENTS:]:
        out.line(log_line(line, out))


def _managed_facts(story: pb.GetPluginResponse) -> Iterator[tuple[str, str]]:
    """Yield how the host runs a plugin."""
    if not story.HasField("managed"):
        return
    managed = story.managed
    written = f", written in {managed.source}" if managed.source else ""
    yield "managed", f"{managed.name}, launched as {managed.launcher}{written}"
    for replica in managed.replicas:
        text = replica_text(replica)
        runs = f"run {replica.runs}" if replica.runs else "not started yet"
        doing = f"{phase_word(replica.phase)} for {since(replica.since)}, {runs}{f', {text}' if text else ''}"
        yield ("replica" if len(managed.replicas) == 1 else f"replica {replica.number}"), doing


def _facts(plugin: pb.Plugin) -> list[tuple[str, str]]:
    calls_in, calls_out = call_cells(plugin.calls_in), call_cells(plugin.calls_out)
    lease = f"{span(seconds_of(plugin.lease_left))} left" if plugin.HasField("lease_left") else "none"
    provides = ", ".join(f"{each.service_type} {each.version}" for each in plugin.provides) or "nothing"
    of_host = [("host", _host_of(plugin))] if plugin.host_id else []
    heard = f", heard of {since(plugin.last_heard_at)} ago" if plugin.HasField("last_heard_at") else ""
    return [
        ("id", plugin.runtime_id),
        *of_host,
        ("version", plugin.version or NOTHING),
        ("url", plugin.url or NOTHING),
        ("from", f"{plugin.address or NOTHING}, {since(plugin.identity_since)} ago"),
        ("lease", f"{lease}{heard}"),
        ("provides", provides),
        ("calls in", f"{calls_in[0]}   p50 {calls_in[1]}   p95 {calls_in[2]}   failed {calls_in[3]}"),
        ("calls out", f"{calls_out[0]}   p50 {calls_out[1]}   p95 {calls_out[2]}   failed {calls_out[3]}"),
        ("holds", f"{plugin.connections} connections, {plugin.watches} watches, {plugin.grants} grants"),
    ]


def _host_of(plugin: pb.Plugin) -> str:
    """Return which host owns a plugin."""
    return plugin.host_url or (f"none ({plugin.host_id} is gone)" if plugin.host_id else NOTHING)


def _history(changes: Sequence[pb.HealthChange], out: Output) -> None:
    if changes:
        _section("history", out)
    for change in changes[-_LAST_EVENTS:]:
        out.line(f"  {out.when(change.at)}  ", out.state(change.state), f"  {change.reason}")


def _section(title: str, out: Output) -> None:
    out.line("")
    out.line(out.label(title, 0))


def _requirement(required: pb.RequiredService, out: Output) -> str:
    if required.available:
        return f"{required.service_type} {out.sign('✓', 'ok')}"
    return f"{required.service_type} {out.sign('✗', 'missing')}"


def _state(word: str) -> str:
    wanted = word.lower().replace("-", " ")
    if wanted not in (state.word for state in State):
        known = ", ".join(state.word for state in State)
        raise UsageError(f"there is no state {word!r}: it is one of {known}")
    return f"PLUGIN_STATE_{wanted.upper().replace(' ', '_')}"
