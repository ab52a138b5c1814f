"""The metrics of a plugin: calls that it answers and makes, dependencies, its session with the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from operator import attrgetter

import attrs
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cpg_trio import _clock
from cpg_trio._health_states import health_state
from cpg_trio._loop_lag import LoopLag
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.calls import BreakerState, DependencyStatistics
from cpg_trio.metrics import CallMetrics, ProcessMetrics, Side, counters, gauges, metrics_port
from cpg_trio.plugin._state import PluginState
from cpg_trio.states import HealthState
from cpg_trio.statistics import CallTable

_COUNTED = (
    ("ejections", "How often the breaker of a provider has opened.", attrgetter("ejections")),
    ("retries", "How often a call was sent again.", attrgetter("retries")),
    (
        "retries_refused",
        "How often it was not, as the retry budget was spent.",
        attrgetter("retries_refused"),
    ),
    ("calls_refused", "Calls that were refused, as too many were in flight.", attrgetter("refused")),
)


@asynccontextmanager
async def answering_metrics(state: PluginState) -> AsyncIterator[None]:
    """Answer the metrics of a plugin where its configuration says, until the end of the block.

    Calls are counted only if that is somewhere. Raises: BindError.
    """
    config, declared = state.config, state.declared
    if config.metrics_bind is None:
        yield
        return
    served, made, lag = CallTable(), CallTable(), LoopLag()
    collectors = [
        CallMetrics(served, Side.SERVER),
        CallMetrics(made, Side.CLIENT),
        PluginMetrics(state),
        ProcessMetrics(lag, {"plugin": state.pool}),
    ]
    with ExitStack() as stack:
        stack.enter_context(served.listening(declared.served))
        for dependency in declared.dependencies.values():
            stack.enter_context(made.listening(dependency.calls))
            stack.enter_context(made.listening(dependency.direct.calls))
        async with (
            metrics_port(config.metrics_bind, config.serve, lambda: collectors),
            open_plain_nursery() as nursery,
        ):
            for task in (served.run, made.run, lag.run):
                nursery.start_soon(task)
            yield
            nursery.cancel_scope.cancel()


@attrs.frozen(eq=False)
class PluginMetrics(Collector):
    """Reads a plugin at each scrape."""

    state: PluginState

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of a plugin, without those of calls."""
        state, session = self.state, self.state.session
        yield from gauges(
            "cpg_trio_dependency_available",
            "Whether a required service has a provider.",
            ("service", "required"),
            [
                ((each.service_type, str(each.required).lower()), each.available)
                for each in state.declared.dependencies.values()
            ],
        )
        yield from _of_calls([each.statistics() for each in state.declared.dependencies.values()])
        health = health_state(state.health.report.value.state)
        yield from gauges(
            "cpg_trio_health",
            "The state that the plugin reports: 1 for it, 0 for the others.",
            ("state",),
            [((each.value,), each is health) for each in HealthState],
        )
        yield from gauges(
            "cpg_trio_session",
            "Whether the plugin has an identity on its host.",
            (),
            [((), session is not None and not session.void.is_set())],
        )
        left_s = 0.0 if session is None else max(0.0, session.lease_ends - _clock.current_time())
        yield from gauges(
            "cpg_trio_lease_remaining_seconds",
            "What is left of the lease, as far as the plugin knows; 0 without a session.",
            (),
            [((), left_s)],
        )
        yield from counters(
            "cpg_trio_heartbeats", "Health reports that were sent.", (), [((), state.heartbeats.sent)]
        )
        yield from counters(
            "cpg_trio_heartbeat_failures",
            "Health reports that the host has not accepted.",
            (),
            [((), state.heartbeats.failed)],
        )
        hosts = state.hosts if session is None else session.hosts
        yield from counters(
            "cpg_trio_host_moves",
            "How often the plugin has moved to another host.",
            (),
            [((), 0 if hosts is None else hosts.moved)],
        )


def _of_calls(dependencies: Sequence[DependencyStatistics]) -> Iterator[Metric]:
    """Yield what dependencies tell of their calls: by service, as runtime ids are without a bound."""
    states = {each.service_type: Counter(p.state for p in each.providers) for each in dependencies}
    yield from gauges(
        "cpg_trio_dependency_providers",
        "Providers of a required service, by the state of their breaker.",
        ("service", "breaker"),
        [
            ((service, state.value), counts[state])
            for service, counts in states.items()
            for state in BreakerState
        ],
    )
    yield from gauges(
        "cpg_trio_dependency_calls_waiting",
        "Calls that wait for one of those in flight to end.",
        ("service",),
        [((each.service_type,), each.waiting) for each in dependencies],
    )
    for name, documentation, field in _COUNTED:
        yield from counters(
            f"cpg_trio_dependency_{name}",
            documentation,
            ("service",),
            [((each.service_type,), field(each)) for each in dependencies],
        )
