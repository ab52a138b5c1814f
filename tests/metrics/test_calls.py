"""The table of calls as metrics: the same numbers, and only the labels that are bounded."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from prometheus_client.metrics_core import Metric

from cpg_trio.call_context import CallContext
from cpg_trio.call_record import Call, CallKind, Calls
from cpg_trio.metrics import CallMetrics, Side
from cpg_trio.statistics import CallTable

Samples = Mapping[tuple[str, ...], float]


class Counting:
    """Calls, and their metrics."""

    def __init__(self, side: Side = Side.HOST) -> None:
        self.calls = Calls()
        self.table = CallTable(self.calls)
        self.metrics = CallMetrics(self.table, side)

    def end(self, code: str = "ok", duration_s: float = 0.0015, caller: str = "a-1", trace: str = "") -> None:
        call = Call(CallKind.ROUTED, caller, "b-1", "b", "M")
        call.context = CallContext("id", trace)
        call.succeed(200, code)
        call.duration_s, call.request_bytes, call.response_bytes = duration_s, 3, 5
        self.calls.begun.tell(call)
        self.calls.ended.tell(call)

    def family(self, name: str) -> Metric:
        (family,) = (each for each in self.metrics.collect() if each.name == name)
        return family

    def samples(self, name: str, *labels: str) -> Samples:
        """Return the values of a metric by the values of some labels."""
        return {
            (*map(s.labels.__getitem__, labels),): s.value
            for family in self.metrics.collect()
            for s in family.samples
            if s.name == name
        }


def test_calls_are_counted_by_who_called_whom_and_the_code() -> None:
    counting = Counting()
    counting.end()
    counting.end()
    counting.end("not_found")
    labels = ("kind", "caller", "provider", "service", "method", "code")
    assert counting.samples("cpg_trio_calls_total", *labels) == {
        ("routed", "a", "b", "b", "M", "ok"): 2,
        ("routed", "a", "b", "b", "M", "not_found"): 1,
    }
    assert counting.samples("cpg_trio_call_request_bytes_total", "service") == {("b",): 9}
    assert counting.samples("cpg_trio_call_response_bytes_total", "service") == {("b",): 15}


def test_the_histogram_has_all_calls_of_a_method_whoever_called() -> None:
    counting = Counting()
    for duration_s in (0.0004, 0.001, 0.0011, 0.4, 60.0, 600.0):
        counting.end(duration_s=duration_s, caller=f"a{duration_s}-1")
    name = "cpg_trio_call_duration_seconds"
    buckets = counting.samples(f"{name}_bucket", "le")
    expected = {"0.0005": 1, "0.001": 2, "0.002": 3, "0.2": 3, "0.5": 4, "10.0": 4, "+Inf": 6}
    assert {le: count for (le,), count in buckets.items() if le in expected} == expected
    assert counting.samples(f"{name}_count") == {(): 6}
    assert counting.samples(f"{name}_sum")[()] == pytest.approx(660.4025)


def test_a_bucket_has_the_newest_sampled_trace_as_its_exemplar() -> None:
    counting = Counting()
    counting.end(duration_s=0.0012, trace=f"00-{'1' * 32}-{'b' * 16}-01", caller="x-1")
    counting.end(duration_s=0.0018, trace=f"00-{'2' * 32}-{'b' * 16}-01")
    counting.end(duration_s=0.0018, trace=f"00-{'3' * 32}-{'b' * 16}-00")
    counting.end(duration_s=99, trace=f"00-{'4' * 32}-{'b' * 16}-01")
    found = {
        s.labels["le"]: s.exemplar.labels["trace_id"]
        for s in counting.family("cpg_trio_call_duration_seconds").samples
        if s.exemplar is not None
    }
    assert found == {"0.002": "2" * 32, "+Inf": "4" * 32}


def test_a_call_is_in_flight_until_it_ends_and_then_there_are_none() -> None:
    counting = Counting()
    call = Call(CallKind.ROUTED, "a-1", "b-1", "b", "M")
    counting.calls.begun.tell(call)
    labels = ("kind", "provider", "service")
    assert counting.samples("cpg_trio_calls_in_flight", *labels) == {("routed", "b", "b"): 1}
    counting.calls.end(call)
    assert counting.samples("cpg_trio_calls_in_flight", *labels) == {("routed", "b", "b"): 0}


def test_a_refusal_is_counted_by_its_code() -> None:
    counting = Counting()
    call = Call(CallKind.ROUTED)
    call.code = "permission_denied"
    counting.calls.refused.tell(call)
    assert counting.samples("cpg_trio_calls_refused_total", "kind", "code") == {
        ("routed", "permission_denied"): 1
    }


@pytest.mark.parametrize(("side", "absent"), [(Side.SERVER, "provider"), (Side.CLIENT, "caller")])
def test_a_plugin_has_no_label_for_itself(side: Side, absent: str) -> None:
    counting = Counting(side)
    counting.end()
    samples = [s for family in counting.metrics.collect() for s in family.samples]
    assert all(s.name.startswith(f"cpg_trio_{side}call") for s in samples)
    assert not any(absent in s.labels for s in samples)
