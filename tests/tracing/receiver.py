"""A receiver of OTLP over HTTP: a server on a socket, which keeps the spans that it is sent."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from cpg_trio._cell import Cell
from cpg_trio.asgi import Receive, Scope, Send, header, send_response
from tests.http.apps import read_body, served

PATH = "/v1/traces"


@attrs.frozen
class Received:
    """A span, and the resource that has sent it."""

    resource: dict[str, str | int]
    span: Span

    @property
    def service(self) -> str:
        return str(self.resource["service.name"])

    @property
    def name(self) -> str:
        return str(self.span.name)

    @property
    def kind(self) -> str:
        return Span.SpanKind.Name(self.span.kind).removeprefix("SPAN_KIND_").lower()

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent(self) -> str:
        return self.span.parent_span_id.hex()

    @property
    def attributes(self) -> dict[str, str | int]:
        return _values(self.span.attributes)


class Receiver:
    """What has been received so far."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.requests = 0
        self._spans = Cell[list[Received]]([])

    @property
    def spans(self) -> list[Received]:
        return self._spans.value

    async def until(self, condition: Callable[[list[Received]], object]) -> list[Received]:
        """Wait until the spans are as wanted; return them."""
        with trio.fail_after(30):
            async for spans in self._spans.reader():
                if condition(spans):
                    return spans
        raise AssertionError(self.spans)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        self.requests += 1
        assert (scope["method"], scope["path"]) == ("POST", PATH)
        assert header(scope, b"content-type") == b"application/x-protobuf"
        if header(scope, b"content-encoding") == b"gzip":
            body = gzip.decompress(body)
        if self.status == 200:
            self._spans.set([*self.spans, *_received(ExportTraceServiceRequest.FromString(body))])
        answer = ExportTraceServiceResponse().SerializeToString()
        await send_response(send, self.status, answer, [(b"content-type", b"application/x-protobuf")])


def _received(request: ExportTraceServiceRequest) -> list[Received]:
    return [
        Received(_values(of_resource.resource.attributes), span)
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _values(attributes: object) -> dict[str, str | int]:
    return {each.key: _value(each.value) for each in attributes}  # type: ignore[attr-defined]


def _value(value: AnyValue) -> str | int:
    found: str | int = getattr(value, str(value.WhichOneof("value")))
    return found


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with served(receiver) as receiver.url:
        yield receiver
