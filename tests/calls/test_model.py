"""Breakers, ejections, the retry budget and the bound on calls agree with a model that keeps all events.

The model is naive: it keeps each event with its time, and computes each answer anew. Whatever is done to the
providers of a service, in whatever order, both say the same.
"""

from __future__ import annotations

import math

import attrs
import trio
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cpg_trio.calls import BreakerState, Breaking, Concurrency
from cpg_trio.calls.breaker import Breaker, Ejections
from cpg_trio.calls.budget import RetryBudget
from cpg_trio.calls.concurrency import InFlight
from cpg_trio.calls.outcome import Outcome
from cpg_trio.rpc import ConnectError

POLICY = Breaking(
    consecutive_failures=3, base_ejection_s=4, max_ejection_s=20, min_calls=10_000, alone_ejection_s=1
)
OUTCOMES = st.sampled_from(Outcome)


@attrs.define(eq=False)
class Model:
    """What a provider has been through."""

    breaker: Breaker
    calls: list[Attempt] = attrs.Factory(list)
    row: list[Outcome] = attrs.Factory(list)
    """The outcomes since the last change of the state."""
    proved: bool = False
    out_until: float | None = None
    trial: Attempt | None = None
    lengths: list[float] = attrs.Factory(list)
    """How long it was out each time, that is not forgiven."""
    closed_at: float = 0.0
    era: int = 0

    def admits(self, now: float) -> bool:
        if self.out_until is None:
            return True
        return now >= self.out_until and self.trial is None


@attrs.define(eq=False)
class Attempt:
    token: int
    era: int
    """In which state of its provider it began; -1 for one that was not admitted."""


class BreakersAgreeWithTheModel(RuleBasedStateMachine):
    """Up to five providers that come, go, answer and fail."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 50.0
        self.ejections = Ejections(POLICY, lambda: self.now)
        self.models: list[Model] = []
        self.gone: list[tuple[Breaker, int]] = []
        self.names = 0

    def pick(self, data: st.DataObject) -> Model:
        return data.draw(st.sampled_from(self.models))

    @precondition(lambda self: len(self.models) < 5)
    @rule()
    def join(self) -> None:
        self.names += 1
        self.models.append(Model(self.ejections.add(f"storage-{self.names}"), closed_at=self.now))

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        model = self.pick(data)
        self.models.remove(model)
        out = sorted((m for m in self.models if m.out_until is not None), key=lambda m: m.breaker.since)
        self.ejections.remove(model.breaker)
        self.gone += [(model.breaker, each.token) for each in model.calls]
        if len(self.models) == 1:
            if out and out[0].trial is None and out[0].out_until is not None and self.is_open(out[0]):
                out[0].out_until = min(out[0].out_until, self.now + POLICY.alone_ejection_s)
            return
        for each in out[: max(0, len(out) - len(self.models) // 2)]:
            self.close(each)

    def is_open(self, model: Model) -> bool:
        """Whether no call has tried it yet since it is out."""
        return model.breaker._state is BreakerState.OPEN

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        model = self.pick(data)
        admitted = model.admits(self.now)
        attempt = Attempt(model.breaker.begin(), model.era if admitted else -1)
        if admitted and model.out_until is not None:
            model.era += 1
            attempt.era = model.era
            model.trial = attempt
        model.calls.append(attempt)

    @precondition(lambda self: any(each.calls for each in self.models))
    @rule(data=st.data(), outcome=OUTCOMES)
    def end(self, data: st.DataObject, outcome: Outcome) -> None:
        model = data.draw(st.sampled_from([each for each in self.models if each.calls]))
        attempt = model.calls.pop(data.draw(st.integers(0, len(model.calls) - 1)))
        model.breaker.end(attempt.token, outcome)
        if attempt.era != model.era:
            return
        if model.trial is attempt:
            self.end_trial(model, outcome)
        elif outcome is Outcome.SUCCESS:
            model.proved = True
            model.row.append(outcome)
        elif outcome is Outcome.FAILURE:
            model.row.append(outcome)
            if self.should_open(model) and self.may_open():
                well_s = self.now - model.closed_at
                while model.lengths and well_s >= model.lengths[-1]:
                    well_s -= model.lengths.pop()
                self.open(model)

    def end_trial(self, model: Model, outcome: Outcome) -> None:
        if outcome is Outcome.SUCCESS:
            self.close(model)
        elif outcome is Outcome.FAILURE:
            self.open(model)
        else:
            model.trial = None
            model.out_until = -math.inf
            model.era += 1

    def should_open(self, model: Model) -> bool:
        if not model.proved and len(self.models) > 1:
            return True
        return len(model.row) >= 3 and set(model.row[-3:]) == {Outcome.FAILURE}

    def may_open(self) -> bool:
        out = sum(each.out_until is not None for each in self.models)
        return len(self.models) == 1 or out + 1 <= len(self.models) / 2

    def open(self, model: Model) -> None:
        length = min(20.0, 4.0 * 2 ** len(model.lengths))
        if len(self.models) == 1:
            length = min(length, 1.0)
        elif length < POLICY.max_ejection_s:
            model.lengths.append(length)
        model.out_until, model.trial, model.row = self.now + length, None, []
        model.era += 1

    def close(self, model: Model) -> None:
        model.out_until, model.trial, model.row = None, None, []
        model.proved = True
        model.closed_at = self.now
        model.era += 1

    @precondition(lambda self: self.gone)
    @rule(data=st.data(), outcome=OUTCOMES)
    def end_at_one_that_has_left(self, data: st.DataObject, outcome: Outcome) -> None:
        breaker, token = self.gone.pop(data.draw(st.integers(0, len(self.gone) - 1)))
        breaker.end(token, outcome)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0, 4.0, 8.0]))
    def wait(self, seconds: float) -> None:
        if any(each.trial for each in self.models):
            seconds = 0.0  # a trial that lasts for long has a test of its own
        self.now += seconds

    @invariant()
    def both_admit_the_same(self) -> None:
        for each in self.models:
            assert each.breaker.admits() is each.admits(self.now)
            assert each.breaker.is_out is (each.out_until is not None)

    @invariant()
    def never_more_than_half_are_out(self) -> None:
        out = sum(each.breaker.is_out for each in self.models)
        assert out <= len(self.models) / 2 or len(self.models) == 1

    @invariant()
    def nobody_is_out_for_ever(self) -> None:
        longest = POLICY.alone_ejection_s if len(self.models) == 1 else POLICY.max_ejection_s
        for each in self.models:
            assert each.trial or each.breaker.admits_at <= self.now + longest


class BudgetsAgreeWithTheModel(RuleBasedStateMachine):
    """A budget of a half, as in the model: what each call has earned, less what was taken."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.budget = RetryBudget(0.5, lambda: self.now)
        self.calls: list[int] = []
        self.retries: list[int] = []
        self.reserve = 0.0

    def lately(self, events: list[int]) -> float:
        return sum(0.9 ** (int(self.now) - second) for second in events)

    @rule(count=st.integers(1, 40))
    def call(self, count: int) -> None:
        for _ in range(count):
            self.budget.note_call()
            self.calls.append(int(self.now))
            self.reserve += 0.25

    @rule()
    def retry(self) -> None:
        self.reserve = min(self.reserve, 0.25 * self.lately(self.calls))
        from_reserve = self.reserve > 1 - 1e-6
        allowed = from_reserve or self.lately(self.retries) <= 2
        assert self.budget.take() is allowed
        self.reserve -= from_reserve
        if allowed:
            self.retries.append(int(self.now))

    @rule(seconds=st.sampled_from([0.3, 1.0, 2.5, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds


class PlacesAgreeWithTheModel(RuleBasedStateMachine):
    """Calls that begin, end and are cancelled, as a list of those that have a place and a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[str, int]] = []

    @rule(what=st.sampled_from(["call", "call", "end", "cancel"]), which=st.integers(0, 9))
    def step(self, what: str, which: int) -> None:
        self.steps.append((what, which))

    def teardown(self) -> None:
        trio.run(self.play)

    async def play(self) -> None:
        in_flight = InFlight("storage", Concurrency(max_in_flight=2, max_waiting=3, max_wait_s=1_000))
        scopes: dict[int, trio.CancelScope] = {}
        ends: dict[int, trio.Event] = {}
        placed: list[int] = []
        refused: list[int] = []

        async def call(number: int) -> None:
            ends[number] = trio.Event()
            with trio.CancelScope() as scopes[number]:
                try:
                    async with in_flight:
                        placed.append(number)
                        await ends[number].wait()
                except ConnectError:
                    refused.append(number)

        has_place: list[int] = []
        queue: list[int] = []
        begun: list[int] = []
        turned_away: list[int] = []
        async with trio.open_nursery() as nursery:
            for number, (what, which) in enumerate(self.steps):
                if what == "call":
                    nursery.start_soon(call, number)
                    if len(has_place) < 2:
                        has_place.append(number)
                        begun.append(number)
                    elif len(queue) < 3:
                        queue.append(number)
                    else:
                        turned_away.append(number)
                elif what == "end" and has_place:
                    ends[has_place.pop(which % len(has_place))].set()
                elif what == "cancel" and (each := has_place + queue):
                    chosen = each[which % len(each)]
                    scopes[chosen].cancel()
                    (has_place if chosen in has_place else queue).remove(chosen)
                if queue and len(has_place) < 2:
                    begun.append(queue[0])
                    has_place.append(queue.pop(0))
                await trio.testing.wait_all_tasks_blocked()
                assert (placed, refused) == (begun, turned_away)
                assert (in_flight.in_flight, in_flight.waiting) == (len(has_place), len(queue))
            nursery.cancel_scope.cancel()
        assert (in_flight.in_flight, in_flight.waiting) == (0, 0)


BOUNDS = settings(max_examples=60, stateful_step_count=50)
TestBreakers = BreakersAgreeWithTheModel.TestCase
TestBreakers.settings = BOUNDS
TestBudgets = BudgetsAgreeWithTheModel.TestCase
TestBudgets.settings = BOUNDS
TestPlaces = PlacesAgreeWithTheModel.TestCase
TestPlaces.settings = BOUNDS
