"""What Prometheus reads: valid in both formats, in pieces, and nothing else on that port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from hypothesis import given, strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from cpg_trio.call_record import Call, CallKind, Calls
from cpg_trio.http import ServeConfig, StartError
from cpg_trio.metrics import CallMetrics, Side, counters, gauges, metrics_port
from cpg_trio.metrics.exposition import _encoder
from cpg_trio.statistics import CallTable

OPEN_METRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


class Given(Collector):
    """A collector of what a test gives."""

    def __init__(self, *metrics: Iterator[Metric]) -> None:
        self._metrics = [metric for pieces in metrics for metric in pieces]

    def collect(self) -> list[Metric]:
        return self._metrics


@asynccontextmanager
async def answering(*collectors: Collector) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        metrics_port("127.0.0.1:0", ServeConfig(), lambda: collectors) as (url,),
        httpx.AsyncClient(base_url=url) as client,
    ):
        yield client


def ended(count: int = 1, method: str = "M") -> CallTable:
    """Return a table of calls that have ended."""
    calls = Calls()
    table = CallTable(calls)
    for number in range(count):
        call = Call(CallKind.ROUTED, "a-1", "b-1", f"s{number}", method)
        call.succeed(200, "ok")
        calls.begun.tell(call)
        calls.end(call)
    return table


async def test_both_formats_have_the_same_samples() -> None:
    async with answering(CallMetrics(ended(3), Side.HOST)) as client:
        new = await client.get("/metrics", headers=OPEN_METRICS)
        old = await client.get("/metrics")
    assert new.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert old.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = [
        {(s.name, *s.labels.items()) for family in parse(text) for s in family.samples if "cpg" in s.name}
        for parse, text in ((parse_open_metrics, new.text), (parse_text, old.text))
    ]
    assert samples[0] == samples[1]
    assert ("cpg_trio_calls_total", *CALL) in samples[0]


KNOWN = (
    "application/openmetrics-text",
    *("version=1.0.0", "version=0.0.4", "charset=utf-8", "escaping=underscores"),
)
CALL = (
    ("caller", "a"),
    ("code", "ok"),
    ("kind", "routed"),
    ("method", "M"),
    ("provider", "b"),
    ("service", "s1"),
)


async def test_a_metric_in_many_pieces_has_one_heading() -> None:
    rows = [((f"v{number}",), number) for number in range(1000)]
    async with answering(Given(counters("many", "Many.", ("label",), rows))) as client:
        for headers in ({}, OPEN_METRICS):
            text = (await client.get("/metrics", headers=headers)).text
            assert text.count("# HELP many") == text.count("# TYPE many") == 1
            assert text.count("many_total{") == 1000
            assert text.count("# EOF") == bool(headers)


async def test_values_of_labels_are_escaped() -> None:
    value = 'a"b\\c\nd{} é'
    async with answering(Given(gauges("g", "G.", ("label",), [((value,), 1)]))) as client:
        for headers, parse in (({}, parse_text), (OPEN_METRICS, parse_open_metrics)):
            text = (await client.get("/metrics", headers=headers)).text
            (family,) = (each for each in parse(text) if each.name == "g")
            assert family.samples[0].labels == {"label": value}


async def test_process_and_interpreter_are_in_it() -> None:
    async with answering() as client:
        text = (await client.get("/metrics")).text
    for name in (
        "process_open_fds",
        "process_cpu_seconds_total",
        "python_gc_collections_total",
        "python_info",
    ):
        assert f"\n{name}" in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/", 404), ("POST", "/metrics", 405), ("GET", "/healthz", 404)],
)
async def test_nothing_else_is_answered_there(method: str, path: str, status: int) -> None:
    async with answering() as client:
        assert (await client.request(method, path)).status_code == status
        assert (await client.head("/metrics")).status_code == 200


async def test_a_web_page_of_somebody_elses_reads_nothing() -> None:
    async with answering() as client:
        for headers in ({"origin": "https://page.example"}, {"host": "rebound.example:9464"}):
            refused = await client.get("/metrics", headers=headers)
            assert (refused.status_code, "process_" in refused.text) == (403, False)


async def test_the_loop_has_its_turn_within_a_scrape() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with answering(CallMetrics(ended(2000), Side.HOST)) as client, trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        async with client.stream("GET", "/metrics") as response:
            before, longest = turns, 0
            async for _ in response.aiter_raw():
                longest, before = max(longest, turns - before), turns
            assert turns > 50
        nursery.cancel_scope.cancel()


async def test_an_address_in_use_is_an_error_at_the_start() -> None:
    async with metrics_port("127.0.0.1:0", ServeConfig(), lambda: ()) as (url,):
        with pytest.raises(StartError):
            async with metrics_port(url.removeprefix("http://"), ServeConfig(), lambda: ()):
                raise AssertionError


async def test_without_an_address_nothing_is_made() -> None:
    async with metrics_port(None, ServeConfig(), lambda: 1 / 0) as urls:  # type: ignore[arg-type, return-value]
        assert urls == ()


@given(st.binary().map(lambda some: b"application/openmetrics-text; version=" + some) | st.binary())
def test_whatever_a_scraper_accepts_it_gets_one_of_the_formats(accept: bytes) -> None:
    _, content_type = _encoder(accept)
    assert content_type.startswith(("text/plain", "application/openmetrics-text"))
    assert all(part in {"text/plain", *KNOWN} for part in content_type.split("; "))
