"""The table of calls: each call is in it once, it forgets nothing that counts, and nobody fills it alone."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock

from cpg_trio.call_context import CallContext
from cpg_trio.call_record import Call, CallKind, Calls
from cpg_trio.statistics import BOUNDS_S, OTHER, CallTable, PlainRoom, SeriesKey, Tally

FAST = BOUNDS_S[0] / 2
NAMES = {"a-1": "a", "a-2": "a", "b-1": "b"}


class Making:
    """Calls that end, and a table that counts them."""

    def __init__(self, most: int = 10_000) -> None:
        self.calls = Calls()
        self.now = 0.0
        self.table = CallTable(
            self.calls,
            name_of=lambda runtime_id: NAMES.get(runtime_id, ""),
            room=lambda: PlainRoom(most),
            clock=lambda: self.now,
        )

    def call(
        self,
        caller: str = "a-1",
        method: str = "M",
        code: str = "ok",
        duration_s: float = FAST,
        service: str = "b",
    ) -> Call:
        call = Call(CallKind.ROUTED, caller, "b-1", service, method)
        self.calls.begun.tell(call)
        call.succeed(200, code)
        call.duration_s, call.request_bytes, call.response_bytes = duration_s, 10, 20
        self.calls.ended.tell(call)
        return call

    def roll(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 10
            self.table.roll()

    def totals(self) -> dict[SeriesKey, Tally]:
        totals = dict[SeriesKey, Tally]()
        for labels, part in self.table.parts():
            totals.setdefault(labels, Tally()).add(part)
        return totals

    def count(self) -> int:
        return sum(total.calls for total in self.totals().values())


def key(caller: str = "a", method: str = "M", code: str = "ok") -> SeriesKey:
    return SeriesKey(CallKind.ROUTED, caller, "b", "b", method, code)


# What is counted


def test_a_call_is_counted_once_by_who_called_whom_and_how_it_ended() -> None:
    making = Making()
    making.call()
    making.call(code="not_found")
    making.call()
    totals = making.totals()
    assert {k: t.calls for k, t in totals.items()} == {key(): 2, key(code="not_found"): 1}
    assert (totals[key()].request_bytes, totals[key()].response_bytes) == (20, 40)
    assert (totals[key()].failed, totals[key(code="not_found")].failed) == (0, 1)


def test_the_last_minute_has_runs_and_the_totals_have_names() -> None:
    making = Making()
    making.call("a-1")
    making.roll()
    making.call("a-2")
    assert {k: t.calls for k, t in making.table.window().by("caller").items()} == {("a-1",): 1, ("a-2",): 1}
    assert making.totals()[key()].calls == 2


def test_a_call_leaves_the_last_minute_and_stays_in_the_totals() -> None:
    making = Making()
    making.call()
    making.roll(6)
    assert making.table.window().total.calls == 1
    making.roll()
    assert making.table.window().total.calls == 0
    assert making.count() == 1


def test_a_canceled_call_is_no_failure() -> None:
    making = Making()
    call = Call(CallKind.ROUTED, "a-1", "b-1", "b", "M")
    making.calls.begun.tell(call)
    making.calls.end(call)
    assert making.table.window().by("code")["canceled",].failed == 0
    assert making.table.failures() == []


def test_the_span_of_a_window_is_that_of_its_calls() -> None:
    making = Making()
    making.now = 5.0
    assert making.table.window().span_s == 5.0
    making.roll(20)
    making.now += 3
    assert making.table.window().span_s == 63.0


def test_a_plugin_whose_identity_has_ended_is_known_by_its_runtime_id() -> None:
    making = Making()
    making.call("gone-0123456789abcdef")
    assert key("gone") in making.totals()


def test_refused_calls_are_counted_by_their_codes() -> None:
    making = Making()
    call = Call(CallKind.ROUTED)
    call.code, call.failure = "not_found", "provider not found"
    making.calls.refused.tell(call)
    making.roll(7)
    making.calls.refused.tell(call)
    assert making.table.refused() == {("routed", "not_found"): 2}
    assert making.table.window().refused == {("routed", "not_found"): 1}
    assert [refused.failure for refused in making.table.refusals()] == ["provider not found"] * 2


def test_calls_in_flight_are_those_that_have_begun_and_not_ended() -> None:
    making = Making()
    first, second = Call(CallKind.ROUTED, "a-1"), Call(CallKind.ROUTED, "a-2")
    second.began_at = first.began_at + 1
    making.calls.begun.tell(second)
    making.calls.begun.tell(first)
    assert making.table.in_flight() == [first, second]
    making.calls.end(first)
    assert making.table.in_flight() == [second]


async def test_the_table_begins_a_slot_every_ten_seconds(autojump_clock: MockClock) -> None:
    calls = Calls()
    table = CallTable(calls, clock=trio.current_time)
    calls.end(Call(CallKind.ROUTED, "a-1", "b-1", "b", "M"))
    with trio.move_on_after(75):
        await table.run()
    assert table.window().total.calls == 0
    assert table.window().span_s == 65


def test_calls_of_others_are_counted_within_a_block() -> None:
    table, calls = CallTable(), Calls()
    with table.listening(calls):
        calls.end(Call(CallKind.DIRECT, "a-1", "b-1", "b", "M"))
    calls.end(Call(CallKind.DIRECT, "a-1", "b-1", "b", "M"))
    assert table.window().total.calls == 1


# Durations


def test_a_quantile_is_within_the_bucket_of_its_call() -> None:
    making = Making()
    for duration_s in [0.0011] * 90 + [0.04] * 9 + [7.5]:
        making.call(duration_s=duration_s)
    total = making.table.window().total
    p50, p95, p99 = (total.quantile(part) for part in (0.5, 0.95, 0.99))
    assert p50 == pytest.approx(0.00125, rel=0.2)
    assert p95 == pytest.approx(0.04, rel=0.25)
    assert p99 == 0.05
    assert total.seconds == pytest.approx(90 * 0.0011 + 9 * 0.04 + 7.5)


def test_without_calls_there_is_no_quantile() -> None:
    assert Tally().quantile(0.5) is None


def test_what_takes_longer_than_all_bounds_counts_as_the_last_bound() -> None:
    making = Making()
    making.call(duration_s=1e6)
    assert making.table.window().total.quantile(0.5) == BOUNDS_S[-1]


@given(st.lists(st.floats(0, 200), max_size=30))
def test_each_duration_is_in_the_bucket_whose_bound_it_does_not_exceed(durations: list[float]) -> None:
    making = Making()
    for duration_s in durations:
        making.call(duration_s=duration_s)
        making.roll(len(durations) % 2)
    expected = [0] * (len(BOUNDS_S) + 1)
    for duration_s in durations:
        expected[next((i for i, bound in enumerate(BOUNDS_S) if duration_s <= bound), -1)] += 1
    tally = Tally()
    for total in making.totals().values():
        tally.add(total)
    assert tally.buckets() == tuple(expected)


# What is kept of single calls


def test_the_last_call_of_a_bucket_whose_trace_is_sampled_is_its_exemplar() -> None:
    making = Making()
    for trace, sampled in (("1", "01"), ("2", "01"), ("3", "00")):
        call = Call(CallKind.ROUTED, "a-1", "b-1", "b", "M")
        call.context = CallContext("id", f"00-{trace * 32}-{'b' * 16}-{sampled}")
        call.succeed(200, "ok")
        call.duration_s = FAST
        making.calls.ended.tell(call)
    making.roll()
    ((_, total),) = making.table.parts()
    (exemplar,) = total.exemplars.values()
    assert (exemplar.trace_id, exemplar.duration_s) == ("2" * 32, FAST)


def test_the_slowest_calls_of_the_last_minute_are_kept() -> None:
    making = Making()
    for number in range(100):
        making.call(duration_s=number / 100, method=f"M{number % 50}")
    assert [call.duration_s for call in making.table.slowest()[:3]] == [0.99, 0.98, 0.97]
    assert len(making.table.slowest()) == 20
    making.roll(7)
    assert making.table.slowest() == []


def test_a_caller_whose_calls_fail_displaces_no_failures_of_others() -> None:
    making = Making()
    making.call("a-2", code="internal")
    for _ in range(1000):
        making.call("a-1", code="unavailable")
    failures = making.table.failures()
    assert [call.caller for call in failures].count("a-1") == 20
    assert [call.code for call in failures if call.caller == "a-2"] == ["internal"]


def test_callers_that_fail_are_bounded() -> None:
    making = Making()
    for number in range(1000):
        making.call(f"x-{number}", code="internal")
    assert len(making.table.failures()) == 50


# Bounds


def test_a_method_has_a_series_once_a_provider_has_answered_it() -> None:
    making = Making()
    making.call(method="guess", code="unimplemented")
    making.call(method="Get", code="ok")
    making.call(method="Get", code="unimplemented")
    assert {k.method: t.calls for k, t in making.totals().items() if k.code == "unimplemented"} == {
        OTHER: 1,
        "Get": 1,
    }


def test_a_service_has_a_bounded_number_of_methods() -> None:
    making = Making()
    for number in range(1000):
        making.call(method=f"M{number}")
    totals = making.totals()
    assert len(totals) == 101
    assert totals[key(method=OTHER)].calls == 900


def test_calls_for_which_there_is_no_room_are_counted_together() -> None:
    making = Making(most=5)
    for number in range(10):
        making.call(f"p{number}-1")
    everything = SeriesKey(CallKind.ROUTED, OTHER, OTHER, OTHER, OTHER, "ok")
    assert making.totals()[everything].calls == 5
    assert making.count() == 10
    making.roll()
    assert making.count() == 10
    making.call("p9-1")
    assert making.totals()[everything].calls == 6


def test_totals_never_go_down_while_slots_come_and_go() -> None:
    making, before = Making(most=3), dict[SeriesKey, int]()
    for number in range(50):
        making.call(f"p{number % 7}-1", method=f"M{number % 2}")
        making.roll(number % 3)
        now = {k: total.calls for k, total in making.totals().items()}
        assert all(now[k] >= count for k, count in before.items())
        before = now
    assert making.count() == 50


def test_a_series_without_calls_makes_room_when_it_is_short() -> None:
    making = Making(most=2)
    making.call("old-1")
    making.call("used-1")
    making.roll(100)
    making.call("used-1")
    making.call("new-1")
    assert {k.caller for k in making.totals()} == {"used", "new"}


def test_services_whose_methods_are_known_are_bounded() -> None:
    making = Making(most=10)
    for number in range(10_100):
        making.call(service=f"s{number}")
    assert len(making.table._methods) <= 10_000
