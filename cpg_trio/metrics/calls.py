"""The table of calls as metrics.

Labels are names of plugins, service types, methods and codes, as the table bounds them. The histogram is
without the caller and the code, and the bytes are without the method: each label multiplies the series, and
the counter of calls has all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from operator import attrgetter
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cpg_trio.metrics.families import counters, gauges, histogram
from cpg_trio.statistics import CallTable, Exemplar, SeriesKey, Tally, Total


class Side(StrEnum):
    """Whose calls a table has."""

    HOST = ""
    """Those that a host passes on or answers."""
    SERVER = "server_"
    """Those that a plugin answers."""
    CLIENT = "client_"
    """Those that a plugin makes."""


_OTHERS = {Side.HOST: ("caller", "provider"), Side.SERVER: ("caller",), Side.CLIENT: ("provider",)}


class _Sum(Tally):
    """Several series together."""

    __slots__ = ("exemplars",)

    def __init__(self) -> None:
        super().__init__()
        self.exemplars: dict[int, Exemplar] = {}

    def take(self, total: Total) -> None:
        """Add a series, with its exemplars."""
        self.add(total)
        for bucket, exemplar in total.exemplars.items():
            if bucket not in self.exemplars or self.exemplars[bucket].at < exemplar.at:
                self.exemplars[bucket] = exemplar


class CallMetrics(Collector):
    """Reads a table at each scrape."""

    def __init__(self, table: CallTable, side: Side) -> None:
        self._table = table
        self._prefix = f"cpg_trio_{side}"
        others = _OTHERS[side]
        self._full = ("kind", *others, "service", "method", "code")
        provider = [name for name in others if name == "provider"]
        self._timed = ("kind", *provider, "service", "method")
        self._coarse = ("kind", *provider, "service")

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of calls."""
        totals = self._table.totals()
        name = f"{self._prefix}call"
        yield from counters(
            f"{name}s",
            "Calls that have ended, by who called whom and how they ended.",
            self._full,
            ((key, each.calls) for key, each in _summed(totals, self._full).items()),
        )
        yield from histogram(
            f"{name}_duration_seconds",
            "How long calls took, from their begin to the end of the response.",
            self._timed,
            ((key, each, each.exemplars) for key, each in _summed(totals, self._timed).items()),
        )
        yield from self._coarse_metrics(name, _summed(totals, self._coarse))
        yield from counters(
            f"{name}s_refused",
            "Calls that were refused before they began, by the code of the refusal.",
            ("kind", "code"),
            self._table.refused().items(),
        )

    def _coarse_metrics(self, name: str, sums: Mapping[tuple[str, ...], _Sum]) -> Iterator[Metric]:
        for what, documentation, field in (
            ("_request_bytes", "Bytes of the bodies of requests that were sent.", "request_bytes"),
            ("_response_bytes", "Bytes of the bodies of responses that came back.", "response_bytes"),
            ("s_undelivered", "Calls that their provider has certainly not seen.", "undelivered"),
        ):
            value = attrgetter(field)
            yield from counters(
                name + what, documentation, self._coarse, ((key, value(each)) for key, each in sums.items())
            )
        in_flight = dict.fromkeys(sums, 0)
        for call in self._table.in_flight():
            key = self._coarse_key(call)
            in_flight[key] = in_flight.get(key, 0) + 1
        yield from gauges(
            f"{name}s_in_flight", "Calls that have begun and not ended.", self._coarse, in_flight.items()
        )

    def _coarse_key(self, call: Any) -> tuple[str, ...]:
        values = {"kind": call.kind, "provider": self._table.named(call.provider), "service": call.service}
        return tuple(values[label] for label in self._coarse)


def _summed(totals: Mapping[SeriesKey, Total], labels: Sequence[str]) -> dict[tuple[str, ...], _Sum]:
    """Return the series by some of their labels."""
    places = [SeriesKey._fields.index(label) for label in labels]
    sums: dict[tuple[str, ...], _Sum] = {}
    for key, total in totals.items():
        chosen = tuple(key[place] for place in places)
        if (known := sums.get(chosen)) is None:
            known = sums[chosen] = _Sum()
        known.take(total)
    return sums
