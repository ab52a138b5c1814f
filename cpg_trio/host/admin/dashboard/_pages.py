"""The pages: what each asks the view for, and which parts of it are live.

A page computes nothing that the view does not say: it sorts, cuts and lays out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from markupsafe import Markup

from cpg_trio._human import seconds_of
from cpg_trio.host.admin import messages
from cpg_trio.host.admin.dashboard._forms import Form
from cpg_trio.host.admin.dashboard._graph import MAX_NODES, drawing
from cpg_trio.host.admin.dashboard._live import Parts
from cpg_trio.host.admin.dashboard._query import Query
from cpg_trio.host.admin.dashboard._rendering import Renderer
from cpg_trio.host.admin.dashboard._tables import ROWS, Column, Shown, Table
from cpg_trio.host.admin.events import EventLog
from cpg_trio.host.admin.view import View
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State

_EVENTS = 40  # beside the graph
_PROBLEMS = 10  # that are listed on the overview; the table of plugins has all
_ON_OVERVIEW = 12  # plugins
_HOSTS = 20  # that share the directory

_RANK = {state.number: state.rank for state in State}
_KINDS = {name.removeprefix("EVENT_KIND_").lower(): number for name, number in pb.EventKind.items() if number}


@attrs.frozen
class Page:
    """A page before it is rendered. `regions` are templates of parts that are live."""

    template: str
    title: str
    path: str
    query: Query
    context: Mapping[str, object] = attrs.field(factory=dict)
    regions: Sequence[str] = ()
    lists: Mapping[str, Mapping[str, Markup]] = attrs.field(factory=dict)


def _requires(plugin: pb.Plugin) -> tuple[bool, list[str]]:
    return all(each.available for each in plugin.requires), [each.service_type for each in plugin.requires]


def _state_rank(item: Any) -> tuple[int, str]:
    """Return what a state is sorted by, the worst first."""
    return -_RANK.get(item.state, 0), item.reason


PLUGINS: Table[pb.Plugin] = Table(
    [
        Column("name", "plugin", lambda p: (p.name, p.runtime_id)),
        Column("state", "state", _state_rank),
        Column("version", "version", lambda p: (p.version, p.name)),
        Column("provides", "provides", lambda p: [each.service_type for each in p.provides]),
        Column("requires", "requires", _requires),
        Column(
            "in", "in", lambda p: p.calls_in.calls_per_second, numeric=True, title="calls to it, a second"
        ),
        Column(
            "out", "out", lambda p: p.calls_out.calls_per_second, numeric=True, title="calls of it, a second"
        ),
        Column("p95", "p95", lambda p: seconds_of(p.calls_in.p95), numeric=True, title="of calls to it"),
        Column(
            "failed",
            "failed",
            lambda p: p.calls_in.failed / max(1, p.calls_in.calls),
            numeric=True,
            title="share of calls to it",
        ),
        Column("since", "since", lambda p: p.state_since.seconds, numeric=True, title="in this state"),
    ]
)
SERVICES: Table[pb.Service] = Table(
    [
        Column("service", "service", lambda s: s.service_type),
        Column("state", "state", _state_rank),
        Column("providers", "providers", lambda s: (len(s.providers), s.service_type)),
        Column("selection", "selection", lambda s: (s.selection, s.service_type)),
        Column("required", "required by", lambda s: (len(s.required_by), s.service_type)),
        Column("rate", "calls/s", lambda s: s.calls.calls_per_second, numeric=True),
        Column("p95", "p95", lambda s: seconds_of(s.calls.p95), numeric=True),
        Column("failed", "failed", lambda s: s.calls.failed / max(1, s.calls.calls), numeric=True),
    ]
)
SERIES: Table[pb.CallSeries] = Table(
    [
        Column("caller", "caller", lambda s: (s.caller, s.provider)),
        Column("provider", "provider", lambda s: (s.provider, s.caller)),
        Column("method", "method", lambda s: (s.service_type, s.method)),
        Column("code", "outcome", lambda s: (s.code == "ok", s.code)),
        Column("rate", "calls/s", lambda s: s.calls.calls_per_second, numeric=True),
        Column("p50", "p50", lambda s: seconds_of(s.calls.p50), numeric=True),
        Column("p95", "p95", lambda s: seconds_of(s.calls.p95), numeric=True),
        Column("p99", "p99", lambda s: seconds_of(s.calls.p99), numeric=True),
        Column("flight", "in flight", lambda s: s.calls.in_flight, numeric=True),
        Column("sent", "sent", lambda s: s.calls.request_bytes, numeric=True, title="in requests"),
        Column("received", "received", lambda s: s.calls.response_bytes, numeric=True, title="in responses"),
    ]
)
GRANTS: Table[pb.Grant] = Table(
    [
        Column("plugin", "plugin", lambda g: g.runtime_id),
        Column("capability", "capability", lambda g: (g.capability_type, g.runtime_id)),
        Column("provider", "provider", lambda g: (g.provider_id, g.runtime_id)),
        Column("reason", "reason", lambda g: g.reason),
        Column("expires", "expires", lambda g: g.expires_at.seconds, numeric=True),
        Column("action", "action"),
    ]
)
SETTINGS: Table[pb.Setting] = Table(
    [
        Column("name", "variable", lambda s: s.name),
        Column("value", "value", lambda s: s.value),
        Column("source", "source", lambda s: (s.source, s.name)),
        Column("meaning", "meaning"),
    ]
)


class Pages:
    """Makes and renders the pages of a host."""

    def __init__(self, view: View, events: EventLog, renderer: Renderer) -> None:
        self._view = view
        self._events = events
        self._renderer = renderer

    def render(self, page: Page) -> bytes:
        """Return a page as HTML."""
        parts = self.parts(page)
        html = {name: Markup(text) for name, text in parts.regions.items()}  # noqa: S704 - rendered by ours
        context = {**self._context(page), "regions": html, "lists": parts.lists, "title": parts.title}
        return self._renderer.render(page.template, context).encode()

    def parts(self, page: Page) -> Parts:
        """Return what is live on a page."""
        context = self._context(page)
        regions = ["sentence", "pulse", *page.regions]
        return Parts(
            {name: self._renderer.render(f"parts/{name}.html", context) for name in regions},
            page.lists,
            title=str(self._renderer.render("parts/title.html", context)).strip(),
            announcement=_announcement(context["status"]),
        )

    def _context(self, page: Page) -> dict[str, Any]:
        status = self._view.status(pb.GetStatusRequest())
        there = sum(each.count for each in status.plugins if each.state != pb.PLUGIN_STATE_GONE)
        return {"status": status, "there": there, "page": page, "query": page.query, **page.context}

    def _rows(self, kind: str, items: Iterable[Any], key: Callable[[Any], object]) -> dict[str, Markup]:
        keyed = {str(key(item)): item for item in items}
        return {name: self._renderer.row(kind, item, name) for name, item in keyed.items()}

    # The pages

    def overview(self, query: Query) -> Page:
        """Return the page of all at one glance."""
        status = self._view.status(pb.GetStatusRequest())
        plugins = self._view.plugins(pb.ListPluginsRequest()).plugins
        first = sorted(plugins, key=lambda p: (-_RANK[p.state], p.name, p.runtime_id))[:_ON_OVERVIEW]
        latest = self._latest(_EVENTS)
        graph = drawing(self._view.graph(pb.GetGraphRequest()), query.get("about"))
        return Page(
            "overview.html",
            "Overview",
            "/",
            query,
            {
                "graph": graph,
                "max_nodes": MAX_NODES,
                "hosts": _HOSTS,
                "problems": status.problems[:_PROBLEMS],
                "more_problems": len(status.problems) - _PROBLEMS,
                "columns": PLUGINS.shown(first, Query({})).headings,
                "more_plugins": len(plugins) - len(first),
            },
            ["problems", "tiles", "graph", "hosts", "more_plugins"],
            {
                "plugin-rows": self._rows("plugin", first, _key),
                "event-rows": self._rows("event", latest, _sequence),
            },
        )

    def plugins(self, query: Query) -> Page:
        """Return the table of plugins."""
        states = [state.number for state in State if state.slug == query.get("state")]
        request = pb.ListPluginsRequest(filter=query.get("q"), states=states)  # type: ignore[arg-type] # numbers
        found = sorted(self._view.plugins(request).plugins, key=lambda p: (p.name, p.runtime_id))
        shown = PLUGINS.shown(found, query)
        managed = self._view.managed(pb.ListManagedPluginsRequest()).plugins
        lists = {"managed-rows": self._rows("managed", managed[:ROWS], lambda m: m.name)}
        rows = self._rows("plugin", shown.items, _key)
        return self._table("plugins", "Plugins", query, shown, rows, lists=lists)

    def services(self, query: Query) -> Page:
        """Return the table of services."""
        found = self._view.services(pb.ListServicesRequest(filter=query.get("q"))).services
        shown = SERVICES.shown(found, query)
        rows = self._rows("service", shown.items, lambda s: s.service_type)
        return self._table("services", "Services", query, shown, rows)

    def calls(self, query: Query) -> Page:
        """Return the page of calls: those of the last minute, in flight, failed, slowest."""
        answer = self._view.calls(pb.ListCallsRequest(filter=query.get("q")))
        shown = SERIES.shown(answer.series, query)
        lists = {
            "in-flight-rows": self._numbered("in_flight", answer.in_flight[:ROWS]),
            "failure-rows": self._numbered("failure", answer.failures[:ROWS]),
            "slow-rows": self._numbered("slow", answer.slowest[:ROWS]),
        }
        context = {
            "in_flight": len(answer.in_flight),
            "failures": len(answer.failures),
            "slowest": len(answer.slowest),
        }
        rows = self._rows("series", shown.items, _of_series)
        return self._table("calls", "Calls", query, shown, rows, context, lists, ["call_counts"])

    def capabilities(self, query: Query) -> Page:
        """Return the page of what the host offers, and to whom it has granted what."""
        answer = self._view.capabilities(pb.ListCapabilitiesRequest())
        text = query.get("q")
        found = [g for g in answer.grants if any(text in word for word in (g.runtime_id, g.capability_type))]
        shown = GRANTS.shown(found, query)
        rows = self._rows("grant", shown.items, lambda g: g.grant_id)
        context = {"capabilities": answer.capabilities}
        return self._table("capabilities", "Capabilities", query, shown, rows, context)

    def configuration(self, query: Query) -> Page:
        """Return the table of settings, and where each comes from."""
        text = query.get("q").lower()
        settings = self._view.configuration(pb.GetConfigurationRequest()).settings
        found = [s for s in settings if any(text in word.lower() for word in (s.name, s.value, s.meaning))]
        shown = SETTINGS.shown(found, query)
        rows = self._rows("setting", shown.items, lambda s: s.name)
        return self._table("configuration", "Configuration", query, shown, rows)

    def events(self, query: Query) -> Page:
        """Return the stream of events, the newest first."""
        kind, plugin = query.get("kind"), query.get("q")
        wanted = _KINDS.get(kind)
        latest = self._latest(ROWS, lambda e: e.concerns(plugin) and (not kind or e.kind == wanted))
        context = {"kinds": list(_KINDS), "kept": sum(1 for _ in self._events), "most": ROWS}
        lists = {"event-rows": self._rows("event", latest, _sequence)}
        return Page("events.html", "Events", "/events", query, context, ["event_count"], lists)

    def plugin(self, plugin: str, query: Query) -> Page:
        """Return the whole story of one plugin. Raises: ConnectError `not_found`, `invalid_argument`."""
        answer = self._view.plugin(pb.GetPluginRequest(plugin=plugin))
        if not answer.plugin.runtime_id:
            return self.managed(answer.managed.name, query)
        return Page(
            "plugin.html",
            answer.plugin.runtime_id,
            f"/plugins/{plugin}",
            query,
            {"answer": answer, "plugin": answer.plugin},
            ["plugin_state", "plugin_facts", "plugin_dependencies", "plugin_callers"],
            {
                "health-rows": self._numbered("health", list(reversed(answer.history))),
                "series-rows": self._rows("series", answer.calls[:ROWS], _of_series),
                "event-rows": self._rows("event", list(reversed(answer.events))[:ROWS], _sequence),
                "grant-rows": self._rows("grant", answer.grants[:ROWS], lambda g: g.grant_id),
                "line-rows": self._rows("line", answer.lines, _sequence),
            },
        )

    def managed(self, plugin: str, query: Query) -> Page:
        """Return the page of a plugin that the host runs. Raises: ConnectError `not_found`."""
        managed, events, lines = self._view.managed_story(plugin)
        return Page(
            "managed.html",
            managed.name,
            f"/managed/{plugin}",
            query,
            {"managed": managed},
            ["managed_state", "managed_facts"],
            {
                "replica-rows": self._numbered("replica", managed.replicas[:ROWS]),
                "line-rows": self._rows("line", lines, _sequence),
                "event-rows": self._rows("event", list(reversed(events))[:ROWS], _sequence),
            },
        )

    def confirmation(self, form: Form, subject: str) -> Page:
        """Return the page that asks whether an action is meant. Raises: ConnectError `not_found`."""
        plugin, services, managed, impact = None, [], None, None
        if form.of == "managed":
            managed, _, _ = self._view.managed_story(subject)
            if "force" in form.asks:
                impact = self._view.impact(pb.GetImpactRequest(plugin=subject)).impact
        elif not form.page:
            plugin = self._view.plugin(pb.GetPluginRequest(plugin=subject)).plugin
            types = {each.service_type for each in plugin.provides}
            listed = self._view.services(pb.ListServicesRequest()).services
            services = [each for each in listed if each.service_type in types]
        context = {
            "form": form,
            "subject": subject,
            "plugin": plugin,
            "services": services,
            "managed": managed,
            "impact": impact,
        }
        return self.about("confirm.html", f"{form.verb} {subject}?", back=form.back(subject), **context)

    def done(self, form: Form, subject: str, done: str) -> Page:
        """Return the page that says what an action has done."""
        return self.about("done.html", "Done", back=form.back(subject, done=True), done=done)

    def about(self, template: str, title: str, **context: object) -> Page:
        """Return a page that is not live, such as a confirmation or an error."""
        return Page(template, title, "", Query({}), context)

    def _table(
        self,
        name: str,
        title: str,
        query: Query,
        shown: Shown[Any],
        rows: Mapping[str, Markup],
        context: Mapping[str, object] | None = None,
        lists: Mapping[str, Mapping[str, Markup]] | None = None,
        regions: Sequence[str] = (),
    ) -> Page:
        """Return a page with one table that is sorted and cut into pages."""
        return Page(
            f"{name}.html",
            title,
            f"/{name}",
            query,
            {"shown": shown, "columns": shown.headings, **(context or {})},
            ["pager", *regions],
            {"rows": rows, **(lists or {})},
        )

    def _numbered(self, kind: str, items: Sequence[Any]) -> dict[str, Markup]:
        """Return rows of things that have no name of their own, by their places."""
        return {str(place): self._renderer.row(kind, item, str(place)) for place, item in enumerate(items)}

    def _latest(self, most: int, wanted: Callable[[Any], bool] = lambda _: True) -> list[pb.Event]:
        kept = [event for event in self._events if wanted(event)]
        return [messages.event(event) for event in reversed(kept[-most:])]


def _key(plugin: pb.Plugin) -> str:
    """Return what names a row: the runtime id, or the replica that has no identity."""
    return plugin.runtime_id or f"{plugin.replica.plugin}/{plugin.replica.number}"


def _sequence(of: pb.Event | pb.LogLine) -> int:
    return of.sequence


def _of_series(series: pb.CallSeries) -> str:
    return f"{series.caller}|{series.provider}|{series.service_type}|{series.method}|{series.code}"


def _announcement(status: pb.GetStatusResponse) -> str:
    """Return what is wrong, without the times that would make it new each second."""
    about = dict.fromkeys(p.runtime_id or p.service_type or p.summary for p in status.problems[:_PROBLEMS])
    return f"{State.of(status.state).word}: {', '.join(about)}" if about else State.of(status.state).word
