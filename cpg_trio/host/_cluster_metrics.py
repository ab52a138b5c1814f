"""The metrics of a host that shares its directory: the other hosts, and the store that it is kept in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import attrs
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cpg_trio.host.admin import Hosts, Plugins
from cpg_trio.metrics import counters, gauges
from cpg_trio.store import CountedStore


@attrs.frozen(eq=False)
class ClusterMetrics(Collector):
    """Reads one of several hosts at each scrape."""

    hosts: Hosts
    plugins: Plugins
    store: CountedStore
    forwarded: Mapping[str, int]
    """How many calls were forwarded to the owners of plugins, by the code of the answer."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        hosts = self.hosts
        owned = hosts.owned([record.runtime_id for record in self.plugins.live()])
        for name, documentation, value in (
            ("hosts", "Hosts that share the directory, this one included.", len(hosts.members)),
            ("plugins_owned", "Plugins with an identity that this host owns.", owned[hosts.own_id]),
            ("plugins_orphaned", "Plugins whose host is gone, and not adopted yet.", hosts.orphans()),
            ("store_in_touch", "Whether the host is in touch with the store.", hosts.in_touch),
            ("store_revision", "The revision until which all changes are known.", hosts.revision),
            ("store_behind_seconds", "For how long changes could not be followed.", hosts.behind_s),
        ):
            yield from gauges(f"cpg_trio_{name}", documentation, (), [((), value)])
        for name, documentation, count in (
            ("adoptions", "Plugins of other hosts that this one has adopted.", hosts.adoptions),
            ("store_commits", "Commits to the store that were done.", self.store.commits),
            ("store_conflicts", "Commits that others were ahead of.", self.store.conflicts),
            ("store_failures", "Commits that the store has not answered.", self.store.failures),
        ):
            yield from counters(f"cpg_trio_{name}", documentation, (), [((), count)])
        yield from counters(
            "cpg_trio_forwarded_calls",
            "Control calls that were forwarded to the owners of plugins, by how they ended.",
            ("code",),
            (((code,), count) for code, count in Counter(self.forwarded).items()),
        )
