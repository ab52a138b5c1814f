"""The metrics of a host: what its parts know at the moment of a scrape.

Names of plugins and service types are labels only of plugins that have registered something, so what bounds
the registry bounds the series. What a plugin only declares to require is cut at `_MOST_MISSING`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import attrs
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cpg_trio.host.access import Audit, AuditEvent
from cpg_trio.host.admin import ManagedStates, Parts, Plugins, Record
from cpg_trio.host.routing import DirectCounter
from cpg_trio.metrics import counters, gauges
from cpg_trio.states import OF_IDENTITIES, State

_MOST_MISSING = 1_000  # pairs of a plugin and a service
_MOST_MISSING_OF_ONE = 20  # services of a plugin


class Refusals(Counter[str]):
    """Counts what the audit trail tells of refusals, by action."""

    def __init__(self, audit: Audit) -> None:
        super().__init__()
        audit.subscribe(self._count)

    def _count(self, event: AuditEvent) -> None:
        if not event.allowed:
            self[event.action.value] += 1


@attrs.frozen(eq=False)
class HostMetrics(Collector):
    """Reads a host at each scrape."""

    parts: Parts
    plugins: Plugins
    direct: DirectCounter
    refusals: Refusals
    managed: ManagedStates

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of a host, without those of calls."""
        every = chain(self.plugins.live(), self.plugins.gone())
        known = [r for r in every if r.provided and (r.state is not State.GONE or r.was_lost)]
        yield from self._states(known)
        yield from self._services([record for record in known if record.state is not State.GONE])
        yield from self._managed()
        yield from self._directory()
        yield from self._direct_calls()
        yield from counters(
            "cpg_trio_refusals",
            "Decisions of the host against somebody, by what was asked for.",
            ("action",),
            (((action,), count) for action, count in self.refusals.items()),
        )
        yield from gauges(
            "cpg_trio_state_unsaved",
            "Whether registrations cannot be written to the state file.",
            (),
            [((), bool(self.parts.journal.why_unsaved))],
        )

    def _states(self, known: Sequence[Record]) -> Iterator[Metric]:
        live = Counter(record.state for record in self.plugins.live())
        yield from gauges(
            "cpg_trio_plugins",
            "Runs of plugins that have an identity, by state.",
            ("state",),
            [((state.word,), live[state]) for state in OF_IDENTITIES],
        )
        runs, since = Counter[tuple[str, str]](), dict[tuple[str, str], float]()
        for record in known:
            key = record.name, record.state.word
            runs[key] += 1
            since[key] = min(since.get(key, record.state_since), record.state_since)
        yield from gauges(
            "cpg_trio_plugin_runs",
            "Runs of a plugin that has registered a service, by state; a lost one is gone for an hour.",
            ("plugin", "state"),
            runs.items(),
        )
        yield from gauges(
            "cpg_trio_plugin_state_since_timestamp_seconds",
            "Since when a plugin is in a state; of several runs, the one that is in it longest.",
            ("plugin", "state"),
            since.items(),
        )

    def _services(self, known: Sequence[Record]) -> Iterator[Metric]:
        registry = self.parts.registry
        providers = {each: registry.callable_count(each) for each in registry.service_types()}
        missing = dict.fromkeys(islice(self._missing(known), _MOST_MISSING), 1)
        yield from gauges(
            "cpg_trio_service_providers",
            "Providers of a service that get calls; also 0, for a service that is required and missing.",
            ("service",),
            (((each,), count) for each, count in ({each: 0 for _, each in missing} | providers).items()),
        )
        yield from gauges(
            "cpg_trio_dependencies_missing",
            "Services that a plugin requires and nobody provides who gets calls; the value is 1.",
            ("plugin", "service"),
            missing.items(),
        )

    def _missing(self, known: Sequence[Record]) -> Iterator[tuple[str, str]]:
        registry = self.parts.registry
        for record in known:
            required = (each for each in record.identity.requires or () if not registry.available(each))
            yield from ((record.name, each) for each in islice(required, _MOST_MISSING_OF_ONE))

    def _managed(self) -> Iterator[Metric]:
        phases, looping = Counter[tuple[str, str]](), Counter[tuple[str]]()
        for spec in self.managed.specs():
            for replica in self.managed.plugins.replicas(spec.name):
                phases[spec.name, replica.phase.value] += 1
                looping[(spec.name,)] += replica.looping
        yield from gauges(
            "cpg_trio_managed_replicas",
            "Replicas of a plugin that the host runs, by what they are doing.",
            ("plugin", "phase"),
            phases.items(),
        )
        yield from gauges(
            "cpg_trio_managed_replicas_looping",
            "Replicas of a plugin that the host runs which are in a crash loop.",
            ("plugin",),
            looping.items(),
        )
        yield from counters(
            "cpg_trio_managed_restarts",
            "Runs of a plugin that the host has started after another one of the same replica.",
            ("plugin",),
            (((spec.name,), self.managed.restarts[spec.name]) for spec in self.managed.specs()),
        )

    def _directory(self) -> Iterator[Metric]:
        parts, lags_s = self.parts, self.parts.watches.lags_s()
        registry = parts.registry.statistics()
        for name, documentation, value in (
            ("identities", "Identities that are kept.", len(parts.identities)),
            ("grants", "Grants of capabilities that are valid.", len(parts.grants)),
            ("leases", "Plugins that are supervised.", registry.plugins),
            ("registered_services", "Services that plugins have registered.", registry.registrations),
            ("watches", "Watches of services.", len(parts.watches)),
            ("watches_behind", "Watches whose watcher has not taken all changes yet.", len(lags_s)),
            ("watch_lag_seconds", "For how long the oldest change has waited.", max(lags_s, default=0.0)),
        ):
            yield from gauges(f"cpg_trio_{name}", documentation, (), [((), value)])
        for name, documentation, value in (
            ("registrations", "Registrations, also those that replaced another.", registry.registered),
            ("lapses", "Leases that have ended without a sign of life.", registry.lapses),
        ):
            yield from counters(f"cpg_trio_{name}", documentation, (), [((), value)])

    def _direct_calls(self) -> Iterator[Metric]:
        direct = self.direct.statistics()
        for name, documentation, value in (
            (
                "direct_calls",
                "Calls that went past the host, as callers report.",
                direct.calls,
            ),
            ("direct_calls_failed", "Those that failed.", direct.failed),
        ):
            yield from counters(f"cpg_trio_{name}", documentation, (), [((), value)])
        yield from gauges(
            "cpg_trio_direct_calls_in_flight",
            "Those in flight at the last reports.",
            (),
            [((), direct.in_flight)],
        )
