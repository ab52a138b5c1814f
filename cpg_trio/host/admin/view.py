"""What an operator sees of a host: each request of the admin service that only reads, and its answer.

Synchronous, and without I/O beside what the kernel tells of the process. Pages and commands show what stands
in these answers, and work nothing out.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from cpg_trio import _clock
from cpg_trio._gen.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio._loop_lag import LoopLag
from cpg_trio._memory import resident_bytes
from cpg_trio._version import __version__
from cpg_trio.host.access import Identities
from cpg_trio.host.admin import messages
from cpg_trio.host.admin.dependencies import Dependencies, Missing
from cpg_trio.host.admin.events import EventLog
from cpg_trio.host.admin.plugins import Plugins, Record
from cpg_trio.host.admin.problems import Problem, Problems
from cpg_trio.host.capabilities.capability import Capability
from cpg_trio.host.capabilities.grants import Grant, Grants
from cpg_trio.host.directory import Journal, Liveness, Registry, WatchHub
from cpg_trio.http import Origin, Pool
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.settings import Setting
from cpg_trio.states import State

_DESCRIPTORS = Path("/proc/self/fd")
_MOST_EVENTS = 200  # of one plugin, in an answer


@attrs.frozen(kw_only=True)
class Parts:
    """The parts of a host that are looked at."""

    identities: Identities
    registry: Registry
    liveness: Liveness
    watches: WatchHub
    grants: Grants
    journal: Journal
    pool: Pool
    capabilities: Sequence[Capability]
    settings: Sequence[Setting]
    loop_lag: LoopLag


@attrs.define
class HostState:
    """What a host knows of itself."""

    started_at: float
    """In seconds since 1970."""
    urls: Sequence[str] = ()
    """Where plugins reach it."""
    stopping: bool = False


class View:
    """Answers the requests of the admin service that only read."""

    def __init__(
        self,
        parts: Parts,
        plugins: Plugins,
        events: EventLog,
        host: HostState,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._parts = parts
        self._plugins = plugins
        self._events = events
        self._host = host
        self._wall_clock = wall_clock
        self._problems = Problems(plugins, self._problems_of_host)

    # Requests

    def status(self, _request: pb.GetStatusRequest) -> pb.GetStatusResponse:
        """Say whether all is well, and if not, what is wrong."""
        problems = self._problems.all(self._dependencies())
        states = [record.state for record in (*self._plugins.live(), *self._plugins.gone())]
        return pb.GetStatusResponse(
            state=messages.state(problems[0].state if problems else State.HEALTHY),
            problems=[problem.message() for problem in problems],
            host=self._host_info(),
            plugins=[
                pb.StateCount(state=messages.state(state), count=count)
                for state in State
                if (count := states.count(state))
            ],
            services=len(self._parts.registry.service_types()),
        )

    def plugins(self, request: pb.ListPluginsRequest) -> pb.ListPluginsResponse:
        """List plugins by name, and of one name the oldest first."""
        wanted = set(request.states)
        with_gone = request.include_gone or pb.PLUGIN_STATE_GONE in wanted
        records = [*self._plugins.live(), *(self._plugins.gone() if with_gone else ())]
        chosen = [
            record
            for record in records
            if (not wanted or record.state.number in wanted) and _matches(record, request.filter)
        ]
        chosen.sort(key=lambda record: (record.name, record.since))
        dependencies = self._dependencies()
        return pb.ListPluginsResponse(plugins=[self._plugin(record, dependencies) for record in chosen])

    def plugin(self, request: pb.GetPluginRequest) -> pb.GetPluginResponse:
        """Tell all that is known of one plugin. Raises: as `find`."""
        record = self.find(request.plugin)
        dependencies = self._dependencies()
        return pb.GetPluginResponse(
            plugin=self._plugin(record, dependencies),
            history=[
                pb.HealthChange(
                    at=messages.timestamp(change.at), state=messages.state(change.state), reason=change.reason
                )
                for change in record.history
            ],
            edges=[edge for edge in self._edges(dependencies) if record.name in (edge.caller, edge.provider)],
            events=[messages.event(event) for event in self._events.of(record.runtime_id)[-_MOST_EVENTS:]],
            grants=[self._grant(grant) for grant in self._parts.grants.of(record.runtime_id)],
        )

    def services(self, request: pb.ListServicesRequest) -> pb.ListServicesResponse:
        """List the services that are provided, and those that are required and missing."""
        dependencies = self._dependencies()
        required_by = self._required_by(dependencies)
        types = sorted({*self._parts.registry.service_types(), *required_by})
        return pb.ListServicesResponse(
            services=[
                self._service(name, required_by.get(name, ()), dependencies)
                for name in types
                if request.filter in name
            ]
        )

    def graph(self, _request: pb.GetGraphRequest) -> pb.GetGraphResponse:
        """Tell who requires whom, by the names of plugins."""
        dependencies = self._dependencies()
        edges = self._edges(dependencies)
        by_name: dict[str, list[Record]] = {}
        for record in self._plugins.live():
            by_name.setdefault(record.name, []).append(record)
        missing = {edge.service_type: edge.reason for edge in edges if not edge.provider}
        return pb.GetGraphResponse(
            nodes=[
                *(self._node(name, records) for name, records in sorted(by_name.items())),
                *(
                    pb.GraphNode(name=name, missing=True, state=pb.PLUGIN_STATE_GONE, reason=reason)
                    for name, reason in sorted(missing.items())
                ),
            ],
            edges=edges,
        )

    def calls(self, _request: pb.ListCallsRequest) -> pb.ListCallsResponse:
        """Tell of the calls of the last minute, of those in flight, and of recent failures."""
        return pb.ListCallsResponse()

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

    # Plugins

    def find(self, plugin: str) -> Record:
        """Return a plugin by its runtime id, an unambiguous beginning of one, or its name.

        Those that are there come before those that are gone, and of these the last one of a name is meant.
        Raises: ConnectError `not_found`; `invalid_argument` if several are meant.
        """
        if not plugin:
            raise ConnectError(
                Code.INVALID_ARGUMENT, "name a plugin: a runtime id, a beginning of one, or a name"
            )
        if (record := self._plugins.get(plugin)) is not None:
            return record
        if found := _meant(plugin, self._plugins.live()):
            if len(found) > 1:
                ids = ", ".join(sorted(record.runtime_id for record in found[:5]))
                more = ", ..." if len(found) > 5 else ""  # noqa: PLR2004 - as many as are named
                raise ConnectError(
                    Code.INVALID_ARGUMENT, f"{plugin!r} may be any of {len(found)} plugins: {ids}{more}"
                )
            return found[0]
        if gone := _meant(plugin, self._plugins.gone()):
            return gone[-1]
        raise ConnectError(Code.NOT_FOUND, f"no plugin is called {plugin!r}, or was a short time ago")

    def message_of(self, record: Record) -> pb.Plugin:
        """Return a plugin as lists show it."""
        return self._plugin(record, self._dependencies())

    def _plugin(self, record: Record, dependencies: Dependencies) -> pb.Plugin:
        parts, runtime_id = self._parts, record.runtime_id
        message = pb.Plugin(
            runtime_id=runtime_id,
            name=record.name,
            version=record.version,
            address=record.identity.address,
            state=messages.state(record.state),
            state_since=messages.timestamp(record.state_since),
            reason=record.reason,
            identity_since=messages.timestamp_if_known(record.since),
            requires=self._requires(record, dependencies),
        )
        if record.state is State.GONE:
            return message
        registrations = parts.registry.registrations(runtime_id)
        message.provides.extend(
            pb.ProvidedService(
                service_type=registration.service_type,
                version=registration.version,
                registration_id=registration.id,
                metadata=registration.metadata,
                registered_at=messages.timestamp(record.provided[registration.service_type].since),
            )
            for registration in registrations
        )
        for registration in registrations:
            if registration.base_url:
                message.url = registration.base_url
                message.connections = self._connections_to(registration.base_url, registration.addresses)
                break
        self._add_times(message, record)
        message.watches = parts.watches.count_of(runtime_id)
        message.grants = len(parts.grants.of(runtime_id))
        return message

    def _add_times(self, message: pb.Plugin, record: Record) -> None:
        entry = self._parts.identities.entry(record.runtime_id)
        if entry is None:
            return
        now, clock = self._wall_clock(), _clock.current_time()
        silent_s = clock - entry.used_at
        if (lease := self._parts.liveness.lease(record.runtime_id)) is not None:
            silent_s = min(silent_s, lease.silent_s)
            message.lease_left.CopyFrom(messages.duration(max(0.0, lease.left_s)))
        message.last_heard_at.CopyFrom(messages.timestamp(now - silent_s))
        message.token_expires_at.CopyFrom(messages.timestamp(now + entry.expires_at - clock))

    def _connections_to(self, base_url: str, addresses: tuple[str, ...]) -> int:
        with suppress(ValueError):  # the URL is the plugin's
            return self._parts.pool.connections_to(Origin.parse(base_url)[0].at(addresses))
        return 0

    def _requires(self, record: Record, dependencies: Dependencies) -> Iterator[pb.RequiredService]:
        reported = dependencies.reported(record)
        for service_type in dependencies.required(record):
            missing = dependencies.missing(service_type)
            yield pb.RequiredService(
                service_type=service_type,
                available=missing is None,
                reason=missing.reason if missing is not None else "",
                since=messages.timestamp_if_known(missing.since) if missing is not None else None,
                reported_missing=service_type in reported,
            )

    # Services and the graph

    def _service(
        self, service_type: str, required_by: Iterable[str], dependencies: Dependencies
    ) -> pb.Service:
        registry = self._parts.registry
        providers = [
            (registration, record)
            for registration in registry.providers(service_type)
            if (record := self._plugins.get(registration.runtime_id)) is not None
        ]
        states = [record.state for _, record in providers]
        best = min(states, key=list(State).index, default=State.GONE)
        missing = dependencies.missing(service_type)
        return pb.Service(
            service_type=service_type,
            selection=registry.selection_of(service_type).value,
            state=messages.state(best),
            reason=missing.reason if missing is not None else "",
            providers=[
                pb.ServiceProvider(
                    runtime_id=record.runtime_id,
                    name=record.name,
                    version=registration.version,
                    state=messages.state(record.state),
                    reason=record.reason,
                )
                for registration, record in providers
            ],
            required_by=sorted(required_by),
        )

    def _required_by(self, dependencies: Dependencies) -> Mapping[str, set[str]]:
        """Return by service type the names of the plugins that require it."""
        found: dict[str, set[str]] = {}
        for record in self._plugins.live():
            for service_type in dependencies.required(record):
                found.setdefault(service_type, set()).add(record.name)
        return found

    def _edges(self, dependencies: Dependencies) -> Sequence[pb.Edge]:
        registry = self._parts.registry
        edges: list[pb.Edge] = []
        for service_type, callers in sorted(self._required_by(dependencies).items()):
            missing = dependencies.missing(service_type)
            providers = sorted(registry.provider_names(service_type)) or [""]
            edges += [
                self._edge(caller, provider, service_type, missing)
                for caller in sorted(callers)
                for provider in providers
            ]
        return edges

    def _edge(self, caller: str, provider: str, service_type: str, missing: Missing | None) -> pb.Edge:
        return pb.Edge(
            caller=caller,
            provider=provider,
            service_type=service_type,
            required=True,
            available=missing is None,
            reason=missing.reason if missing is not None else "",
        )

    def _node(self, name: str, records: Sequence[Record]) -> pb.GraphNode:
        worst = max(records, key=lambda record: list(State).index(record.state))
        return pb.GraphNode(
            name=name,
            state=messages.state(worst.state),
            reason=worst.reason,
            runtime_ids=[record.runtime_id for record in records],
            provides=sorted(
                {p.service_type for record in records for p in record.provided.values() if not p.until}
            ),
        )

    def _grant(self, grant: Grant) -> pb.Grant:
        return pb.Grant(
            grant_id=grant.id,
            runtime_id=grant.owner.runtime_id,
            capability_type=grant.capability.type,
            expires_at=messages.timestamp(self._wall_clock() + grant.left_s),
        )

    # The host

    def _host_info(self) -> pb.HostInfo:
        parts, pool = self._parts, self._parts.pool.statistics()
        descriptors, limit = _descriptors()
        return pb.HostInfo(
            urls=self._host.urls,
            version=__version__,
            started_at=messages.timestamp(self._host.started_at),
            stopping=self._host.stopping,
            loop_lag=messages.duration(parts.loop_lag.median_s),
            loop_lag_most=messages.duration(parts.loop_lag.most_s),
            memory_bytes=resident_bytes(),
            file_descriptors=descriptors,
            file_descriptor_limit=limit,
            pool_connections=pool.idle + pool.active,
            watches=len(parts.watches),
            unsaved=parts.journal.why_unsaved,
            registry_id=parts.registry.id,
            pid=os.getpid(),
        )

    def _problems_of_host(self) -> Iterator[Problem]:
        if why := self._parts.journal.why_unsaved:
            yield Problem(State.DEGRADED, f"the host cannot save: {why}")

    def _dependencies(self) -> Dependencies:
        return Dependencies(self._plugins, self._parts.registry, self._wall_clock)


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


def _descriptors() -> tuple[int, int]:
    """Return how many file descriptors this process has open, and may have."""
    try:
        count = sum(1 for _ in _DESCRIPTORS.iterdir()) - 1  # one is open to look
    except OSError:
        count = 0
    return count, resource.getrlimit(resource.RLIMIT_NOFILE)[0]
