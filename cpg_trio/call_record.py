"""The record of one call, and the events that tell of calls.

A call begins and ends, and each is an event that listeners get with the same object, a `Call`. Whoever makes
or passes on the call fills the record in as it goes on. The log line of a routed call and the statistics are
listeners; metrics and traces can be others:

    calls.ended.add(lambda call: histogram.observe(call.duration_s))

An event without a listener costs one function call.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from enum import Enum, StrEnum
from typing import Protocol

from cpg_trio._listeners import Listeners
from cpg_trio.call_context import NO_CALL, CallContext, serving


class CallKind(StrEnum):
    """Which way a call takes."""

    ROUTED = "routed"
    """From a plugin through the host to another plugin."""
    DIRECT = "direct"
    """From a plugin to another one, without the host."""
    CAPABILITY = "capability"
    """From a plugin to something that the host itself offers."""


class Stage(Enum):
    """How far a call is."""

    CONNECT = "connect"
    """Nothing has been sent to the provider."""
    REQUEST = "request"
    """Something has been sent, and no response has begun."""
    RESPONSE = "response"
    """The caller has the head of the response."""


# A member of an Enum takes ten times as long to look up as a global name.
_CONNECT, _RESPONSE = Stage.CONNECT, Stage.RESPONSE


class Call:
    """One call. It has what is known so far; after its end nothing in it changes.

    It belongs to whoever made it: listeners read it, and do not write.
    """

    __slots__ = (
        "attempts",
        "began_at",
        "caller",
        "code",
        "context",
        "duration_s",
        "failure",
        "kind",
        "method",
        "protocol",
        "provider",
        "request_bytes",
        "response_bytes",
        "service",
        "stage",
        "status",
        "undelivered",
    )

    def __init__(
        self,
        kind: CallKind,
        caller: str = "",
        provider: str = "",
        service: str = "",
        method: str = "",
        protocol: str = "",
        context: CallContext = NO_CALL,
    ) -> None:
        self.kind: CallKind = kind
        self.caller: str = caller
        """The runtime id of the plugin that makes it; empty if that is not proved."""
        self.provider: str = provider
        """The runtime id of the plugin that it is for; empty for a capability of the host."""
        self.service: str = service
        """The service type, or the type of the capability."""
        self.method: str = method
        """The path below the service, as one printable line."""
        self.protocol: str = protocol
        """The version of HTTP that the caller speaks: `1.0`, `1.1` or `2`."""
        self.context: CallContext = context
        """The request and the trace that it belongs to."""
        self.began_at: float = time.perf_counter()
        self.duration_s: float = 0.0
        """In seconds, from the beginning to the end. 0 until it has ended."""
        self.request_bytes: int = 0
        """Bytes of the request's body that were sent."""
        self.response_bytes: int = 0
        """Bytes of the response's body that came back."""
        self.status: int = 0
        """The HTTP status that the caller was answered with; 0 if there was no answer."""
        self.code: str = "canceled"
        """`ok`, or the Connect code of the error that it ended with. No response is held back for it: where a
        body tells the code and does not come in one piece, the code is that of the HTTP status."""
        self.failure: str = "canceled"
        """Why the caller did not get the whole answer of a provider; empty if it did."""
        self.stage: Stage = _CONNECT
        """How far it came. Of a call that failed: where it failed."""
        self.attempts: int = 1
        """How many connections it was sent on."""
        self.undelivered: bool = False
        """Whether the provider has certainly not seen it."""

    @property
    def request_id(self) -> str:
        """The id of its request, which the calls that are made for it share; empty without one."""
        return self.context.request_id

    @property
    def trace_id(self) -> str:
        """The id of its trace, in 32 hex digits; empty without one."""
        return self.context.trace_id

    @property
    def is_sampled(self) -> bool:
        """Whether its trace is recorded, so that it can be found by its id."""
        return self.context.is_sampled

    def stop(self) -> None:
        """Note that it ends now."""
        self.duration_s = time.perf_counter() - self.began_at

    def succeed(self, status: int, code: str) -> None:
        """Note that the caller gets the whole answer of the provider, with a code."""
        self.status = status
        self.code = code
        self.failure = ""
        self.stage = _RESPONSE


class Tracer(Protocol):
    """Makes spans of calls: it gives each its context before it begins, and hears of its end."""

    def enter(self, context: CallContext, method: str, server: str) -> CallContext:
        """Return the context of a call that belongs to `context`, and whose span has begun.

        It may be `context` itself, which has a trace then.

        `method` is `package.Service/Method`, and `server` the address of whoever answers, with its port. The
        calls that are made for this call belong to what is returned.
        """

    def serving(self, context: CallContext) -> AbstractContextManager[None]:
        """Make a context the current one within the block, also for spans of the author's own code."""

    def calling(self, context: CallContext) -> CallContext:
        """Return what a call with `context` belongs to: to a span of the author, if one is current."""


class Calls:
    """The events of all calls of a host, or of a plugin."""

    tracer: Tracer | None = None
    """Makes spans of these calls, if tracing is on."""

    def __init__(self) -> None:
        self.begun: Listeners[Call] = Listeners[Call]("calls that begin")
        """A call was let through."""
        self.ended: Listeners[Call] = Listeners[Call]("calls that end")
        """A call that had begun has ended, however."""
        self.refused: Listeners[Call] = Listeners[Call]("calls that are refused")
        """A call was refused before it began. Its `status` and `failure` are set, and what else is known."""

    def serving(self, context: CallContext) -> AbstractContextManager[None]:
        """Make a context the current one within the block, where a call is answered."""
        return serving(context) if self.tracer is None else self.tracer.serving(context)

    def end(self, call: Call) -> None:
        """Note how long a call took, and tell of its end."""
        call.stop()
        self.ended.tell(call)
