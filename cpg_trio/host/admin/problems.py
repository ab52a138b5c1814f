"""What is wrong on a host, in one sentence each, the worst first. No I/O."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

import attrs

from cpg_trio.host.admin import messages
from cpg_trio.host.admin.dependencies import Dependencies
from cpg_trio.host.admin.plugins import Plugins, Record
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State

_MOST = 100
_RANKS = (State.UNHEALTHY, State.DEGRADED, State.LAPSED, State.GONE)
"""From the worst to what need harm nobody: a plugin that waits for one that has lapsed comes before that."""

_WAITING = {
    State.HEALTHY: State.DEGRADED,  # it reports nothing, and cannot work as it should
    State.DEGRADED: State.DEGRADED,
    State.UNHEALTHY: State.UNHEALTHY,
}


@attrs.frozen
class Problem:
    """Something that is wrong. The summary is read after the state."""

    state: State
    summary: str
    since: float = 0.0
    runtime_id: str = ""
    service_type: str = ""
    what_to_do: str = ""
    managed: str = ""
    """The name on its platform of a plugin that the host runs."""

    def message(self) -> pb.Problem:
        """Return it as a message."""
        return pb.Problem(
            state=messages.state(self.state),
            summary=self.summary,
            since=messages.timestamp_if_known(self.since),
            runtime_id=self.runtime_id,
            service_type=self.service_type,
            what_to_do=self.what_to_do,
            managed=self.managed,
        )


def problems_of(
    plugins: Plugins, dependencies: Dependencies, others: Iterable[Problem], managed: Iterable[str]
) -> Sequence[Problem]:
    """Return the worst problems of plugins, and others, and not more than a hundred.

    `managed` are the names of plugins that the host runs: how those are that are lost, it says itself.
    """
    live = plugins.live()
    found = [*others, *_lost(plugins, {*managed, *(record.name for record in live)})]
    waiting: dict[tuple[State, str], list[Record]] = {}
    for record in live:
        lacking = dependencies.lacking(record)
        if lacking and record.state in _WAITING:
            waiting.setdefault((_WAITING[record.state], lacking[0]), []).append(record)
        elif record.state in (State.LAPSED, State.DEGRADED, State.UNHEALTHY):
            found.append(_about(record))
    found += [_waiting(*of, records, dependencies) for of, records in waiting.items()]
    found.sort(key=lambda problem: (_RANKS.index(problem.state), problem.since))
    return found[:_MOST]


def _waiting(
    state: State, service_type: str, records: Sequence[Record], dependencies: Dependencies
) -> Problem:
    """Return that plugins wait for a service. They may have noticed or not."""
    missing, first = dependencies.missing(service_type), records[0]
    names = list(dict.fromkeys(record.name for record in records))
    who = f"{first.name} waits" if len(names) == 1 else f"{first.name} and {len(names) - 1} more wait"
    others = len(dependencies.lacking(first)) - 1 if len(names) == 1 else 0
    what = f"{service_type} and {others} more" if others else service_type
    since, culprit = min(record.state_since for record in records), ""
    if missing is None:
        why = first.reason or "it does not say why"
    else:
        why, since, culprit = missing.reason, max(since, missing.since), missing.runtime_id
    what_to_do = _look_at(culprit or (missing.plugin if missing is not None else "") or first.runtime_id)
    return Problem(state, f"{who} for {what} ({why})", since, first.runtime_id, service_type, what_to_do)


def _lost(plugins: Plugins, known: set[str]) -> Iterator[Problem]:
    """Yield the plugins that were lost and have not come back, each name once."""
    lost = {record.name: record for record in plugins.gone() if record.was_lost}
    for name, record in lost.items():
        if name not in known:
            yield _about(record)


def _about(record: Record) -> Problem:
    summary = f"{record.name} ({record.reason or 'it does not say why'})"
    what_to_do = _look_at(record.runtime_id)
    return Problem(record.state, summary, record.state_since, record.runtime_id, what_to_do=what_to_do)


def _look_at(plugin: str) -> str:
    return f"cpg-trio plugins {shlex.quote(plugin)}"
