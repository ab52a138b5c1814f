"""Figures of calls, as the admin service gives them, from the one table that counts calls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from cpg_trio.call_record import Call
from cpg_trio.host.admin import messages
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.statistics import CallTable, EndedCall, SeriesKey, Tally

_QUANTILES = (0.5, 0.95, 0.99)
_MOST_SERIES = 1000
_MOST_IN_FLIGHT = 1000
_MOST_CALLS = 100
_NOTHING = Tally()
_DECIDED = ("unauthenticated", "permission_denied")  # by the access check, and audited


class Figures:
    """The figures of the last minute, for one answer. `name_of` returns a plugin's name by its runtime id."""

    def __init__(self, table: CallTable, name_of: Callable[[str], str]) -> None:
        self._table = table
        self._window = table.window()
        self._in_flight = table.in_flight()
        self._name_of = name_of
        self._counts: dict[tuple[str, ...], Counter[tuple[str, ...]]] = {}

    def all(self) -> pb.CallStatistics:
        """Return the figures of all calls."""
        return self._message(self._window.total, len(self._in_flight))

    def refused_later(self) -> int:
        """Return how many calls were refused that the access check had let through."""
        return sum(count for (_, code), count in self._window.refused.items() if code not in _DECIDED)

    def of(self, **wanted: str) -> pb.CallStatistics:
        """Return the figures of the calls that have some values in fields of `SeriesKey`."""
        fields, values = tuple(wanted), tuple(wanted.values())
        if (counts := self._counts.get(fields)) is None:
            counts = self._counts[fields] = Counter(map(_values_of(fields), self._in_flight))
        return self._message(self._window.by(*fields).get(values, _NOTHING), counts[values])

    def edges(self) -> Mapping[tuple[str, str, str], pb.CallStatistics]:
        """Return the figures of the calls by caller, provider and service; plugins by their names."""
        tallies: dict[tuple[str, str, str], Tally] = {}
        for (caller, provider, service), tally in self._window.by("caller", "provider", "service").items():
            edge = self._name_of(caller), self._name_of(provider), service
            tallies.setdefault(edge, Tally()).add(tally)
        counts = Counter(
            (self._name_of(c.caller), self._name_of(c.provider), c.service) for c in self._in_flight
        )
        return {
            edge: self._message(tallies.get(edge, _NOTHING), counts[edge]) for edge in {**tallies, **counts}
        }

    def series(self, wanted: str) -> Sequence[pb.CallSeries]:
        """Return the calls by names, method and code, the most frequent first, and not more than 1,000."""
        tallies: dict[SeriesKey, Tally] = {}
        for fields, tally in self._window.series.items():
            key = SeriesKey(*fields)
            if self._concerns(wanted, key.caller, key.provider, key.service):
                named = key._replace(caller=self._name_of(key.caller), provider=self._name_of(key.provider))
                tallies.setdefault(named, Tally()).add(tally)
        most = sorted(tallies.items(), key=lambda item: item[1].calls, reverse=True)[:_MOST_SERIES]
        return [
            pb.CallSeries(
                caller=key.caller,
                provider=key.provider,
                service_type=key.service,
                method=key.method,
                code=key.code,
                calls=self._message(tally, 0),
            )
            for key, tally in most
        ]

    def in_flight(self, wanted: str) -> Iterator[pb.CallInFlight]:
        """Yield the calls in flight, the oldest first, and not more than 1,000."""
        now, clock = time.time(), time.perf_counter()
        found = [c for c in self._in_flight if self._concerns(wanted, c.caller, c.provider, c.service)]
        for call in found[:_MOST_IN_FLIGHT]:
            yield _call_in_flight(call, now - (clock - call.began_at))

    def failures(self, wanted: str) -> Iterator[pb.FailedCall]:
        """Yield the last calls that failed or were refused, the newest first, and not more than 100."""
        both = sorted(
            (*self._table.failures(), *self._table.refusals()), key=lambda call: call.at, reverse=True
        )
        for call in self._first(both, wanted):
            yield pb.FailedCall(
                at=messages.timestamp(call.at),
                caller_id=call.caller,
                provider_id=call.provider,
                service_type=call.service,
                method=call.method,
                code=call.code,
                reason=call.failure,
                duration=messages.duration(call.duration_s),
                request_id=call.request_id,
                trace_id=call.trace_id,
                refused=call.refused,
            )

    def slowest(self, wanted: str) -> Iterator[pb.SlowCall]:
        """Yield the slowest calls, the slowest first, and not more than 100."""
        for call in self._first(self._table.slowest(), wanted):
            yield pb.SlowCall(
                at=messages.timestamp(call.at),
                caller_id=call.caller,
                provider_id=call.provider,
                service_type=call.service,
                method=call.method,
                code=call.code,
                duration=messages.duration(call.duration_s),
                request_id=call.request_id,
                trace_id=call.trace_id,
            )

    def _first(self, calls: Sequence[EndedCall], wanted: str) -> Sequence[EndedCall]:
        return [c for c in calls if self._concerns(wanted, c.caller, c.provider, c.service)][:_MOST_CALLS]

    def _concerns(self, wanted: str, caller: str, provider: str, service: str) -> bool:
        """Whether a call is of or to what is wanted: a name, the beginning of a runtime id, or a service."""
        return (
            not wanted
            or service == wanted
            or any(
                plugin.startswith(wanted) or self._name_of(plugin) == wanted for plugin in (caller, provider)
            )
        )

    def _message(self, tally: Tally, in_flight: int) -> pb.CallStatistics:
        if not tally.calls:
            return pb.CallStatistics(in_flight=in_flight)
        p50, p95, p99 = map(messages.duration, tally.quantiles(*_QUANTILES))
        return pb.CallStatistics(
            calls=tally.calls,
            failed=tally.failed,
            calls_per_second=tally.calls / self._window.span_s,
            p50=p50,
            p95=p95,
            p99=p99,
            in_flight=in_flight,
            request_bytes=tally.request_bytes,
            response_bytes=tally.response_bytes,
        )


def _values_of(fields: Sequence[str]) -> Callable[[Call], tuple[str, ...]]:
    return lambda call: tuple(getattr(call, field) for field in fields)


def _call_in_flight(call: Call, since: float) -> pb.CallInFlight:
    return pb.CallInFlight(
        caller_id=call.caller,
        provider_id=call.provider,
        service_type=call.service,
        method=call.method,
        since=messages.timestamp(since),
        stage=call.stage.value,
        request_bytes=call.request_bytes,
        response_bytes=call.response_bytes,
        request_id=call.request_id,
        trace_id=call.trace_id,
    )
