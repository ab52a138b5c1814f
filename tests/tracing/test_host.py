"""The spans of a host, as a receiver gets them over the network."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from cpg_trio._throttle import LogThrottle
from cpg_trio.tracing import export, switch
from tests.host.routed import Recorder, routing
from tests.plugin.running import eventually
from tests.shortener_processes import nobody
from tests.tracing.receiver import PATH, Receiver, receiving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"traceparent: 00-{TRACE}-{SPAN}-01", f"traceparent: 00-{TRACE}-{SPAN}-00"


@pytest.fixture(autouse=True)
def _exporters_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait for the threads of exporters, which a stop does not: what they log is of this test."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1.5")  # seconds, with all attempts
    yield
    for thread in threading.enumerate():
        if thread.name == "OtelBatchSpanRecordProcessor":
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", receiver.url + PATH)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield receiver


def sent_on(recorder: Recorder, number: int = 0) -> str:
    (value,) = re.findall(rb"\r\ntraceparent: (\S+)", recorder.seen[number])
    return bytes(value).decode()


async def test_a_routed_call_of_a_sampled_trace_is_one_span_between_caller_and_provider(
    receiver: Receiver,
) -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        await s.call(s.head("GET", None, SAMPLED, "tracestate: a=1", "x-request-id: r-1"))
        (got,) = await receiver.until(lambda spans: spans)
        assert got.resource["service.instance.id"] == s.host.registry.id
        provider, caller = s.provider, s.caller
    assert (got.trace_id, got.parent, got.kind) == (TRACE, SPAN, "server")
    assert got.name == "echo.v1.Echo/M"
    assert got.service == "cpg-trio-host"
    assert sent_on(recorder) == f"00-{TRACE}-{got.id}-01"
    assert got.span.trace_state == "a=1"
    port = got.attributes.pop("server.port")
    assert isinstance(port, int)
    attributes = got.attributes
    del attributes["server.port"]
    assert attributes == {
        "rpc.system.name": "connectrpc",
        "rpc.method": "echo.v1.Echo/M",
        "rpc.response.status_code": "ok",
        "server.address": "127.0.0.1",
        "cpg_trio.kind": "routed",
        "cpg_trio.service": "echo",
        "cpg_trio.caller": caller,
        "cpg_trio.provider": provider,
        "cpg_trio.request_id": "r-1",
    }
    assert got.span.status.code == 0
    assert 0 < got.span.end_time_unix_nano - got.span.start_time_unix_nano < 30e9


async def test_a_call_without_a_trace_begins_one(receiver: Receiver) -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        await s.call(s.head("GET"))
        (got,) = await receiver.until(lambda spans: spans)
    assert sent_on(recorder) == f"00-{got.trace_id}-{got.id}-01"
    assert got.parent == ""
    assert got.attributes["cpg_trio.request_id"] == got.trace_id


async def test_a_request_id_of_a_stranger_is_no_trace_id(receiver: Receiver) -> None:
    async with routing() as s:
        await s.call(s.head("GET", None, f"x-request-id: {TRACE}"))
        (got,) = await receiver.until(lambda spans: spans)
    assert got.attributes["cpg_trio.request_id"] == TRACE
    assert got.trace_id != TRACE


async def test_an_unsampled_trace_stays_so_and_passes_as_it_is(receiver: Receiver) -> None:
    recorder = Recorder()
    async with routing(recorder) as s:
        await s.call(s.head("GET", None, UNSAMPLED))
    assert sent_on(recorder) == UNSAMPLED.removeprefix("traceparent: ")
    assert receiver.spans == []


async def test_a_trace_that_is_not_sampled_at_its_begin_is_nowhere(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    recorder = Recorder()
    async with routing(recorder) as s:
        await s.call(s.head("GET"))
        await s.call(s.head("GET", None, SAMPLED))
        await receiver.until(lambda spans: spans)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", sent_on(recorder))
    assert [got.trace_id for got in receiver.spans] == [TRACE]


async def test_a_sampler_that_asks_no_parent_decides_alone(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    recorder = Recorder()
    async with routing(recorder) as s:
        await s.call(s.head("GET", None, SAMPLED))
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-00", sent_on(recorder))
    assert receiver.spans == []


@pytest.mark.parametrize(
    ("code", "status", "is_its_fault"), [("not_found", 404, False), ("unavailable", 503, True)]
)
async def test_an_error_is_told_and_a_server_is_at_fault_for_its_own_ones_only(
    receiver: Receiver, code: str, status: int, *, is_its_fault: bool
) -> None:
    body = b'{"code": "%b"}' % code.encode()
    answer = b"HTTP/1.1 %d x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    async with routing(Recorder(answer % (status, len(body), body))) as s:
        await s.call(s.head("GET", None, SAMPLED))
        (got,) = await receiver.until(lambda spans: spans)
    assert got.attributes["rpc.response.status_code"] == code
    assert (got.span.status.code == 2) is is_its_fault
    assert got.attributes.get("error.type") == (code if is_its_fault else None)


async def test_a_refused_call_is_a_span_as_well(receiver: Receiver) -> None:
    async with routing() as s:
        await s.call(s.head("GET", "/services/echo/nobody-0/M", SAMPLED))
        (got,) = await receiver.until(lambda spans: spans)
    assert (got.trace_id, got.parent, got.name) == (TRACE, SPAN, "_OTHER")
    assert got.attributes["rpc.response.status_code"] == "not_found"


async def test_what_is_not_exported_yet_is_exported_at_the_stop(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    async with routing() as s:
        await s.call(s.head("GET", None, SAMPLED))
        assert receiver.spans == []
    assert len(receiver.spans) == 1


async def test_an_exporter_that_does_not_work_costs_a_line_and_no_call(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(export, "_throttle", LogThrottle(60.0, time.monotonic))
    receiver.status = 400
    async with routing() as s:
        for count in (1, 2):
            assert (await s.call(s.head("GET", None, SAMPLED))).status == 200
            await eventually(lambda: receiver.requests >= count)  # noqa: B023 - it is awaited here
    lines = [record.getMessage() for record in caplog.records if "export" in record.getMessage()]
    assert len(lines) == 1
    assert re.match(r"1 spans were not exported: Failed to export spans? batch code: 400", lines[0])


async def test_an_exporter_that_is_away_holds_up_neither_calls_nor_the_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", nobody())
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setattr(switch, "_FLUSH_S", 0.1)
    async with routing() as s:
        assert (await s.call(s.head("GET", None, SAMPLED))).status == 200
    assert [r for r in caplog.records if "export" in r.getMessage() and r.name != "cpg_trio.tracing"] == []


async def test_spans_that_are_too_many_are_dropped_with_a_line(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(export, "_throttle", LogThrottle(60.0, time.monotonic))
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "2")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    receiver.status = 503
    async with routing() as s:
        monkeypatch.setattr(switch, "_FLUSH_S", 0.1)
        for _ in range(6):
            await s.call(s.head("GET", None, SAMPLED))
    lines = [r.getMessage() for r in caplog.records if "spans are" in r.getMessage()]
    assert lines == ["spans are dropped: there are more than are exported"]
