"""Rate limits: how often a caller may make each kind of call. Token buckets.

Plain synchronous state without I/O. There is no checkpoint between the look-up of a bucket and its change, so
no two calls take the same token.

A bucket belongs to a proved identity, by its runtime id, or else to the address that a call comes from (see
`peers.Peer.key`). What a caller claims without proof never chooses a bucket: a caller that claims another
name each time gains nothing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum

import attrs
import trio
from attrs.validators import ge

from cpg_trio.host.access.limits import Limits
from cpg_trio.host.access.refusal import RefusedError
from cpg_trio.rpc import Code

MAX_BUCKETS = Limits().max_rate_keys  # of each kind

# Sums of seconds lose this much of a token, or of a second. A caller that has waited `Retry-After` passes.
_ROUNDING = 1e-6


class Kind(StrEnum):
    """A kind of call that has a rate of its own."""

    HANDSHAKE = "handshake"
    REGISTER = "register"
    UNREGISTER = "unregister"
    DISCOVER = "discover"
    WATCH = "watch"
    """The opening of a watch, by websocket or stream, of services or of health."""
    SUBSCRIBE = "subscribe"
    """A request on `/watch`, once for each kibibyte. Beyond the rate it waits, and is not refused."""
    HEALTH_REPORT = "health-report"
    CAPABILITY_REQUEST = "capability-request"
    CAPABILITY_CALL = "capability-call"
    ROUTER = "router"
    FAILED_AUTHENTICATION = "failed-authentication"
    """A call that proves no identity where one is needed, or asks about a service that is not for it."""


def _check_per_s(_: object, __: object, per_s: float) -> None:
    if not 0 < per_s < math.inf:
        raise ValueError(f"a rate must be above 0 calls a second, and not {per_s}")


@attrs.frozen
class Rate:
    """So many calls a second, and so many at once. Raises: ValueError for what is not above nothing."""

    per_s: float = attrs.field(validator=_check_per_s)
    burst: int = attrs.field(validator=ge(1))


@attrs.frozen(kw_only=True)
class RateLimits:
    """The rate of each kind of call; None is no limit.

    Counted by identity, except for what comes before there is one or asks for none, which is counted by
    address: handshakes, watches of health, and failed authentications. What a watch asks for is counted for
    the address of its plugin.
    """

    handshake: Rate | None = Rate(10, 20)
    register: Rate | None = Rate(5, 100)
    """A plugin registers all that it provides at once."""
    unregister: Rate | None = Rate(5, 100)
    discover: Rate | None = Rate(100_000, 200_000)
    """As the router's: plugins that know only the protocol ask before each call."""
    watch: Rate | None = Rate(5, 20)
    subscribe: Rate | None = Rate(300, 3000)
    health_report: Rate | None = Rate(20, 50)
    capability_request: Rate | None = Rate(10, 20)
    capability_call: Rate | None = Rate(100_000, 200_000)
    """As the router's: some plugins write a line of the host's log for each of their own calls."""
    router: Rate | None = Rate(100_000, 200_000)
    """More than one host does: what protects a provider from a caller is for its operator to choose."""
    failed_authentication: Rate | None = Rate(100, 200)
    """Beyond it, such a call costs no line of the log. A call that proves an identity is not affected, so
    that no client keeps out others at the same address."""

    def of(self, kind: Kind) -> Rate | None:
        """Return the rate of a kind."""
        rate: Rate | None = getattr(self, kind.name.lower())
        return rate


class _Bucket:
    """How many tokens were left at a time."""

    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at


class TokenBuckets:
    """Token buckets of one rate, by key. `clock` gives seconds.

    A key without a bucket has a full one, so a bucket that is full again is dropped. There are never more
    than `most`: another key takes the place of the bucket that was used the longest time ago, full or not.

    An attacker gains least by that choice. If new keys were refused when there is no room, a client with many
    addresses could keep everybody else out. As it is, a client with more than `most` addresses gets a burst
    for each in turn, and each of them has its rate anyway. A caller whose bucket is dropped has a full one.
    """

    def __init__(
        self, rate: Rate, clock: Callable[[], float] = trio.current_time, most: int = MAX_BUCKETS
    ) -> None:
        self._per_s = float(rate.per_s)
        self._burst = float(rate.burst)
        self._clock = clock
        self._most = most
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the one taken from last comes last

    def __len__(self) -> int:
        """Return how many buckets are kept."""
        return len(self._buckets)

    def take(self, key: str, count: float = 1) -> float:
        """Take tokens and return 0; or return the seconds until there are as many, and take none.

        A `count` above the burst is as much as the burst.
        """
        now = self._clock()
        burst = self._burst
        count = min(count, burst)
        bucket = self._buckets.get(key)
        if bucket is None:
            self._buckets[key] = _Bucket(burst - count, now)
            self._make_room(now)
            return 0.0
        # As `_tokens`, which would be one more function call for each routed call.
        tokens = min(burst, bucket.tokens + (now - bucket.at) * self._per_s)
        if tokens < count - _ROUNDING:
            return (count - tokens) / self._per_s
        bucket.tokens, bucket.at = tokens - count, now
        self._buckets.move_to_end(key)
        return 0.0

    def _tokens(self, bucket: _Bucket, now: float) -> float:
        tokens = bucket.tokens + (now - bucket.at) * self._per_s
        return min(self._burst, tokens)

    def _make_room(self, now: float) -> None:
        """Drop the oldest buckets that are full again, and one more if that is not enough."""
        while self._tokens(next(iter(self._buckets.values())), now) >= self._burst:
            self._buckets.popitem(last=False)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)


class RateLimiter:
    """The rates of a host, and how far its callers have used them up: `most` callers of each kind of call."""

    def __init__(
        self, limits: RateLimits, clock: Callable[[], float] = trio.current_time, most: int = MAX_BUCKETS
    ) -> None:
        rates = {kind: rate for kind in Kind if (rate := limits.of(kind)) is not None}
        self._buckets = {kind: TokenBuckets(rate, clock, most) for kind, rate in rates.items()}

    def check(self, kind: Kind, key: str) -> None:
        """Count a call. Raises: RefusedError `resource_exhausted` for one too many, which is not counted."""
        buckets = self._buckets.get(kind)
        if buckets is not None and (wait_s := buckets.take(key)):
            seconds = _whole(wait_s)
            refused = RefusedError(
                Code.RESOURCE_EXHAUSTED,
                f"rate limit exceeded for {kind}: try again in {seconds} s",
                plain="Rate limit exceeded",
                retry_after_s=seconds,
            )
            if kind is Kind.ROUTER:  # whose keys are proved
                refused.caller = key
            raise refused

    def take(self, kind: Kind, key: str, count: float = 1) -> int:
        """Count a call as `count` calls and return 0; or return the seconds to wait, and count nothing."""
        buckets = self._buckets.get(kind)
        if buckets is None or not (wait_s := buckets.take(key, count)):
            return 0
        return _whole(wait_s)


def _whole(seconds: float) -> int:
    """Return a time to wait in whole seconds, at least 1."""
    return max(1, math.ceil(seconds - _ROUNDING))
