"""What an operator sees of a host: each request of the admin service that only reads, and its answer.

Synchronous, and without I/O beside what the kernel tells of the process. Pages and commands show what stands
in these answers, and work nothing out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs

from cpg_trio._lines import one_line
from cpg_trio.host.admin import managed_messages, messages, plugin_messages
from cpg_trio.host.admin.events import EventLog
from cpg_trio.host.admin.host_state import HostState
from cpg_trio.host.admin.hosts import Hosts
from cpg_trio.host.admin.managed import ManagedStates, Standing
from cpg_trio.host.admin.plugins import Plugins, Record
from cpg_trio.host.admin.problems import problems_of
from cpg_trio.host.admin.snapshot import Parts, Snapshot
from cpg_trio.host.capabilities.grants import Grant
from cpg_trio.host.supervision import OutputReader, PluginSpec, UnknownPluginError
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.states import State

_MOST_EVENTS = 200  # of one plugin, in an answer
_WHOLE_REASON = 4096  # characters: as long as a plugin may report
_LAST_LINES = 100  # of what a plugin has written, in an answer
_MOST_NAMED = 5  # plugins, in an error


class View:
    """Answers the requests of the admin service that only read."""

    def __init__(
        self,
        parts: Parts,
        plugins: Plugins,
        events: EventLog,
        host: HostState,
        managed: ManagedStates,
        hosts: Hosts | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._parts = parts
        self._plugins = plugins
        self._managed = managed
        self._events = events
        self._host = host
        self._hosts = hosts
        self._wall_clock = wall_clock

    def status(self, _request: pb.GetStatusRequest) -> pb.GetStatusResponse:
        """Say whether all is well, and if not, what is wrong."""
        snapshot = self._snapshot()
        hosts, live, without_identity = self._hosts, self._plugins.live(), snapshot.without_identity
        others = [*self._host.problems(), *(hosts.problems() if hosts is not None else ())]
        others += self._managed.problems()
        managed = [standing.spec.self_id for standing in without_identity]
        problems = problems_of(self._plugins, snapshot.dependencies, others, managed)
        states = [record.state for record in live]
        states += [standing.state for standing in without_identity]
        there = {*managed, *(record.name for record in live)}  # in place of those of their names
        gone = {record.name for record in self._plugins.gone()} - there
        states += [State.GONE] * len(gone)
        return pb.GetStatusResponse(
            state=messages.state(problems[0].state if problems else State.HEALTHY),
            problems=[problem.message() for problem in problems],
            host=self._host.message(),
            plugins=[
                pb.StateCount(state=messages.state(state), count=count)
                for state in State
                if (count := states.count(state))
            ],
            services=len(self._parts.registry.service_types()),
            calls=snapshot.figures.all(),
            refused=self._host.refusals.total() + snapshot.figures.refused_later(),
            directory=hosts.message([r.runtime_id for r in live]) if hosts is not None else None,
        )

    def plugins(self, request: pb.ListPluginsRequest) -> pb.ListPluginsResponse:
        """List plugins by name, and of one name the oldest first."""
        wanted, snapshot = set(request.states), self._snapshot()
        with_gone = request.include_gone or pb.PLUGIN_STATE_GONE in wanted
        chosen = [
            record
            for record in (*self._plugins.live(), *(self._plugins.gone() if with_gone else ()))
            if (not wanted or record.state.number in wanted) and _matches(record, request.filter)
        ]
        chosen.sort(key=lambda record: (record.name, record.since))
        listed = [plugin_messages.plugin(record, snapshot) for record in chosen]
        listed += [
            managed_messages.plugin(standing, snapshot)
            for standing in snapshot.without_identity
            if (not wanted or standing.state.number in wanted) and _is_about(standing, request.filter)
        ]
        listed.sort(key=lambda plugin: plugin.name)
        return pb.ListPluginsResponse(plugins=listed)

    def plugin(self, request: pb.GetPluginRequest) -> pb.GetPluginResponse:
        """Tell all that is known of one plugin. Raises: as `find`."""
        snapshot = self._snapshot()
        spec = self._managed.named(request.plugin)
        if spec is not None and len(self._live_of(spec)) != 1:
            return self._all_replicas(spec, snapshot)
        record = self.find(request.plugin)
        standing = self._managed.of_record(record)
        plugin = plugin_messages.plugin(record, snapshot)
        if record.state in (State.DEGRADED, State.UNHEALTHY):  # lists and histories have the beginning of it
            plugin.reason = one_line(self._parts.registry.health(record.runtime_id).reason, _WHOLE_REASON)
        return pb.GetPluginResponse(
            plugin=plugin,
            history=[
                pb.HealthChange(
                    at=messages.timestamp(change.at), state=messages.state(change.state), reason=change.reason
                )
                for change in record.history
            ],
            edges=[e for e in plugin_messages.edges(snapshot) if record.name in (e.caller, e.provider)],
            events=[messages.event(event) for event in self._events.of(record.runtime_id)[-_MOST_EVENTS:]],
            grants=[self._grant(grant) for grant in self._parts.grants.of(record.runtime_id)],
            calls=snapshot.figures.series(record.runtime_id),
            managed=self.managed_of(standing.spec) if standing is not None else None,
            lines=self._lines(standing.spec, standing.replica.number) if standing is not None else (),
        )

    def _all_replicas(self, spec: PluginSpec, snapshot: Snapshot) -> pb.GetPluginResponse:
        """Tell of a plugin that the host runs, of which no run or several have an identity."""
        found = [each for each in snapshot.without_identity if each.spec is spec]
        first = found[0] if found and not self._live_of(spec) else None
        edges = plugin_messages.edges(snapshot)
        return pb.GetPluginResponse(
            plugin=managed_messages.plugin(first, snapshot) if first is not None else None,
            edges=[edge for edge in edges if spec.self_id in (edge.caller, edge.provider)],
            events=self._events_of(spec),
            managed=self.managed_of(spec),
            lines=self._lines(spec),
        )

    def managed(self, request: pb.ListManagedPluginsRequest) -> pb.ListManagedPluginsResponse:
        """List the plugins that the host runs. Raises: ConnectError `not_found` if none is meant."""
        specs = [self._managed.find(request.plugin)] if request.plugin else self._managed.specs()
        source = self._parts.managed.source
        return pb.ListManagedPluginsResponse(
            plugins=map(self.managed_of, specs), source=source.name if source is not None else ""
        )

    def managed_story(self, plugin: str) -> tuple[pb.ManagedPlugin, Sequence[pb.Event], Sequence[pb.LogLine]]:
        """Return a plugin that the host runs, its last events and lines. Raises: ConnectError `not_found`."""
        spec = self._managed.find(plugin)
        return self.managed_of(spec), self._events_of(spec), self._lines(spec)

    def managed_of(self, spec: PluginSpec) -> pb.ManagedPlugin:
        """Return a plugin that the host runs."""
        return managed_messages.managed_plugin(spec, self._managed)

    @contextmanager
    def reading_lines(self, request: pb.WatchLogsRequest) -> Iterator[OutputReader]:
        """Yield a reader of what a plugin writes, from the last lines that are asked for.

        Raises: ConnectError `not_found`, `resource_exhausted`.
        """
        name, book = self._managed.find(request.plugin).name, self._parts.managed.output
        after = request.after
        if request.lines:
            last = book.last(name, request.lines, request.replica)
            after = max(after, last[0].sequence - 1 if last else 0)
        with book.reading(name, request.replica, after) as reader:
            yield reader

    def impact(self, request: pb.GetImpactRequest) -> pb.GetImpactResponse:
        """Tell what would be lost without a plugin, whoever runs it. Raises: ConnectError `not_found`."""
        spec = self._managed.named(request.plugin)
        try:
            impact = self._parts.managed.impact(spec.name if spec is not None else request.plugin)
        except UnknownPluginError:
            text = f"no plugin is called {request.plugin!r}: name one by its name, or its whole runtime id"
            raise ConnectError(Code.NOT_FOUND, text) from None
        return pb.GetImpactResponse(impact=managed_messages.impact(impact))

    def services(self, request: pb.ListServicesRequest) -> pb.ListServicesResponse:
        """List the services that are provided, and those that are required and missing."""
        return pb.ListServicesResponse(services=plugin_messages.services(request.filter, self._snapshot()))

    def graph(self, _request: pb.GetGraphRequest) -> pb.GetGraphResponse:
        """Tell who requires whom, and who calls whom, by the names of plugins."""
        snapshot = self._snapshot()
        edges = plugin_messages.edges(snapshot)
        return pb.GetGraphResponse(nodes=plugin_messages.nodes(edges, snapshot), edges=edges)

    def calls(self, request: pb.ListCallsRequest) -> pb.ListCallsResponse:
        """Tell of the calls of the last minute, of those in flight, and of recent failures."""
        self._parts.registry.calls.note_progress()
        figures, wanted = self._snapshot().figures, request.filter
        return pb.ListCallsResponse(
            series=figures.series(wanted),
            in_flight=figures.in_flight(wanted),
            failures=figures.failures(wanted),
            slowest=figures.slowest(wanted),
        )

    def capabilities(self, _request: pb.ListCapabilitiesRequest) -> pb.ListCapabilitiesResponse:
        """List what the host offers, and the grants of it."""
        return pb.ListCapabilitiesResponse(
            capabilities=[
                pb.CapabilityInfo(capability_type=capability.type, version=capability.version)
                for capability in self._parts.capabilities
            ],
            grants=[self._grant(grant) for grant in self._parts.grants.all()],
        )

    def configuration(self, _request: pb.GetConfigurationRequest) -> pb.GetConfigurationResponse:
        """Tell the configuration that is in effect."""
        return pb.GetConfigurationResponse(
            settings=[pb.Setting(**attrs.asdict(setting)) for setting in self._parts.settings]
        )

    def find(self, plugin: str) -> Record:
        """Return a plugin by its runtime id, an unambiguous beginning of one, or its name.

        Those that are there come before those that are gone, and of these the last one is meant. Raises:
        ConnectError `not_found`; `invalid_argument` if several are meant.
        """
        if not plugin:
            text = "name a plugin: a runtime id, a beginning of one, or a name"
            raise ConnectError(Code.INVALID_ARGUMENT, text)
        if (record := self._plugins.get(plugin)) is not None:
            return record
        spec = self._managed.named(plugin)
        if found := (self._live_of(spec) if spec is not None else _meant(plugin, self._plugins.live())):
            if len(found) > 1:
                ids = ", ".join(sorted(record.runtime_id for record in found)[:_MOST_NAMED])
                more = ", ..." if len(found) > _MOST_NAMED else ""
                text = f"{plugin!r} may be any of {len(found)} plugins: {ids}{more}"
                raise ConnectError(Code.INVALID_ARGUMENT, text)
            return found[0]
        if spec is not None:
            words = ", ".join(dict.fromkeys(each.state.word for each in self._managed.standings(spec)))
            text = f"{spec.name} has no identity now: it is {words or 'without replicas'}"
            raise ConnectError(Code.FAILED_PRECONDITION, text)
        if gone := _meant(plugin, self._plugins.gone()):
            return gone[-1]
        raise ConnectError(Code.NOT_FOUND, f"no plugin is called {plugin!r}, or was a short time ago")

    def message_of(self, record: Record) -> pb.Plugin:
        """Return a plugin as lists show it."""
        return plugin_messages.plugin(record, self._snapshot())

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._parts, self._plugins, self._managed, self._hosts, self._wall_clock)

    def _live_of(self, spec: PluginSpec) -> Sequence[Record]:
        """Return the plugins that are there which have the name of one that the host runs."""
        return [record for record in self._plugins.live() if record.name == spec.self_id]

    def _events_of(self, spec: PluginSpec) -> Sequence[pb.Event]:
        found = [event for event in self._events if spec.self_id == event.name or spec.name == event.managed]
        return list(map(messages.event, found[-_MOST_EVENTS:]))

    def _lines(self, spec: PluginSpec, replica: int = 0) -> Sequence[pb.LogLine]:
        found = self._parts.managed.output.last(spec.name, _LAST_LINES, replica)
        return list(map(managed_messages.line, found))

    def _grant(self, grant: Grant) -> pb.Grant:
        return pb.Grant(
            grant_id=grant.id,
            runtime_id=grant.owner.runtime_id,
            capability_type=grant.capability.type,
            expires_at=messages.timestamp(self._wall_clock() + grant.left_s),
        )


def _is_about(standing: Standing, text: str) -> bool:
    spec = standing.spec
    return any(text in each for each in (spec.name, spec.self_id, *(spec.provides or ())))


def _matches(record: Record, text: str) -> bool:
    return (
        text in record.name
        or text in record.runtime_id
        or any(text in service_type for service_type in record.provided)
    )


def _meant(plugin: str, records: Sequence[Record]) -> Sequence[Record]:
    """Return the plugins of a name; if there are none, those whose runtime ids begin so."""
    return [record for record in records if record.name == plugin] or [
        record for record in records if record.runtime_id.startswith(plugin)
    ]
