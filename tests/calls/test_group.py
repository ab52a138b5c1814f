"""The providers of a service: who is there, and who may be called."""

from __future__ import annotations

import random
from collections.abc import Mapping

from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from cpg_trio.calls import BreakerState, CallPolicy
from cpg_trio.calls.balancing import BALANCERS
from cpg_trio.calls.group import Group, Member
from cpg_trio.calls.outcome import Outcome


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def group_of(
    names: str, *, degraded: str = "", clock: Clock | None = None, balance: str = "first"
) -> Group[str]:
    group = Group[str]("t", CallPolicy(balance=balance), clock=clock or Clock(), rng=random.Random(1))
    group.update(dict.fromkeys(names, "at"), set(degraded))
    return group


def chosen(group: Group[str], **given: object) -> str:
    member = group.choose(**given)  # type: ignore[arg-type]
    return member.id if member is not None else ""


def by_id(group: Group[str]) -> Mapping[str, Member[str]]:
    return {member.id: member for member in group.members}


def state_of(member: Member[str]) -> BreakerState:
    return member.breaker.state


def fail(member: Member[str], times: int = 1) -> None:
    for _ in range(times):
        member.end(member.begin(), Outcome.FAILURE, 0.001, "unavailable")


def test_nobody_is_chosen_where_nobody_is() -> None:
    group = group_of("")
    assert group.choose() is None
    assert not group.available
    assert group.admits_at is None


def test_a_member_that_stays_keeps_its_numbers_and_has_the_new_provider() -> None:
    group = group_of("ab")
    before = by_id(group)["b"]
    token = before.begin()
    group.update({"c": "there", "b": "elsewhere"})
    now = by_id(group)["b"]
    assert now is before
    assert (now.provider, now.in_flight, now.calls) == ("elsewhere", 1, 1)
    assert [member.id for member in group.members] == ["b", "c"]
    now.end(token, Outcome.SUCCESS, 0.1)
    assert now.in_flight == 0


def test_a_call_to_a_member_that_has_left_ends_with_it() -> None:
    group = group_of("ab")
    gone = by_id(group)["a"]
    token = gone.begin()
    group.update({"b": "at"})
    gone.end(token, Outcome.FAILURE, 0.1)
    assert gone.in_flight == 0
    assert {chosen(group) for _ in range(5)} == {"b"}
    group.update({"a": "at", "b": "at"})
    assert by_id(group)["a"] is not gone


def test_all_that_come_at_first_have_their_share_at_once_and_a_later_one_has_not() -> None:
    clock = Clock()
    group = group_of("ab", clock=clock)
    clock.now += 1
    group.update(dict.fromkeys("abc", "at"))
    weights = {m.id: m.load.weight(0, clock.now, by_latency=False) for m in group.members}
    assert weights == {"a": 1, "b": 1, "c": 0.1}


def test_tried_held_off_and_degraded_members_are_called_only_while_no_other_one_is_there() -> None:
    clock = Clock()
    group = group_of("abc", degraded="a", clock=clock)
    assert chosen(group) == "b"
    assert chosen(group, tried=["b"]) == "c"
    assert chosen(group, tried=["b", "c"]) == "a"
    assert chosen(group, tried=["a", "b", "c"]) == "b"
    group.hold_off(by_id(group)["b"], 3)
    assert chosen(group) == "c"
    assert chosen(group, tried=["c"]) == "a"
    assert chosen(group, tried=["a", "c"]) == "b"
    clock.now += 3
    assert chosen(group) == "b"
    group.update(dict.fromkeys("abc", "at"), {"a", "b", "c"})
    assert chosen(group) == "a"
    group.update(dict.fromkeys("abc", "at"))
    assert chosen(group) == "a"


def test_a_degraded_member_is_called_while_the_breakers_of_the_others_are_open() -> None:
    group = group_of("ab", degraded="b")
    fail(by_id(group)["a"])
    assert chosen(group) == "b"
    assert group.available


def test_a_member_whose_breaker_is_open_gets_no_call_and_then_one_and_then_its_growing_share() -> None:
    clock = Clock()
    group = group_of("ab", clock=clock)
    first = by_id(group)["a"]
    fail(first)
    assert state_of(first) is BreakerState.OPEN
    assert chosen(group) == "b"
    clock.now = first.breaker.admits_at
    assert chosen(group) == "a"
    token = first.begin()
    assert chosen(group) == "b"
    first.answered(token, 0.1)
    assert state_of(first) is BreakerState.CLOSED
    assert first.load.joined_at == clock.now
    assert chosen(group) == "a"
    first.end(token, Outcome.SUCCESS, None)


def test_a_group_of_which_nobody_may_be_called_tells_when_that_ends() -> None:
    clock = Clock()
    group = group_of("a", clock=clock)
    fail(by_id(group)["a"], 3)
    assert group.choose() is None
    assert not group.available
    assert group.admits_at == clock.now + 1
    clock.now += 1
    assert chosen(group) == "a"


class Histories(RuleBasedStateMachine):
    """Any history of members and calls, compared with who is there and which calls are in flight."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.group = group_of("", clock=self.clock, balance="least-loaded")
        self.there: set[str] = set()
        self.degraded: set[str] = set()
        self.open: dict[Member[str], int] = {}  # calls in flight

    @initialize(balance=st.sampled_from(BALANCERS))
    def choose_by(self, balance: str) -> None:
        self.group = group_of("", clock=self.clock, balance=balance)

    @rule(names=st.sets(st.sampled_from("abcdef")), degraded=st.sets(st.sampled_from("abcdef")))
    def update(self, names: set[str], degraded: set[str]) -> None:
        self.there, self.degraded = names, degraded
        self.group.update(dict.fromkeys(sorted(names), "at"), degraded)

    @rule(seconds=st.sampled_from([0.001, 0.5, 5, 400]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(target=calls, key=st.sampled_from(["", "k"]), tried=st.sets(st.sampled_from("abcdef")))
    def begin(self, key: str, tried: set[str]) -> object:
        admitted = {member.id for member in self.group.members if member.breaker.admits()}
        member = self.group.choose(key, tried)
        if member is None:
            assert not admitted
            assert not self.group.available
            return multiple()
        assert member.id in admitted <= self.there
        assert member.id not in tried or admitted <= tried
        if not tried:
            assert member.id not in self.degraded or admitted <= self.degraded
        self.open[member] = self.open.get(member, 0) + 1
        return member, member.begin(), self.clock.now

    @rule(call=consumes(calls), outcome=st.sampled_from(Outcome), streams=st.booleans())
    def end(self, call: tuple[Member[str], int, float], outcome: Outcome, *, streams: bool) -> None:
        member, token, began = call
        latency_s = self.clock.now - began
        if streams:
            member.answered(token, latency_s)
        member.end(token, outcome, None if streams else latency_s)
        self.open[member] -= 1
        assert member.in_flight == self.open[member] >= 0

    @invariant()
    def members_are_those_that_are_there(self) -> None:
        assert {member.id for member in self.group.members} == self.there
        for member in self.group.members:
            assert member.in_flight == self.open.get(member, 0)
            assert member.load.weight(member.in_flight, self.clock.now, by_latency=True) > 0
        assert (self.group.admits_at is None) is not bool(self.there)


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestHistories = Histories.TestCase
