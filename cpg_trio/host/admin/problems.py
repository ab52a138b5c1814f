"""What is wrong on a host, in one sentence each, the worst first. No I/O."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

import attrs

from cpg_trio._gen.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.host.admin import messages
from cpg_trio.host.admin.dependencies import Dependencies
from cpg_trio.host.admin.plugins import Plugins, Record
from cpg_trio.states import State

_MOST = 100
_RANKS = (State.UNHEALTHY, State.DEGRADED, State.LAPSED, State.GONE)
"""From the worst to what need harm nobody: a plugin that waits for one that has lapsed comes before that."""


@attrs.frozen
class Problem:
    """Something that is wrong. The summary is read after the state."""

    state: State
    summary: str
    since: float = 0.0
    runtime_id: str = ""
    service_type: str = ""
    what_to_do: str = ""

    def message(self) -> pb.Problem:
        """Return it as a message."""
        return pb.Problem(
            state=messages.state(self.state),
            summary=self.summary,
            since=messages.timestamp_if_known(self.since),
            runtime_id=self.runtime_id,
            service_type=self.service_type,
            what_to_do=self.what_to_do,
        )


def problems_of(
    plugins: Plugins, dependencies: Dependencies, of_host: Iterable[Problem]
) -> Sequence[Problem]:
    """Return the worst problems of plugins and of the host, and not more than a hundred."""
    live = plugins.live()
    found = [*of_host, *_lost(plugins, {record.name for record in live})]
    for record in live:
        found += _of(record, dependencies)
    found.sort(key=lambda problem: (_RANKS.index(problem.state), problem.since))
    return found[:_MOST]


def _of(record: Record, dependencies: Dependencies) -> Iterator[Problem]:
    lacking = dependencies.lacking(record)
    if lacking and record.state in (State.HEALTHY, State.DEGRADED, State.UNHEALTHY):
        yield _waiting(record, lacking, dependencies)
    elif record.state in (State.LAPSED, State.DEGRADED, State.UNHEALTHY):
        yield _about(record)


def _waiting(record: Record, lacking: Sequence[str], dependencies: Dependencies) -> Problem:
    """Return that a plugin waits for services. It may have noticed or not."""
    first, missing = lacking[0], dependencies.missing(lacking[0])
    others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    state, since = record.state, record.state_since
    if state is State.HEALTHY:
        state = State.DEGRADED
        since = max(since, missing.since if missing is not None else 0.0)
    why = missing.reason if missing is not None else record.reason or "it says that it lacks it"
    culprit = missing.runtime_id if missing is not None else ""
    return Problem(
        state,
        f"{record.name} waits for {first}{others} ({why})",
        since,
        record.runtime_id,
        first,
        _look_at(culprit or record.runtime_id),
    )


def _lost(plugins: Plugins, live_names: set[str]) -> Iterator[Problem]:
    """Yield the plugins that were lost and have not come back, each name once."""
    lost = {record.name: record for record in plugins.gone() if record.was_lost}
    for name, record in lost.items():
        if name not in live_names:
            yield _about(record)


def _about(record: Record) -> Problem:
    summary = f"{record.name} ({record.reason or 'it does not say why'})"
    what_to_do = _look_at(record.runtime_id)
    return Problem(record.state, summary, record.state_since, record.runtime_id, what_to_do=what_to_do)


def _look_at(runtime_id: str) -> str:
    return f"cpg-trio plugins {shlex.quote(runtime_id)}"
