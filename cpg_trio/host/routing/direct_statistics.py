"""Statistics of direct calls, which the host does not see: their callers report them.

The host uses them to know how busy a provider is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import TypeAlias

import attrs

from cpg_trio import wire
from cpg_trio.host.access import AccessCheck, Identity, Limits
from cpg_trio.host.directory import Registry
from cpg_trio.logs import LineLog
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb

_MOST_ENTRIES = 100  # of one report
_MOST_IN_FLIGHT = 1000  # of one caller to one provider that count: it opens as many connections
_MOST_LINES = 10  # of the log, for one report
_MOST_PAIRS = 1000  # of providers and services, for one caller
_lines = LineLog("cpg_trio.router")


@attrs.frozen
class DirectStatistics:
    """What plugins have reported of their direct calls since the host, or since a caller, began.

    `calls` were begun, of which `in_flight` had not ended at the last report, and `failed` have ended without
    the whole answer of a provider.
    """

    calls: int
    in_flight: int
    failed: int


@attrs.frozen
class _Reported:
    """What a caller has last reported of its calls to a provider of a service."""

    series: int = 0
    calls: int = 0
    failed: int = 0
    in_flight: int = 0


Report: TypeAlias = Iterable[pb.DirectCalls]


class DirectCounter:
    """Adds up the calls that are reported, each one once, however often its report comes.

    A report has the numbers since its series began, so the next one makes up for one that is lost. Reports
    on more than `most` pairs of a caller and a provider of a service are not counted; nor are those on more
    than `_MOST_PAIRS` of one caller.
    """

    def __init__(self, most: int = Limits().max_direct_reports) -> None:
        self._most = most
        self._pairs = 0
        # By caller, then by provider and service
        self._reported: dict[str, dict[tuple[str, str], _Reported]] = {}
        self._callers: dict[str, Counter[str]] = {}  # by provider: how many services of it each caller calls
        self._in_flight = Counter[str]()  # by provider
        self._calls = self._failed = 0

    def report(self, caller: str, report: Report) -> None:
        """Take a report, which has been validated."""
        lines = [line for entry in report if (line := self._take(caller, entry))]
        for line in lines[:_MOST_LINES]:
            _lines.info(f"[DIRECT] {caller} → {line}")
        if len(lines) > _MOST_LINES:
            _lines.info(f"[DIRECT] {caller} → {len(lines) - _MOST_LINES} more providers of services")

    def in_flight(self, provider: str) -> int:
        """Return how many direct calls a provider was busy with at the last reports of their callers."""
        return self._in_flight[provider]

    def forget(self, runtime_id: str) -> None:
        """Forget the calls of a plugin that is gone, and those to it. The sums stay."""
        pairs = [(runtime_id, pair) for pair in self._reported.get(runtime_id, ())]
        for caller in self._callers.get(runtime_id, ()):
            pairs += [(caller, pair) for pair in self._reported[caller] if pair[0] == runtime_id]
        for caller, pair in dict.fromkeys(pairs):
            self._drop(caller, pair)

    def pairs(self) -> Iterator[tuple[str, str, str, DirectStatistics]]:
        """Yield callers, providers and service types, and what callers have reported since they began."""
        for caller, reported in self._reported.items():
            for (provider, service_type), numbers in reported.items():
                counted = DirectStatistics(numbers.calls, numbers.in_flight, numbers.failed)
                yield caller, provider, service_type, counted

    def statistics(self) -> DirectStatistics:
        """Return the numbers of this moment."""
        return DirectStatistics(self._calls, self._in_flight.total(), self._failed)

    def _drop(self, caller: str, pair: tuple[str, str]) -> None:
        dropped = self._reported[caller].pop(pair)
        if not self._reported[caller]:
            del self._reported[caller]
        self._pairs -= 1
        _subtract(self._in_flight, pair[0], dropped.in_flight)
        _subtract(self._callers[pair[0]], caller, 1)
        if not self._callers[pair[0]]:
            del self._callers[pair[0]]

    def _has_room(self, caller: str) -> bool:
        return self._pairs < self._most and len(self._reported.get(caller, ())) < _MOST_PAIRS

    def _take(self, caller: str, entry: pb.DirectCalls) -> str:
        """Take the numbers of one provider of a service; return the log's line, empty without new calls."""
        pair = entry.provider_id, entry.service_type
        before = self._reported.get(caller, {}).get(pair)
        if before is None:
            if not self._has_room(caller):
                return ""
            self._pairs += 1
            self._callers.setdefault(entry.provider_id, Counter())[caller] += 1
            before = _Reported()
        in_flight = min(entry.in_flight, _MOST_IN_FLIGHT)
        _subtract(self._in_flight, entry.provider_id, before.in_flight - in_flight)
        if before.series != entry.series:
            before = _Reported(entry.series)
        calls, failed = max(before.calls, entry.calls), max(before.failed, entry.failed)
        self._reported.setdefault(caller, {})[pair] = _Reported(entry.series, calls, failed, in_flight)
        self._calls += calls - before.calls
        self._failed += failed - before.failed
        if calls <= before.calls:
            return ""
        return (
            f"{entry.provider_id} {calls - before.calls} calls, {failed - before.failed} failed,"
            f" {in_flight} in flight (service: {entry.service_type})"
        )


def _subtract(counter: Counter[str], key: str, count: int) -> None:
    """Subtract from a count; a count of 0 is removed."""
    counter[key] -= count
    if not counter[key]:
        del counter[key]


class DirectReports:
    """Takes the reports of plugins, as far as they are on calls that the plugins may make."""

    def __init__(self, registry: Registry, access: AccessCheck, counter: DirectCounter) -> None:
        self._registry = registry
        self._access = access
        self._counter = counter

    def take(self, caller: Identity, report: Collection[pb.DirectCalls]) -> None:
        """Take a report. Entries on services that do not exist, or that the caller may not call, are ignored.

        Raises: wire.InvalidError for a report that makes no sense; then nothing has changed.
        """
        if len(report) > _MOST_ENTRIES:
            raise wire.InvalidError(f"too many entries of direct calls: {len(report)} (max: {_MOST_ENTRIES})")
        for entry in report:
            if entry.failed + entry.in_flight > entry.calls:
                raise wire.InvalidError("more direct calls failed or are in flight than were begun")
        self._counter.report(
            caller.runtime_id, [entry for entry in report if self._is_of_caller(caller, entry)]
        )

    def _is_of_caller(self, caller: Identity, entry: pb.DirectCalls) -> bool:
        provided = self._registry.provider(entry.service_type, entry.provider_id) is not None
        return provided and self._access.may_call_directly(caller, entry.service_type)
