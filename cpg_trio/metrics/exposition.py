"""The text that Prometheus reads: `/metrics`, as OpenMetrics or in the older text format.

A scrape of thousands of series takes a part of a second. It is made and sent piece by piece, and other tasks
have their turn between two pieces. A thread would not help: it would hold the interpreter for as long, in
turns of 5 ms. One scrape is made at a time, so that several scrapers together cost a caller no more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import trio
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from cpg_trio.asgi import Receive, Scope, Send, header, no_websocket, send_text

PATH = "/metrics"

_END = b"# EOF\n"  # of OpenMetrics
_LEAST_SENT = 16 * 1024  # bytes: most metrics have a few samples, and a write costs more than they do
_OPEN_METRICS = "application/openmetrics-text"


class _One(Collector):
    """One metric, for an encoder that takes a registry."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> list[Metric]:
        return [self._metric]


class Exposition:
    """The ASGI application that answers `PATH`, and nothing else."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._scraped = trio.Semaphore(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
        elif scope["path"] != PATH:
            await send_text(send, 404, "only /metrics is here\n")
        elif scope["method"] not in {"GET", "HEAD"}:
            await send_text(send, 405, "only GET is answered here\n", [(b"allow", b"GET, HEAD")])
        else:
            async with self._scraped:
                await self._answer(scope, send)

    async def _answer(self, scope: Scope, send: Send) -> None:
        encode, content_type = _encoder(header(scope, b"accept") or b"")
        fields = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        is_open_metrics = content_type.startswith(_OPEN_METRICS)
        body = b""
        for piece in _pieces(self._registry, encode):
            body += piece
            if len(body) >= _LEAST_SENT:
                await send({"type": "http.response.body", "body": body, "more_body": True})
                body = b""
        await send({"type": "http.response.body", "body": body + _END if is_open_metrics else body})


def _encoder(accept: bytes) -> tuple[Callable[[Collector], bytes], str]:
    """Return how to write for a scraper, and the content type."""
    return choose_encoder(f"{_OPEN_METRICS}; version=1.0.0" if _OPEN_METRICS.encode() in accept else "")


def _pieces(registry: CollectorRegistry, encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
    """Yield the text of a registry. Pieces of a metric that follow each other have one heading."""

    def encoded(metric: Metric) -> bytes:
        return encode(_One(metric)).removesuffix(_END)

    before = ""
    for metric in registry.collect():
        text = encoded(metric)
        if metric.name == before:
            text = text.removeprefix(encoded(Metric(metric.name, metric.documentation, metric.type)))
        before = metric.name
        yield text
