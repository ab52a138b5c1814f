"""A call of the example, followed through four processes: in their logs, and as one trace."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import trio

from tests.processes import Running
from tests.shortener_processes import System
from tests.tracing.receiver import Received, Receiver, receiving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": "r-1"}
CHAIN = [  # from the last call to the first: each belongs to the next
    ("logger-plugin", "server", "logger.v1.Logger/Log"),
    ("cpg-trio-host", "server", "logger.v1.Logger/Log"),
    ("storage-plugin", "client", "logger.v1.Logger/Log"),
    ("storage-plugin", "server", "storage.v1.Storage/Store"),
    ("cpg-trio-host", "server", "storage.v1.Storage/Store"),
    ("api-plugin", "client", "storage.v1.Storage/Store"),
    ("api-plugin", "server", "api.v1.API/Shorten"),
]


@asynccontextmanager
async def example(folder: Path, receiver: Receiver, **environment: str) -> AsyncIterator[System]:
    exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    async with trio.open_nursery() as nursery:
        system = System(nursery, folder, environment={"LOG_FORMAT": "json", **exporting, **environment})
        for name in ("host", "logger", "storage", "api"):
            await system.start(name)
        await system.healthy("logger", "storage", "api")
        yield system
        nursery.cancel_scope.cancel()


async def shorten(system: System, headers: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient(base_url=await system.parts["api"].url()) as http:
        url = {"url": "https://example.com"}
        return await http.post("/api.v1.API/Shorten", json=url, headers=headers)


async def lines_of_trace(part: Running, message: str) -> list[dict[str, str]]:
    """Wait for a line with a message; return all lines of the trace."""
    await part.until(rf'"message":"[^"]*{message}[^\n]*\n')
    lines = [json.loads(line) for line in part.output.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("trace_id") == TRACE]


def chain_from(spans: list[Received], last: tuple[str, str, str]) -> list[Received]:
    """Return a span, the one that it belongs to, and so on."""
    by_id = {each.id: each for each in spans}
    (at,) = [each for each in spans if (each.service, each.kind, each.name) == last]
    chain = [at]
    while at.parent in by_id:
        at = by_id[at.parent]
        chain.append(at)
    return chain


async def test_a_trace_is_in_each_log_and_its_spans_are_one_chain(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with receiving() as receiver, example(tmp_path, receiver) as system:
            answer = await shorten(system, HEADERS)
            assert answer.status_code == 200
            assert answer.headers["x-request-id"] == "r-1"
            for name, message in (("storage", "STORE"), ("logger", "STORE"), ("host", "storage.v1|Store")):
                lines = await lines_of_trace(system.parts[name], message)
                assert lines, name
                assert {line["request_id"] for line in lines} == {"r-1"}
            ours = [s for s in await receiver.until(_has_all) if s.trace_id == TRACE]
    chain = chain_from(ours, CHAIN[0])
    assert [(each.service, each.kind, each.name) for each in chain] == CHAIN
    assert chain[-1].parent == SPAN
    (statement,) = [each for each in ours if each.name == "INSERT urls"]
    assert chain_from(ours, ("storage-plugin", "client", "INSERT urls"))[1:] == chain[3:]
    assert statement.attributes["db.system.name"] == "sqlite"
    assert len(ours) == len(CHAIN) + 1
    instances = {each.service: str(each.resource["service.instance.id"]) for each in ours}
    assert all(instances[name].startswith(f"{name}-") for name in instances if name.endswith("-plugin"))
    assert {each.resource["service.version"] for each in ours if each.service == "api-plugin"} == {"1.0.0"}


def _has_all(spans: list[Received]) -> bool:
    return len([span for span in spans if span.trace_id == TRACE]) > len(CHAIN)
