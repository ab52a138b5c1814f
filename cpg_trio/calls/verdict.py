"""What a failed attempt means: for its provider, and for whether the call may be sent again."""

from __future__ import annotations

import attrs

from cpg_trio import wire
from cpg_trio.calls.backoff import asked_by_body, asked_by_details, asked_by_head
from cpg_trio.calls.outcome import Outcome
from cpg_trio.http import InvalidRequestError, NotSentError, PoolFullError
from cpg_trio.rpc import CallError, Code, ConnectError, Fault, HttpResponseHead, fault_of
from cpg_trio.rpc.faults import fault_of_answer
from cpg_trio.rpc.http_client import code_of

_OK = 200
_UNDELIVERED = wire.UNDELIVERED_HEADER.lower()
_IS_AWAY = frozenset({404, 429, 502, 503})  # marked answers of a host that another attempt may change
_FAILURES = frozenset(code.value for code in (Code.UNAVAILABLE, Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS))
_EXHAUSTED = Code.RESOURCE_EXHAUSTED.value


class UndeliveredError(CallError):
    """A call has failed that no provider has seen, so that it may be sent again."""


@attrs.frozen
class Verdict:
    """What the end of an attempt means."""

    outcome: Outcome
    """For its provider."""
    why: str
    """The code of its error."""
    undelivered: bool = False
    """Whether no provider has seen it."""
    repeatable: bool = False
    """Whether another attempt may succeed."""
    asked_s: float = 0.0
    """Before that, in seconds, as the answer asks."""
    full: bool = False
    """Whether the provider has no room, and is well otherwise."""


SUCCEEDED = Verdict(Outcome.SUCCESS, "")
CANCELLED = Verdict(Outcome.NOTHING, "")
TIMED_OUT = Verdict(Outcome.FAILURE, Code.DEADLINE_EXCEEDED.value)


def verdict_of_error(error: ConnectError) -> Verdict:
    """Return what the error of an attempt means."""
    fault, code, cause = fault_of(error), error.code.value, error.__cause__
    asked_s = asked_by_details(error.details)
    if isinstance(error, UndeliveredError) or isinstance(cause, NotSentError):
        outcome = Outcome.FAILURE if fault is not None and fault.is_providers else Outcome.NOTHING
        return Verdict(
            outcome, code, undelivered=True, repeatable=not isinstance(cause, PoolFullError), asked_s=asked_s
        )
    if isinstance(cause, InvalidRequestError):
        return Verdict(Outcome.NOTHING, code)
    return _verdict(fault, code, asked_s)


def verdict_of_answer(response: HttpResponseHead, body: bytes) -> Verdict:
    """Return what an answer means. `body` is all of it, or its last piece."""
    content_type = response.header("content-type").partition(";")[0].strip().lower()
    code = code_of(response, body)
    if response.status == _OK and code == "ok":
        return SUCCEEDED
    asked_s = max(asked_by_head(response), asked_by_body(body))
    if response.status == _OK:
        return _verdict(Fault.HANDLER, code, asked_s)
    fault = fault_of_answer(response, content_type)
    if response.header(_UNDELIVERED) == "true":
        outcome = Outcome.FAILURE if fault.is_providers else Outcome.NOTHING
        away = response.status in _IS_AWAY
        return Verdict(outcome, code, undelivered=True, repeatable=away, asked_s=asked_s)
    return _verdict(fault, code, asked_s)


def _verdict(fault: Fault | None, code: str, asked_s: float) -> Verdict:
    if code == _EXHAUSTED:
        return Verdict(
            Outcome.SUCCESS,
            code,
            repeatable=fault is not Fault.CALLER,
            asked_s=asked_s,
            full=fault is Fault.HANDLER,
        )
    if code not in _FAILURES:
        return Verdict(Outcome.SUCCESS if fault is Fault.HANDLER else Outcome.NOTHING, code)
    # It is not always known whose failure it is that an answer breaks off: it counts against nobody then.
    counts = fault is not None and fault.is_providers
    outcome = Outcome.FAILURE if counts else Outcome.NOTHING
    return Verdict(outcome, code, repeatable=True, asked_s=asked_s)
