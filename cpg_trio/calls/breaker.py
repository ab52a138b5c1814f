"""Providers that fail get no calls for a while: a breaker for each, and a bound on how many are out at once.

A breaker is the state machine of one provider, as one caller sees it:

    CLOSED ───── so many failures in a row, or far more than the others fail ─────▶ OPEN ◀─┐
      ▲                                                                              │     │ its call fails
      │                                                        its time is over, and │     │
      └───────────────── its call succeeds ───────────────── HALF_OPEN ◀─ a call ────┘     │
                                                                 └─────────────────────────┘

`Ejections` are the breakers of all providers of a service. They compare the providers, and keep at least half
of them in. That is what Envoy calls outlier detection
(https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier), with a call to try a
provider where Envoy lets all calls come back.

Only `Outcome.SUCCESS` and `Outcome.FAILURE` count. A call counts for the state in which it began: one that
began before the breaker opened, and ends after it, says nothing new.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from enum import Enum
from statistics import fmean, pstdev

import attrs
import trio

from cpg_trio import _human
from cpg_trio._listeners import Listeners
from cpg_trio._throttle import LogThrottle
from cpg_trio.calls._decay import DecayingCount
from cpg_trio.calls.outcome import Outcome
from cpg_trio.calls.policy import Breaking

_log = logging.getLogger("cpg_trio.calls")

_KEPT = 0.95  # each second, of the calls that are compared: those of the last 20 s. Envoy compares over 10 s
_DEVIATIONS = 1.9  # Envoy's `success_rate_stdev_factor`
_TRIAL_S = 30.0  # a call that tries a provider, and does not end, gives its place to another one
_IGNORED = -1


class BreakerState(Enum):
    """Whether a provider gets calls."""

    CLOSED = "closed"
    """It gets calls."""
    OPEN = "open"
    """It gets none."""
    HALF_OPEN = "half-open"
    """It gets one call. How that ends decides."""


@attrs.frozen
class BreakerChange:
    """The state of a breaker has changed."""

    provider: str
    """The runtime id."""
    state: BreakerState
    why: str
    for_s: float = 0.0
    """For how many seconds it is open."""
    is_again: bool = attrs.field(default=False, kw_only=True)
    """Whether it was half-open before."""

    def describe(self, caller: str, service: str) -> str:
        """Return a line for the log of the caller."""
        match self.state:
            case BreakerState.OPEN:
                span = _human.duration(self.for_s)
                return f"{caller}: {service} is not called at {self.provider} for {span}: {self.why}"
            case BreakerState.HALF_OPEN:
                return f"{caller}: {service} is tried at {self.provider} with one call"
            case BreakerState.CLOSED:
                return f"{caller}: {service} is called at {self.provider} again: {self.why}"


class BreakerLog:
    """Writes the changes of breakers to the log of the caller: `ejections.changes.add(BreakerLog(...))`.

    A provider that is alone, and stays away, is tried every second. That is told once in a while.
    """

    def __init__(self, caller: str, service: str) -> None:
        self._caller = caller
        self._service = service
        self._throttle = LogThrottle()

    def __call__(self, change: BreakerChange) -> None:
        """Write a line."""
        line = change.describe(self._caller, self._service)
        if change.state is BreakerState.HALF_OPEN:
            _log.debug("%s", line)
        elif change.state is BreakerState.CLOSED or not change.is_again:
            _log.info("%s", line)
        elif (more := self._throttle.suffix()) is not None:
            _log.info("%s%s", line, more)


class Breaker:
    """The state of one provider. Made by `Ejections.add`."""

    __slots__ = (
        "_calls",
        "_clock",
        "_ejections",
        "_failures",
        "_in_a_row",
        "_is_proved",
        "_openings",
        "_policy",
        "_state",
        "_token",
        "_until",
        "provider",
        "since",
        "why",
    )

    def __init__(self, provider: str, ejections: Ejections) -> None:
        self.provider: str = provider
        """The runtime id."""
        self._ejections = ejections
        self._policy, self._clock = ejections.policy, ejections.clock
        self._state = BreakerState.CLOSED
        self.since: float = self._clock()
        """The time of the last change of the state."""
        self.why: str = ""
        """Why it is open, or was opened last."""
        self._until = math.inf
        """OPEN: when a call is admitted. HALF_OPEN: when another one is, if the first has not ended."""
        self._token = 0
        """What calls have that count now."""
        self._openings = 0
        """How often it was opened, less what is forgiven; not counted on where the time grows no more."""
        self._in_a_row = 0
        self._is_proved = False
        self._calls = DecayingCount(_KEPT)
        self._failures = DecayingCount(_KEPT)

    @property
    def state(self) -> BreakerState:
        """The state now. An open one whose time is over is half-open."""
        if self._state is BreakerState.OPEN and self._clock() >= self._until:
            return BreakerState.HALF_OPEN
        return self._state

    @property
    def is_out(self) -> bool:
        """Whether its provider is not called as the others are."""
        return self._state is not BreakerState.CLOSED

    def admits(self) -> bool:
        """Whether a call may begin. Changes nothing."""
        return self._state is BreakerState.CLOSED or self._clock() >= self._until

    @property
    def admits_at(self) -> float:
        """The time from which a call is admitted; minus infinity if that is not limited."""
        return -math.inf if self._state is BreakerState.CLOSED else self._until

    def begin(self) -> int:
        """Note that a call begins. Return what its `end` wants.

        A call that is not admitted may still be made, and counts for nothing.
        """
        if self._state is BreakerState.CLOSED:
            return self._token
        now = self._clock()
        if now < self._until:
            return _IGNORED
        self._until = now + _TRIAL_S
        self._token += 1
        if self._state is BreakerState.OPEN:
            self._change(BreakerState.HALF_OPEN, self.why)
        return self._token

    def answered(self, token: int) -> None:
        """Note that the first message of a stream has come: how it ends may be hours from now."""
        if token == self._token and self._state is BreakerState.HALF_OPEN:
            self._close("it has answered")

    def end(self, token: int, outcome: Outcome, why: str = "") -> None:
        """Note how a call has ended. `why` is a word for a failure, as the code of its error."""
        if token != self._token:
            return
        if self._state is BreakerState.HALF_OPEN:
            self._end_trial(outcome, why)
        elif outcome is Outcome.SUCCESS:
            self._in_a_row, self._is_proved = 0, True
            self._calls.add(self._clock())
        elif outcome is Outcome.FAILURE:
            self._end_failed(why)

    def failure_rate(self) -> float | None:
        """Return the share of its last calls that have failed. None if those are too few to tell."""
        now = self._clock()
        calls = self._calls.value(now)
        return self._failures.value(now) / calls if calls >= self._policy.min_calls else None

    def release(self, why: str) -> None:
        """Let the provider be called again."""
        self._close(why)

    def retire(self) -> None:
        """Note that the provider has left: what its last calls say is of no use."""
        self._state = BreakerState.CLOSED
        self._token += 1

    def hurry(self, for_s: float) -> None:
        """Be open for at most so long from now on."""
        if self._state is BreakerState.OPEN:
            self._until = min(self._until, self._clock() + for_s)

    def _end_trial(self, outcome: Outcome, why: str) -> None:
        match outcome:
            case Outcome.SUCCESS:
                self._close("it has answered")
            case Outcome.FAILURE:
                self._open(f"the call that tried it has failed{_in_brackets(why)}")
            case Outcome.NOTHING:  # the place is free again
                self._until = -math.inf
                self._token += 1

    def _end_failed(self, why: str) -> None:
        now = self._clock()
        self._calls.add(now)
        self._failures.add(now)
        self._in_a_row += 1
        if (reason := self._reason_to_open(why)) and self._ejections.may_open(self):
            self._forgive(now - self.since)
            self._open(reason)

    def _reason_to_open(self, why: str) -> str:
        """Return why the breaker should open; empty if it should not."""
        in_a_row = self._in_a_row
        if in_a_row >= self._policy.consecutive_failures:
            return f"{in_a_row} {'failures' if in_a_row > 1 else 'failure'} in a row{_in_brackets(why)}"
        # The others can be called instead, and nothing says yet that this one can do better.
        if not self._is_proved and not self._ejections.is_alone:
            return f"its first call has failed{_in_brackets(why)}"
        if (rate := self.failure_rate()) is not None and rate > (limit := self._ejections.limit_for(self)):
            failed, others = _human.share(rate, 1), _human.share(limit, 1)
            return f"{failed} of its calls fail, where the limit by its peers is {others}{_in_brackets(why)}"
        return ""

    def _forgive(self, well_s: float) -> None:
        """Forget an opening for each time that it was well for as long as that opening lasted."""
        while self._openings and well_s >= (lasted := self._length_s(self._openings - 1)):
            well_s -= lasted
            self._openings -= 1

    def _length_s(self, openings: int) -> float:
        return min(self._policy.max_ejection_s, math.ldexp(self._policy.base_ejection_s, min(openings, 60)))

    def _open(self, why: str) -> None:
        for_s = self._length_s(self._openings)
        if self._ejections.is_alone:
            for_s = min(for_s, self._policy.alone_ejection_s)
        elif for_s < self._policy.max_ejection_s:
            self._openings += 1
        self._until = self._clock() + for_s
        self._change(BreakerState.OPEN, why, for_s)

    def _close(self, why: str) -> None:
        self._is_proved = True
        self._change(BreakerState.CLOSED, why)

    def _change(self, state: BreakerState, why: str, for_s: float = 0.0) -> None:
        change = BreakerChange(
            self.provider, state, why, for_s, is_again=self._state is BreakerState.HALF_OPEN
        )
        self._state = state
        self.since = self._clock()
        if state is not BreakerState.HALF_OPEN:  # that begins with the token of the one call
            self._token += 1
            self._in_a_row = 0
            self._calls.clear()
            self._failures.clear()
        if state is BreakerState.OPEN:
            self.why = why
        self._ejections.note(change)


class Ejections:
    """The breakers of the providers of a service.

    At most `Breaking.max_ejected` of them are out at once. A provider that is alone may be out, too, for
    `Breaking.alone_ejection_s`: nobody answers in its place, so its callers get an error at once in place of
    one that they have waited for, and it gets one call in that time in place of all.
    """

    def __init__(self, policy: Breaking, clock: Callable[[], float] = trio.current_time) -> None:
        self.policy = policy
        self.clock = clock
        self.changes: Listeners[BreakerChange] = Listeners[BreakerChange]("changes of breakers")
        self.openings: int = 0
        """How often a breaker has opened."""
        self._breakers: list[Breaker] = []

    def add(self, provider: str) -> Breaker:
        """Return the breaker of a new provider."""
        breaker = Breaker(provider, self)
        self._breakers.append(breaker)
        return breaker

    def remove(self, breaker: Breaker) -> None:
        """Forget a provider that has left. Of those that are left, too many may be out, and come back."""
        self._breakers.remove(breaker)
        breaker.retire()
        out = sorted((each for each in self._breakers if each.is_out), key=lambda each: each.since)
        if self.is_alone and self._breakers == out:
            out[0].hurry(self.policy.alone_ejection_s)
            return
        for each in out[: max(0, len(out) - self._most_out())]:
            each.release("too few other providers are left")

    @property
    def is_alone(self) -> bool:
        """Whether there is one provider only."""
        return len(self._breakers) == 1

    def may_open(self, breaker: Breaker) -> bool:
        """Whether one more provider may be out."""
        if breaker not in self._breakers:
            return False
        if self.is_alone:
            return self.policy.max_ejected > 0
        return sum(each.is_out for each in self._breakers) < self._most_out()

    def limit_for(self, breaker: Breaker) -> float:
        """Return the failure rate above which a provider is far from its peers. 1 if those cannot tell."""
        rates = [
            rate
            for each in self._breakers
            if each is not breaker and (rate := each.failure_rate()) is not None
        ]
        if not rates:
            return 1.0
        return fmean(rates) + max(self.policy.failure_rate_above_peers, _DEVIATIONS * pstdev(rates))

    def why_none(self) -> str:
        """Return in words why no provider may be called now, and until when. Empty if none is out."""
        out = [each for each in self._breakers if each.is_out]
        if not out:
            return ""
        soonest = min(out, key=lambda each: each.admits_at)
        left_s = max(0.0, soonest.admits_at - self.clock())
        return f"{soonest.provider} is not called for {_human.duration(left_s)}: {soonest.why}"

    def note(self, change: BreakerChange) -> None:
        """Tell the listeners of a change."""
        self.openings += change.state is BreakerState.OPEN
        self.changes.tell(change)

    def _most_out(self) -> int:
        return math.floor(len(self._breakers) * self.policy.max_ejected)


def _in_brackets(why: str) -> str:
    return f" ({why})" if why else ""
