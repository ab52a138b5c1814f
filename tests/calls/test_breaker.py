"""A provider that fails gets no calls for a while, and never too many providers at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import pytest

from cpg_trio.calls import BreakerState, Breaking
from cpg_trio.calls.breaker import Breaker, BreakerChange, Ejections
from cpg_trio.calls.outcome import Outcome

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
SUCCESS, FAILURE, NOTHING = Outcome.SUCCESS, Outcome.FAILURE, Outcome.NOTHING
Step: TypeAlias = Outcome | float
"""A call with its outcome, or seconds that pass."""


class Providers:
    """Breakers of some providers, with a clock of their own."""

    def __init__(self, count: int, policy: Breaking | None = None) -> None:
        self.now = 1_000.0
        self.ejections = Ejections(policy or Breaking(), lambda: self.now)
        self.changes: list[BreakerChange] = []
        self.ejections.changes.add(self.changes.append)
        self.breakers = [self.ejections.add(f"storage-{i}") for i in range(count)]

    def __getitem__(self, index: int) -> Breaker:
        return self.breakers[index]

    def prove(self) -> Providers:
        """Have each provider answer once."""
        for each in self.breakers:
            call(each, SUCCESS)
        return self

    def play(self, breaker: Breaker, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Outcome):
                call(breaker, step)
            else:
                self.now += step

    def states(self) -> list[BreakerState]:
        return [each.state for each in self.breakers]


def call(breaker: Breaker, outcome: Outcome) -> None:
    """Make a call, if one is admitted."""
    assert breaker.admits()
    breaker.end(breaker.begin(), outcome, "unavailable" if outcome is FAILURE else "")


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ([], CLOSED),
        # CLOSED
        ([FAILURE, FAILURE], CLOSED),
        ([FAILURE, FAILURE, SUCCESS, FAILURE, FAILURE], CLOSED),
        ([FAILURE, FAILURE, NOTHING, FAILURE], OPEN),
        ([FAILURE, FAILURE, FAILURE], OPEN),
        ([NOTHING] * 20, CLOSED),
        # OPEN
        ([FAILURE, FAILURE, FAILURE, 9.9], OPEN),
        ([FAILURE, FAILURE, FAILURE, 10.0], HALF_OPEN),
        # HALF_OPEN
        ([FAILURE, FAILURE, FAILURE, 10.0, SUCCESS], CLOSED),
        ([FAILURE, FAILURE, FAILURE, 10.0, NOTHING], HALF_OPEN),
        ([FAILURE, FAILURE, FAILURE, 10.0, NOTHING, SUCCESS], CLOSED),
        ([FAILURE, FAILURE, FAILURE, 10.0, FAILURE], OPEN),
        # for longer each time,
        ([FAILURE, FAILURE, FAILURE, 10.0, FAILURE, 19.9], OPEN),
        ([FAILURE, FAILURE, FAILURE, 10.0, FAILURE, 20.0], HALF_OPEN),
        ([FAILURE, FAILURE, FAILURE, 10.0, FAILURE, 20.0, FAILURE, 39.9], OPEN),
        # also if it was closed for a moment,
        ([FAILURE, FAILURE, FAILURE, 10.0, SUCCESS, 1.0, FAILURE, FAILURE, FAILURE, 19.9], OPEN),
        # and as at first when it has been well for as long as it was out.
        ([FAILURE, FAILURE, FAILURE, 10.0, SUCCESS, 10.0, FAILURE, FAILURE, FAILURE, 10.0], HALF_OPEN),
        # After a success, failures are counted anew.
        ([FAILURE, FAILURE, FAILURE, 10.0, SUCCESS, FAILURE, FAILURE], CLOSED),
    ],
)
def test_the_state_follows_from_the_calls_and_the_time(steps: Sequence[Step], state: BreakerState) -> None:
    providers = Providers(2).prove()
    providers.play(providers[0], steps)
    assert providers.states() == [state, CLOSED]
    assert providers[0].admits() is (state is not OPEN)


def test_the_time_grows_to_a_bound_and_shrinks_by_steps() -> None:
    providers = Providers(2, Breaking(base_ejection_s=10, max_ejection_s=60)).prove()
    breaker = providers[0]
    providers.play(breaker, [FAILURE, FAILURE, FAILURE])
    for length in (10, 20, 40, 60, 60):
        assert providers.changes[-1].for_s == length
        providers.play(breaker, [float(length), FAILURE])
    providers.play(breaker, [60.0, SUCCESS, 40.0 + 20.0, FAILURE, FAILURE, FAILURE])
    assert providers.changes[-1].for_s == 20.0


def test_an_open_breaker_admits_nothing_and_tells_from_when_on() -> None:
    providers = Providers(2).prove()
    assert providers[0].admits_at < providers.now
    assert not providers.ejections.why_none()
    providers.play(providers[0], [FAILURE, FAILURE, FAILURE, 4.0])
    assert not providers[0].admits()
    assert providers[0].admits_at == providers.now + 6
    assert providers.ejections.why_none() == (
        "storage-0 is not called for 6 s: 3 failures in a row (unavailable)"
    )


def test_a_call_that_an_open_breaker_has_not_admitted_counts_for_nothing() -> None:
    providers = Providers(2).prove()
    providers.play(providers[0], [FAILURE, FAILURE, FAILURE])
    forced = providers[0].begin()
    providers[0].end(forced, SUCCESS)
    assert providers.states() == [OPEN, CLOSED]


def test_a_half_open_breaker_admits_one_call() -> None:
    providers = Providers(2).prove()
    breaker = providers[0]
    providers.play(breaker, [FAILURE, FAILURE, FAILURE, 10.0])
    one = breaker.begin()
    assert not breaker.admits()
    breaker.end(one, NOTHING)
    assert breaker.admits(), "a cancelled call gives its place back"
    other = breaker.begin()
    breaker.end(one, SUCCESS)
    assert breaker.state is HALF_OPEN, "the end of the first call was told already"
    breaker.end(other, SUCCESS)
    assert breaker.state is CLOSED


def test_a_trial_that_does_not_end_gives_its_place_to_another_one() -> None:
    providers = Providers(2).prove()
    breaker = providers[0]
    providers.play(breaker, [FAILURE, FAILURE, FAILURE, 10.0])
    lost = breaker.begin()
    providers.now += 29.9
    assert not breaker.admits()
    providers.now += 0.1
    call(breaker, SUCCESS)
    breaker.end(lost, FAILURE)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("outcome", Outcome)
def test_calls_from_before_the_breaker_opened_count_for_nothing(outcome: Outcome) -> None:
    providers = Providers(2).prove()
    breaker = providers[0]
    early = [breaker.begin() for _ in range(4)]
    providers.play(breaker, [FAILURE, FAILURE, FAILURE])
    breaker.end(early[0], outcome)
    assert breaker.state is OPEN
    providers.now += 10
    breaker.end(early[1], outcome)
    trial = breaker.begin()
    breaker.end(early[2], outcome)
    assert breaker.state is HALF_OPEN
    assert not breaker.admits()
    breaker.end(trial, SUCCESS)
    breaker.end(early[3], outcome)
    assert breaker.state is CLOSED


def test_the_first_message_of_a_stream_closes_a_half_open_breaker() -> None:
    providers = Providers(2).prove()
    breaker = providers[0]
    providers.play(breaker, [FAILURE, FAILURE, FAILURE, 10.0])
    trial = breaker.begin()
    breaker.answered(trial)
    assert breaker.state is CLOSED
    breaker.answered(breaker.begin())
    assert breaker.state is CLOSED


# What is known of a provider


def test_a_provider_that_has_not_answered_yet_is_out_at_its_first_failure() -> None:
    providers = Providers(2)
    call(providers[0], FAILURE)
    assert providers.states() == [OPEN, CLOSED]
    assert providers[0].why == "its first call has failed (unavailable)"


def test_that_is_not_so_for_a_provider_that_is_alone() -> None:
    providers = Providers(1)
    providers.play(providers[0], [FAILURE, FAILURE])
    assert providers.states() == [CLOSED]


@pytest.mark.parametrize(
    ("peers", "own", "state"),
    [
        # failures and successes of each peer, and of the provider itself
        ([(0, 30), (0, 30)], (4, 12), CLOSED),  # too few calls
        ([(0, 30), (0, 30)], (4, 26), CLOSED),  # not far above
        ([(0, 30), (0, 30)], (14, 26), OPEN),
        ([(0, 30)], (14, 26), OPEN),
        ([(14, 26), (14, 26)], (14, 26), CLOSED),  # the others fail as often
        ([(0, 5), (0, 5)], (14, 26), CLOSED),  # nothing to compare with
        ([(0, 40), (9, 39), (12, 31)], (16, 28), CLOSED),  # peers that differ from each other say less
        ([(0, 40), (9, 39), (12, 31)], (17, 27), OPEN),
    ],
)
def test_a_provider_is_out_that_fails_far_more_often_than_its_peers(
    peers: list[tuple[int, int]], own: tuple[int, int], state: BreakerState
) -> None:
    providers = Providers(1 + len(peers), Breaking(consecutive_failures=100)).prove()
    for breaker, counts in zip(providers.breakers[1:], peers, strict=True):
        # They begin with successes, as they would be out themselves else, while others have none.
        providers.play(breaker, [SUCCESS] * counts[1] + [FAILURE] * counts[0])
    assert set(providers.states()) == {CLOSED}
    for outcome in [SUCCESS] * own[1] + [FAILURE] * own[0]:
        providers[0].end(providers[0].begin(), outcome)
    assert providers[0].state is state
    assert bool(providers[0].why) is (state is OPEN)


def test_failures_of_long_ago_are_forgotten() -> None:
    providers = Providers(2, Breaking(consecutive_failures=100)).prove()
    providers.play(providers[0], [SUCCESS] * 30 + [FAILURE] * 7)
    providers.now += 120
    providers.play(providers[1], [SUCCESS] * 30)
    providers.play(providers[0], [SUCCESS] * 30 + [FAILURE] * 7)
    assert providers.states() == [CLOSED, CLOSED]
    providers.play(providers[0], [FAILURE])
    assert providers.states() == [OPEN, CLOSED]


# How many are out


@pytest.mark.parametrize(
    ("count", "share", "out"),
    [
        (1, 0.5, 1),
        (2, 0.5, 1),
        (3, 0.5, 1),
        (4, 0.5, 2),
        (5, 0.5, 2),
        (20, 0.5, 10),
        (10, 0.1, 1),
        (9, 0.1, 0),
        (1, 0.0, 0),
        (2, 0.0, 0),
        (3, 1.0, 3),
    ],
)
def test_at_most_that_share_is_out_at_once(count: int, share: float, out: int) -> None:
    providers = Providers(count, Breaking(max_ejected=share)).prove()
    for breaker in providers.breakers:
        providers.play(breaker, [FAILURE, FAILURE, FAILURE])
    assert providers.states() == [OPEN] * out + [CLOSED] * (count - out)
    providers.now += 10
    assert [each.admits() for each in providers.breakers] == [True] * count


def test_a_half_open_provider_is_out_for_the_rule_of_half() -> None:
    providers = Providers(2).prove()
    providers.play(providers[0], [FAILURE, FAILURE, FAILURE, 10.0])
    trial = providers[0].begin()
    providers.play(providers[1], [FAILURE] * 5)
    assert providers.states() == [HALF_OPEN, CLOSED]
    providers[0].end(trial, SUCCESS)
    call(providers[1], FAILURE)
    assert providers.states() == [CLOSED, OPEN]


def test_a_provider_that_is_alone_is_out_for_a_moment_only() -> None:
    providers = Providers(1).prove()
    providers.play(providers[0], [FAILURE, FAILURE, FAILURE])
    for _ in range(5):  # and no longer each time
        assert providers.states() == [OPEN]
        providers.play(providers[0], [1.0, FAILURE])
    providers.play(providers[0], [1.0, SUCCESS])
    assert providers.states() == [CLOSED]


def test_when_the_others_leave_the_first_ones_that_are_out_come_back() -> None:
    providers = Providers(4).prove()
    providers.play(providers[0], [FAILURE, FAILURE, FAILURE, 1.0])
    providers.play(providers[1], [FAILURE, FAILURE, FAILURE])
    providers.ejections.remove(providers[2])
    assert providers.states() == [CLOSED, OPEN, CLOSED, CLOSED]
    assert providers.changes[-1].why == "too few other providers are left"
    providers.ejections.remove(providers[0])
    assert providers.states()[1] is OPEN


def test_one_that_is_left_alone_while_it_is_out_is_tried_soon() -> None:
    providers = Providers(2).prove()
    providers.play(providers[0], [FAILURE, FAILURE, FAILURE])
    providers.ejections.remove(providers[1])
    assert providers[0].admits_at == providers.now + 1


@pytest.mark.parametrize("before", [[], [FAILURE] * 3, [FAILURE, FAILURE, FAILURE, 10.0]])
def test_one_that_has_left_changes_nothing_any_more(before: Sequence[Step]) -> None:
    providers = Providers(3).prove()
    leaving = providers[0]
    early = [leaving.begin() for _ in range(3)]
    providers.play(leaving, before)
    if before:
        early.append(leaving.begin())
    changes = len(providers.changes)
    providers.ejections.remove(leaving)
    for each in early:
        leaving.end(each, FAILURE)
    for _ in range(3):  # calls that were on their way to it
        leaving.end(leaving.begin(), FAILURE)
    assert leaving.state is CLOSED
    assert len(providers.changes) == changes
    providers.play(providers[1], [FAILURE, FAILURE, FAILURE])
    assert providers[1].state is OPEN, "it takes no share of those that may be out"


# What is told


def test_each_change_is_told_once_and_in_words() -> None:
    providers = Providers(2).prove()
    providers.play(providers[0], [FAILURE, FAILURE, FAILURE, 10.0, FAILURE, 20.0, SUCCESS])
    assert [each.describe("api", "storage") for each in providers.changes] == [
        "api: storage is not called at storage-0 for 10 s: 3 failures in a row (unavailable)",
        "api: storage is tried at storage-0 with one call",
        "api: storage is not called at storage-0 for 20 s: the call that tried it has failed (unavailable)",
        "api: storage is tried at storage-0 with one call",
        "api: storage is called at storage-0 again: it has answered",
    ]
    assert providers.ejections.openings == 2


def test_of_a_failure_rate_the_limit_is_told() -> None:
    providers = Providers(2, Breaking(consecutive_failures=100)).prove()
    providers.play(providers[1], [SUCCESS] * 30)
    providers.play(providers[0], [SUCCESS] * 28)
    while providers[0].state is CLOSED:
        providers[0].end(providers[0].begin(), FAILURE)
    assert providers[0].why == "22 % of its calls fail, where the limit by its peers is 20 %"


@pytest.mark.parametrize(
    "wrong",
    [
        {"consecutive_failures": 0},
        {"base_ejection_s": 0},
        {"max_ejected": 1.1},
        {"max_ejected": -0.1},
        {"min_calls": 0},
        {"alone_ejection_s": 0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Breaking(**wrong)  # type: ignore[arg-type] # each is a number
