"""The exporter: OTLP over HTTP, from a thread of its own that no call waits for."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from cpg_trio._lines import one_line
from cpg_trio._throttle import LogThrottle

_log = logging.getLogger("cpg_trio.tracing")

_TELL_S = 60.0  # between lines of the log about an exporter that does not work


def resource_of(service_name: str, version: str, instance_id: str) -> Resource:
    """Return who makes the spans; `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` may say otherwise."""
    own = {"service.name": service_name, "service.version": version}
    if instance_id:
        own["service.instance.id"] = instance_id
    return Resource.create().merge(Resource(own)).merge(OTELResourceDetector().detect())


def batches() -> BatchSpanProcessor:
    """Return what exports spans in a thread, as OpenTelemetry's variables say. Raises: ValueError."""
    return BatchSpanProcessor(_TellingExporter(trace_exporter.OTLPSpanExporter()))


_throttle = LogThrottle(_TELL_S, time.monotonic)  # of all exporters of a process


def _tell(text: str) -> None:
    if (more := _throttle.suffix()) is not None:
        _log.warning("%s%s", text, more)


class _Why(logging.Filter):
    """Takes the messages of OpenTelemetry's loggers, which would be a line for each attempt to export."""

    text = ""
    """Why an export has failed."""
    _before = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a message: that of the last attempt, and what came of it. Let none pass."""
        message = record.getMessage()
        if message.startswith("Queue full"):
            _tell("spans are dropped: there are more than are exported")
        elif record.levelno < logging.ERROR:
            self._before = f" ({message})"
        else:
            self.text, self._before = message + self._before, ""
        return False


_why = _Why()
for _name in (trace_exporter.__name__, BatchSpanProcessor.__module__, "opentelemetry.sdk._shared_internal"):
    logging.getLogger(_name).addFilter(_why)


class _TellingExporter(SpanExporter):
    """Exports, and logs once in a while that it does not work."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans, in the thread."""
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            _tell(f"{len(spans)} spans were not exported: {one_line(_why.text)}")
        return result

    def shutdown(self) -> None:
        """Give up what is still to be exported."""
        self._exporter.shutdown()
