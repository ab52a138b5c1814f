"""Metrics with their samples, in pieces.

A metric with thousands of samples is several pieces of the same name, one after the other, so that the event
loop has its turn between them (see `exposition`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import TypeAlias

from prometheus_client.core import Exemplar as ExemplarSample
from prometheus_client.metrics_core import Metric

from cpg_trio.statistics import BOUNDS_S, Exemplar, buckets

Row: TypeAlias = tuple[Sequence[str], float]
"""The values of the labels, and the value of the sample."""
DurationsRow: TypeAlias = tuple[Sequence[str], int, float, Mapping[int, Exemplar]]
"""The values of the labels; of a `Tally`, its histogram, its seconds and its exemplars, by bucket."""

_PIECE = 100  # samples: what is alive at a time is what the garbage collector has to look through
# The buckets that are exposed, of all that are counted: each costs a line for each series.
_LE = (
    "0.0005",
    "0.001",
    "0.002",
    "0.005",
    "0.01",
    "0.02",
    "0.05",
    "0.1",
    "0.2",
    "0.5",
    "1.0",
    "2.0",
    "5.0",
    "10.0",
)
_EXPOSED = [BOUNDS_S.index(float(le)) for le in _LE]
_INFINITE = "+Inf"


def gauges(name: str, documentation: str, labels: Sequence[str], rows: Iterable[Row]) -> Iterator[Metric]:
    """Yield a gauge."""
    yield from _pieces(name, documentation, "gauge", name, labels, rows)


def counters(name: str, documentation: str, labels: Sequence[str], rows: Iterable[Row]) -> Iterator[Metric]:
    """Yield a counter; `name` is without the `_total` of its samples."""
    yield from _pieces(name, documentation, "counter", f"{name}_total", labels, rows)


def _pieces(
    name: str, documentation: str, kind: str, sample: str, labels: Sequence[str], rows: Iterable[Row]
) -> Iterator[Metric]:
    rows = iter(rows)
    piece = list(islice(rows, _PIECE))
    while True:
        metric = Metric(name, documentation, kind)
        for values, value in piece:
            metric.add_sample(sample, dict(zip(labels, values, strict=True)), value)
        yield metric
        if not (piece := list(islice(rows, _PIECE))):
            return


def histogram(
    name: str,
    documentation: str,
    labels: Sequence[str],
    rows: Iterable[DurationsRow],
) -> Iterator[Metric]:
    """Yield a histogram of durations."""
    metric = Metric(name, documentation, "histogram")
    for values, durations, seconds, exemplars in rows:
        _add(metric, dict(zip(labels, values, strict=True)), durations, exemplars)
        metric.add_sample(f"{name}_sum", dict(zip(labels, values, strict=True)), seconds)
        if len(metric.samples) >= _PIECE:
            yield metric
            metric = Metric(name, documentation, "histogram")
    yield metric


def _add(metric: Metric, labels: dict[str, str], durations: int, exemplars: Mapping[int, Exemplar]) -> None:
    sums = list(accumulate(buckets(durations)))
    found = _exposed_exemplars(exemplars) if exemplars else {}
    name = f"{metric.name}_bucket"
    for i, le in zip(_EXPOSED, _LE, strict=True):
        metric.add_sample(name, {**labels, "le": le}, sums[i], exemplar=found.get(i))
    metric.add_sample(name, {**labels, "le": _INFINITE}, sums[-1], exemplar=found.get(len(BOUNDS_S)))
    metric.add_sample(f"{metric.name}_count", labels, sums[-1])


def _exposed_exemplars(exemplars: Mapping[int, Exemplar]) -> dict[int, ExemplarSample]:
    """Return the newest exemplar of each bucket that is exposed, by the index of its bound."""
    found: dict[int, Exemplar] = {}
    for bucket, exemplar in exemplars.items():
        exposed = next((i for i in _EXPOSED if i >= bucket), len(BOUNDS_S))
        if exposed not in found or found[exposed].at < exemplar.at:
            found[exposed] = exemplar
    return {
        i: ExemplarSample({"trace_id": each.trace_id}, each.duration_s, each.at) for i, each in found.items()
    }
