"""What each process of this project has: its build, its event loop, its log, its connections."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from cpg_trio._loop_lag import LoopLag
from cpg_trio._version import __version__
from cpg_trio.http import Pool
from cpg_trio.logs import dropped_lines
from cpg_trio.metrics.families import counters, gauges, histogram
from cpg_trio.statistics import Tally


class ProcessMetrics(Collector):
    """What each process has. `pools` are its pools of connections, by name."""

    def __init__(self, lag: LoopLag, pools: Mapping[str, Pool]) -> None:
        self._lag = Tally()
        lag.measured.add(self._lag.observe)
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield from gauges(
            "cpg_trio_build_info",
            "The version of cpg_trio and of Python; the value is 1.",
            ("version", "python"),
            [((__version__, platform.python_version()), 1)],
        )
        yield from histogram(
            "cpg_trio_event_loop_lag_seconds",
            "How late the event loop runs a task that is due.",
            (),
            [((), self._lag.histogram, self._lag.seconds, {})],
        )
        yield from counters(
            "cpg_trio_log_lines_dropped",
            "Lines of the log that were dropped, since they were not read in time.",
            (),
            [((), dropped_lines())],
        )
        statistics = {name: pool.statistics() for name, pool in self._pools.items()}
        yield from gauges(
            "cpg_trio_pool_connections",
            "Connections to others, in use or kept.",
            ("pool", "state"),
            [
                row
                for name, each in statistics.items()
                for row in (((name, "active"), each.active), ((name, "idle"), each.idle))
            ],
        )
        yield from counters(
            "cpg_trio_pool_connections_opened",
            "Connections that were opened.",
            ("pool",),
            [((name,), each.opened) for name, each in statistics.items()],
        )
        yield from counters(
            "cpg_trio_pool_connections_reused",
            "Requests that were sent on a connection that was kept.",
            ("pool",),
            [((name,), each.reused) for name, each in statistics.items()],
        )


def registry_of(collectors: Iterable[Collector]) -> CollectorRegistry:
    """Return a registry with some collectors, and those that are for every process that runs Python."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    GCCollector(registry)
    PlatformCollector(registry)
    ProcessCollector(registry=registry)
    return registry
