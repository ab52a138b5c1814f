"""The record of a call, and the events that tell of calls."""

from __future__ import annotations

import pytest

from cpg_trio.call_context import CallContext
from cpg_trio.call_record import Call, CallKind, Calls, Stage


def test_a_listener_gets_the_same_record_at_the_begin_and_at_the_end() -> None:
    calls, told = Calls(), list[tuple[str, Call]]()
    calls.begun.add(lambda call: told.append(("begun", call)))
    calls.ended.add(lambda call: told.append(("ended", call)))
    call = Call(CallKind.DIRECT, caller="a-1", provider="b-1", service="b", method="M", protocol="1.1")
    calls.begun.tell(call)
    call.succeed(200, "ok")
    calls.end(call)
    assert told == [("begun", call), ("ended", call)]
    assert call.duration_s > 0
    assert (call.status, call.failure, call.stage) == (200, "", Stage.RESPONSE)


def test_a_call_that_nobody_ends_otherwise_was_canceled() -> None:
    call = Call(CallKind.ROUTED)
    assert (call.failure, call.code) == ("canceled", "canceled")


def test_a_listener_that_raises_keeps_nobody_else_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    calls, heard = Calls(), list[Call]()
    calls.begun.add(lambda _: 1 / 0)
    calls.begun.add(heard.append)
    call = Call(CallKind.ROUTED)
    calls.begun.tell(call)
    assert heard == [call]
    assert "a listener of calls that begin failed" in caplog.text


def test_a_record_has_no_dictionary() -> None:
    assert not hasattr(Call(CallKind.ROUTED), "__dict__")


def test_a_record_has_the_request_and_the_trace_that_it_belongs_to() -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    context = CallContext("r-1", f"00-{trace_id}-b7ad6b7169203331-01")
    call = Call(CallKind.ROUTED, context=context)
    assert (call.request_id, call.trace_id, call.is_sampled) == ("r-1", trace_id, True)
    call = Call(CallKind.ROUTED)
    assert (call.request_id, call.trace_id, call.is_sampled) == ("", "", False)
