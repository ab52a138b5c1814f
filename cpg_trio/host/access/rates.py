"""How often who may call what: token buckets.

Plain synchronous state without I/O; between looking a bucket up and writing it back there is no checkpoint,
so no two calls take the same token.

A bucket belongs to a proved identity, by its runtime id, or else to the address that a call comes from (see
`peers.Peer.key`). Nothing that a caller merely says, like a header with a runtime id that its token does
not prove, chooses a bucket: to say something else each time gains nothing.
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

MAX_BUCKETS = Limits().max_rate_keys  # of each kind

# Of a token, and of a second: what is lost in sums of seconds, so that who waits as long as it was told to is
# let through.
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
    """A request on `/watch`, as often as it has kilobytes: what is beyond waits, and is not refused."""
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
    that nobody keeps others out who come from the same address."""

    def of(self, kind: Kind) -> Rate | None:
        """Return the rate of a kind."""
        rate: Rate | None = getattr(self, kind.name.lower())
        return rate


class _Bucket:
    """The tokens that were left at a time."""

    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at


class Buckets:
    """Token buckets of one rate, by key. `clock` gives seconds.

    A key that has no bucket here has a full one. So a bucket that is full again need not be kept, and there
    are never more than `most`: to make room for another key, the bucket goes from which nothing has been
    taken for the longest time, full or not.

    That is the choice that an attacker gains least by. Were new keys refused when there is no room, whoever
    has many addresses could keep everybody else out. As it is, who has more than `most` of them gets a burst
    for each in turn, where each would have its rate anyway; and if others are forgotten over that, it is in
    their favour.
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
        """Take a token, or more, and return 0; or return the seconds until there are as many, and take none.

        More than a bucket holds are as many as it holds.
        """
        now = self._clock()
        count = min(count, self._burst)
        bucket = self._buckets.get(key)
        if bucket is None:
            self._buckets[key] = _Bucket(self._burst - count, now)
            self._make_room(now)
            return 0.0
        tokens = self._tokens(bucket, now)
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


class Rates:
    """The rates of a host, as its callers use them up: `most` callers of each kind of call."""

    def __init__(
        self, limits: RateLimits, clock: Callable[[], float] = trio.current_time, most: int = MAX_BUCKETS
    ) -> None:
        rates = {kind: rate for kind in Kind if (rate := limits.of(kind)) is not None}
        self._buckets = {kind: Buckets(rate, clock, most) for kind, rate in rates.items()}

    def take(self, kind: Kind, key: str, count: float = 1) -> int:
        """Count a call, as so many, and return 0; or return in how many seconds, at least 1, to try again."""
        buckets = self._buckets.get(kind)
        if buckets is None or not (wait_s := buckets.take(key, count)):
            return 0
        return max(1, math.ceil(wait_s - _ROUNDING))
