"""What one answer is made of: the parts of a host, and what is worked out once for the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from cpg_trio.host.access import Identities
from cpg_trio.host.admin.dependencies import Dependencies, Missing
from cpg_trio.host.admin.figures import Figures
from cpg_trio.host.admin.files import Files
from cpg_trio.host.admin.hosts import Hosts
from cpg_trio.host.admin.managed import ManagedStates
from cpg_trio.host.admin.plugins import Plugins, Record
from cpg_trio.host.capabilities.capability import Capability
from cpg_trio.host.capabilities.grants import Grants
from cpg_trio.host.cluster import Cluster
from cpg_trio.host.directory import Journal, Liveness, Registry, WatchHub
from cpg_trio.host.routing import DirectCounter, DirectStatistics
from cpg_trio.host.supervision import ManagedPlugins
from cpg_trio.http import Pool
from cpg_trio.http.server.connection_limit import ConnectionLimit
from cpg_trio.settings import Setting
from cpg_trio.statistics import CallTable


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
    connections: ConnectionLimit
    """Those of clients."""
    call_table: CallTable
    direct: DirectCounter
    capabilities: Sequence[Capability]
    settings: Sequence[Setting]
    files: Files
    managed: ManagedPlugins
    """Those that the host runs."""
    cluster: Cluster | None = None
    """The other hosts, if it shares its directory with some."""
    store: str = ""
    """Where that directory is kept, without secrets."""


class Snapshot:
    """A host at the moment of an answer."""

    def __init__(
        self,
        parts: Parts,
        plugins: Plugins,
        managed: ManagedStates,
        hosts: Hosts | None,
        wall_clock: Callable[[], float],
    ) -> None:
        self.parts = parts
        self.plugins = plugins
        self.managed = managed
        self.hosts = hosts
        self.now = wall_clock()
        """In seconds since 1970."""
        self.without_identity = managed.without_identity()
        """The replicas of plugins that the host runs, while no identity stands for them."""
        self.dependencies = Dependencies(plugins, parts.registry, self.now, self._to_come())
        self.figures = Figures(parts.call_table, plugins.name_of)

    def required_by(self) -> Mapping[str, set[str]]:
        """Return by service type the names of the plugins that require it."""
        found: dict[str, set[str]] = {}
        for record in self.plugins.live():
            for service_type in self.dependencies.required(record):
                found.setdefault(service_type, set()).add(record.name)
        for standing in self.without_identity:
            for service_type in standing.spec.requires or ():
                found.setdefault(service_type, set()).add(standing.spec.self_id)
        return found

    def _to_come(self) -> Mapping[str, Missing]:
        """Return by service type why it is missing that a plugin of the host is to provide."""
        found: dict[str, Missing] = {}
        for standing in self.without_identity:
            for service_type in standing.spec.provides or ():
                why = f": {standing.reason}" if standing.reason else ""
                text = f"{standing.spec.self_id}, which provides it, is {standing.state.word}{why}"
                name = standing.spec.self_id
                found.setdefault(service_type, Missing(text, standing.since, plugin=name))
        return found

    def direct_calls(self) -> Mapping[tuple[str, str, str], DirectStatistics]:
        """Return direct calls by the names of caller and provider, and the service."""
        found: dict[tuple[str, str, str], DirectStatistics] = {}
        for caller, provider, service_type, more in self.parts.direct.pairs():
            edge = self.plugins.name_of(caller), self.plugins.name_of(provider), service_type
            known = found.get(edge, DirectStatistics(0, 0, 0))
            found[edge] = DirectStatistics(
                known.calls + more.calls, known.in_flight + more.in_flight, known.failed + more.failed
            )
        return found

    def by_name(self) -> Mapping[str, Sequence[Record]]:
        """Return the plugins that are there by their names, in order."""
        found: dict[str, list[Record]] = {}
        for record in sorted(self.plugins.live(), key=lambda record: record.name):
            found.setdefault(record.name, []).append(record)
        return found
