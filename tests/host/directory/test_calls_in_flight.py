"""Calls in flight: they are counted, and end when their caller or their provider is gone."""

from __future__ import annotations

from cpg_trio.host.directory.calls_in_flight import CallsInFlight
from tests.host.directory.held_call import HeldCall


def test_calls_are_counted_from_their_begin_to_their_end_with_those_that_are_not_routed() -> None:
    calls = CallsInFlight(elsewhere={"p": 3, "q": 0}.__getitem__)
    first, second = HeldCall(), HeldCall()
    calls.begin("c", "p", first)
    calls.begin("c", "p", second)
    assert (calls.count("p"), calls.count("q")) == (5, 0)
    assert set(calls.of_provider("p")) == {first, second}
    assert calls.has_called("c")
    assert not calls.has_called("p")
    for call in (first, second):
        calls.end("c", "p", call)
    assert calls.count("p") == 3
    assert not calls.of_provider("p")
    assert not calls.has_called("c")


async def test_the_calls_of_a_caller_or_to_a_provider_are_cancelled_and_no_others() -> None:
    calls = CallsInFlight()
    held = {(caller, provider): HeldCall() for caller in "cd" for provider in "pq"}
    for (caller, provider), call in held.items():
        calls.begin(caller, provider, call)
    calls.cancel_of_caller("c")
    assert {pair for pair, call in held.items() if call.scope.cancel_called} == {("c", "p"), ("c", "q")}
    calls.cancel_of_provider("p")
    assert {pair for pair, call in held.items() if not call.scope.cancel_called} == {("d", "q")}
