"""Spans of calls. A span begins as a few texts, and becomes one of OpenTelemetry when its call has ended.

So a call whose trace is not sampled costs two comparisons, and one that is sampled makes no object of
OpenTelemetry on its way. The attributes are those of the semantic conventions for RPC:
https://opentelemetry.io/docs/specs/semconv/rpc/connect-rpc/
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, cast

from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TracerProvider as AnyTracerProvider,
    TraceState,
    get_current_span,
    set_span_in_context,
    set_tracer_provider,
)

from cpg_trio._version import __version__
from cpg_trio.call_context import CallContext, NewRequest, current, serving
from cpg_trio.call_record import Call, Calls
from cpg_trio.tracing.sampling import Sampler

_SCOPE = "cpg_trio"
_OK = "ok"
# A server's errors that are its client's fault are none of its own (conventions for gRPC, by analogy).
_FAULTS_OF_SERVERS = frozenset(
    {"unknown", "deadline_exceeded", "unimplemented", "internal", "unavailable", "data_loss"}
)
_SAMPLED = 1
_ODD = frozenset("13579bdf")  # the last digit of the flags of a trace that is sampled
_LONGEST = 256  # characters of an attribute

_bits = random.getrandbits
_NO_SPAN = f"-{_bits(64) or 1:016x}-00"  # the end of the traceparent of calls that begin a trace unsampled


class Entered(CallContext):
    """The context of a sampled call: its span is that of the call."""

    __slots__ = ("method", "parent", "server")

    def __init__(self, parent: CallContext, traceparent: str, method: str, server: str) -> None:
        """Take the context of whoever made the call, and what the span is to tell."""
        super().__init__(parent.request_id, traceparent, parent.tracestate, parent.baggage)
        self.parent: CallContext = parent
        self.method: str = method
        self.server: str = server


class Recorder:
    """Makes the spans of one host or plugin. See `calls.Tracer`."""

    def __init__(
        self, sampler: Sampler, resource_of: Callable[[str], Resource], processor: SpanProcessor
    ) -> None:
        """Take what decides, what says who makes the spans by instance id, and what exports them."""
        self._sampler = sampler
        self._parent_based, self._bound = sampler.parent_based, sampler.bound
        self._resource_of = resource_of
        self._processor = processor
        self._ids = _Ids()
        self.identify("")

    def identify(self, instance_id: str) -> None:
        """Name the instance in the spans that end from now on: by its runtime id."""
        named = self._resource_of(instance_id)
        self._tracer = self._provider(named, ALWAYS_ON, self._ids).get_tracer(_SCOPE, __version__)
        self.authors = self._provider(named, _sampler_of_authors(self._sampler), RandomIdGenerator())
        """Makes the spans of the author's own code."""

    def _provider(self, resource: Resource, sampler: sampling.Sampler, ids: IdGenerator) -> TracerProvider:
        provider = TracerProvider(
            sampler=sampler, resource=resource, shutdown_on_exit=False, id_generator=ids
        )
        provider.add_span_processor(self._processor)
        return provider

    @contextmanager
    def recording(self, calls: Calls, kind: SpanKind) -> Iterator[None]:
        """Make a span of each sampled call, within the block."""
        calls.tracer = self

        def end(call: Call) -> None:
            if call.context.__class__ is Entered:
                self._record(kind, call)

        try:
            with calls.ended.added(end), calls.refused.added(partial(self._refuse, kind)):
                yield
        finally:
            calls.tracer = None

    # See `calls.Tracer`

    def enter(self, context: CallContext, method: str, server: str) -> CallContext:
        """Return the context of a call that belongs to `context`; see `calls.Tracer`."""
        parent = context.traceparent
        if not parent:
            # Most calls of a host come here: a call has one random id, and one that is not sampled no more.
            is_new = context.__class__ is NewRequest
            trace_id = context.request_id if is_new else _bits(128).to_bytes(16).hex()
            if trace_id[16:] < self._bound:
                return Entered(context, f"00-{trace_id}-{_bits(64).to_bytes(8).hex()}-01", method, server)
            context.traceparent = f"00-{trace_id}{_NO_SPAN}"  # so that nobody behind it decides anew
            return context
        if self._parent_based:
            if parent[-1] not in _ODD:
                return context
            sampled = True
        else:
            sampled = parent[19:35] < self._bound
        flags = int(parent[53:], 16) & ~_SAMPLED | sampled
        traceparent = f"{parent[:36]}{_bits(64).to_bytes(8).hex()}-{flags:02x}"
        if sampled:
            return Entered(context, traceparent, method, server)
        return CallContext(context.request_id, traceparent, context.tracestate, context.baggage)

    @contextmanager
    def serving(self, context: CallContext) -> Iterator[None]:
        """Make a context the current one within the block, also for spans of the author's own code."""
        token, here = attach(_as_parent(context)), _here.set(self)
        try:
            with serving(context):
                yield
        finally:
            _here.reset(here)
            detach(token)

    def calling(self, context: CallContext) -> CallContext:
        """Return what a call belongs to: a span of the author's own code, if one is current."""
        span = get_current_span().get_span_context()
        here = current()
        is_own = context.traceparent != here.traceparent  # the handler has set it
        if is_own or not span.is_valid or f"{span.span_id:016x}" == here.span_id:
            return context
        traceparent = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
        return CallContext(context.request_id, traceparent, span.trace_state.to_header(), context.baggage)

    # Spans

    def _refuse(self, kind: SpanKind, call: Call) -> None:
        """Make the span of a call that was refused before it was entered."""
        call.context = self.enter(call.context, "", "")
        if call.context.__class__ is Entered:
            self._record(kind, call)

    def _record(self, kind: SpanKind, call: Call) -> None:
        """Make the span of a call that has ended just now."""
        context = cast("Entered", call.context)
        self._ids.use(context)
        end = time.time_ns()
        span = self._tracer.start_span(
            context.method or "_OTHER",
            _as_parent(context.parent),
            kind,
            _attributes(call, context.method, context.server),
            start_time=end - int(call.duration_s * 1e9),
        )
        if call.code != _OK and (kind is SpanKind.CLIENT or call.code in _FAULTS_OF_SERVERS):
            span.set_attribute("error.type", call.code or "_OTHER")
            span.set_status(Status(StatusCode.ERROR, call.failure[:_LONGEST] or None))
        span.end(end)


def _attributes(call: Call, method: str, server: str) -> Mapping[str, str | int]:
    address, _, port = server.rpartition(":")
    found: dict[str, str | int] = {
        "rpc.system.name": "connectrpc",
        "rpc.method": method or "_OTHER",
        "rpc.response.status_code": call.code,
        "server.address": (address or server).strip("[]"),
        "cpg_trio.kind": call.kind.value,
        "cpg_trio.service": call.service,
        "cpg_trio.caller": call.caller,
        "cpg_trio.provider": call.provider,
        "cpg_trio.request_id": call.request_id,
    }
    if port.isdigit() and address:
        found["server.port"] = int(port)
    return {name: value for name, value in found.items() if value}


def _as_parent(context: CallContext) -> Context:
    """Return a context of OpenTelemetry whose current span is the one that a call belongs to."""
    if not context.traceparent:
        return Context()
    span = SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(context.traceparent[53:], 16)),
        trace_state=TraceState.from_header([context.tracestate]) if context.tracestate else None,
    )
    return set_span_in_context(NonRecordingSpan(span), Context())


def _sampler_of_authors(sampler: Sampler) -> sampling.Sampler:
    root = sampling.TraceIdRatioBased(sampler.ratio)
    return sampling.ParentBased(root) if sampler.parent_based else root


class _Ids(IdGenerator):
    """Gives the next span the ids that its call has had from its begin. For one thread."""

    def __init__(self) -> None:
        self._trace_id = self._span_id = 0

    def use(self, context: CallContext) -> None:
        """Take the ids of a call, whose span is made next."""
        self._trace_id, self._span_id = int(context.trace_id, 16), int(context.span_id, 16)

    def generate_trace_id(self) -> int:
        """Return the trace id, which is asked for if the call has no parent."""
        return self._trace_id

    def generate_span_id(self) -> int:
        """Return the span id."""
        return self._span_id


_here: ContextVar[Recorder | None] = ContextVar("the recorder of the call that is served", default=None)


class AuthorsTracers(AnyTracerProvider):
    """The tracers of authors' own code, for all hosts and plugins of a process.

    A span belongs to the plugin whose call is served; outside of calls to the first one of the process.
    """

    def __init__(self) -> None:
        self.recorders: list[Recorder] = []

    def get_tracer(self, *args: Any, **more: Any) -> Tracer:
        """Return a tracer; see OpenTelemetry."""
        return _AuthorsTracer(self, args, more)


class _AuthorsTracer(Tracer):
    def __init__(self, tracers: AuthorsTracers, args: tuple[Any, ...], more: dict[str, Any]) -> None:
        self._tracers = tracers
        self._args = args
        self._more = more

    @property
    def _tracer(self) -> Tracer:
        recorder = _here.get() or next(iter(self._tracers.recorders), None)
        if recorder is None:
            return NoOpTracer()
        return recorder.authors.get_tracer(*self._args, **self._more)

    def start_span(self, *args: Any, **more: Any) -> Span:
        """Start a span; see OpenTelemetry."""
        return self._tracer.start_span(*args, **more)

    def start_as_current_span(self, *args: Any, **more: Any) -> Any:
        """Start a span, and make it the current one within a block; see OpenTelemetry."""
        return self._tracer.start_as_current_span(*args, **more)


@cache
def authors_tracers() -> AuthorsTracers:
    """Return the tracers of this process, which OpenTelemetry gives to whoever asks, unless it has others."""
    tracers = AuthorsTracers()
    set_tracer_provider(tracers)
    return tracers
