"""The table of calls as metrics.

Labels are names of plugins, service types, methods and codes, as the table bounds them. The histogram is
without the caller and the code, and the bytes are without the method: each label multiplies the series, and
the counter of calls has all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from operator import attrgetter, itemgetter
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cpg_trio.metrics.families import DurationsRow, counters, gauges, histogram
from cpg_trio.statistics import CallTable, Exemplar, SeriesKey


class Side(StrEnum):
    """Whose calls a table has."""

    HOST = ""
    """Those that a host passes on or answers."""
    SERVER = "server_"
    """Those that a plugin answers."""
    CLIENT = "client_"
    """Those that a plugin makes."""


_COARSE = (
    ("_request_bytes", "Bytes of the bodies of requests that were sent.", "request_bytes"),
    ("_response_bytes", "Bytes of the bodies of responses that came back.", "response_bytes"),
    ("s_undelivered", "Calls that their provider has certainly not seen.", "undelivered"),
)
_OTHERS = {Side.HOST: ("caller", "provider"), Side.SERVER: ("caller",), Side.CLIENT: ("provider",)}


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
        name = f"{self._prefix}call"
        yield from counters(
            f"{name}s",
            "Calls that have ended, by who called whom and how they ended.",
            self._full,
            self._sums(self._full, "calls").items(),
        )
        yield from histogram(
            f"{name}_duration_seconds",
            "How long calls took, from their begin to the end of the response.",
            self._timed,
            self._durations(),
        )
        for what, documentation, field in _COARSE:
            yield from counters(
                name + what, documentation, self._coarse, self._sums(self._coarse, field).items()
            )
        yield from gauges(
            f"{name}s_in_flight",
            "Calls that have begun and not ended.",
            self._coarse,
            self._in_flight().items(),
        )
        yield from counters(
            f"{name}s_refused",
            "Calls that were refused before they began, by the code of the refusal.",
            ("kind", "code"),
            self._table.refused().items(),
        )

    def _sums(self, labels: Sequence[str], field: str) -> dict[tuple[str, ...], Any]:
        """Return a number of all calls that have ended, by some labels.

        These are numbers and not objects, as the garbage collector would look through thousands of those, and
        then through all others of the process.
        """
        key_of, value_of, sums = _key_of(labels), attrgetter(field), dict[tuple[str, ...], Any]()
        for series, part in self._table.parts():
            key = key_of(series)
            sums[key] = sums.get(key, 0) + value_of(part)
        return sums

    def _durations(self) -> Iterator[DurationsRow]:
        histograms, seconds = self._sums(self._timed, "histogram"), self._sums(self._timed, "seconds")
        exemplars = self._exemplars()
        for key, summed in histograms.items():
            yield key, summed, seconds[key], exemplars.get(key, {})

    def _exemplars(self) -> Mapping[tuple[str, ...], Mapping[int, Exemplar]]:
        """Return the newest exemplar of each bucket, by the labels of the histogram."""
        key_of, newest = _key_of(self._timed), dict[tuple[str, ...], dict[int, Exemplar]]()
        for series, part in self._table.parts():
            for bucket, exemplar in part.exemplars.items():
                known = newest.setdefault(key_of(series), {})
                if bucket not in known or known[bucket].at < exemplar.at:
                    known[bucket] = exemplar
        return newest

    def _in_flight(self) -> Mapping[tuple[str, ...], int]:
        counts = dict.fromkeys(self._sums(self._coarse, "calls"), 0)
        for call in self._table.in_flight():
            values = {
                "kind": call.kind,
                "provider": self._table.named(call.provider),
                "service": call.service,
            }
            key = tuple(values[label] for label in self._coarse)
            counts[key] = counts.get(key, 0) + 1
        return counts


def _key_of(labels: Sequence[str]) -> Callable[[SeriesKey], tuple[str, ...]]:
    """Return a function that chooses the values of some labels."""
    return itemgetter(*(SeriesKey._fields.index(label) for label in labels))
