"""What the author of a plugin says of the calls of a dependency. Data; the defaults are safe for any service.

The words are those of stamina (attempts, waits) and of Envoy (retry budget, outlier ejection).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from attrs.validators import ge, gt, le

from cpg_trio.calls.balancing import BALANCERS
from cpg_trio.rpc import HttpRequest


@attrs.frozen(kw_only=True)
class Retry:
    """When a call is sent again.

    Only what no provider has seen is, and what the method says is idempotent (`idempotency_level`).
    """

    idempotent: bool = False
    """Whether all methods are idempotent, whatever their `idempotency_level` says."""
    attempts: int = attrs.field(default=3, validator=ge(1))
    """How often a call is sent that a provider may have seen. Others are sent until their deadline."""
    wait_initial_s: float = attrs.field(default=0.05, validator=ge(0.0))
    """The wait before another attempt is random, of at most so long, doubled for each one."""
    wait_max_s: float = attrs.field(default=2.0, validator=ge(0.0))
    """The longest wait."""
    budget: float = attrs.field(default=0.2, validator=[ge(0.0), le(1.0)])
    """The retries of what a provider may have seen, as a share of the calls. 0 is none; the share of Finagle
    and of Envoy is this."""


@attrs.frozen(kw_only=True)
class Breaking:
    """When a provider gets no calls for a while, though its host tells that it is there.

    Envoy's words and numbers differ, as it sees the calls of many, and a plugin its own: 5 failures in a row,
    100 calls to compare by, 30 s at first and 10 % of the providers at most.
    """

    consecutive_failures: int = attrs.field(default=3, validator=ge(1))
    """So many failures in a row open it. One that has never answered is out at its first, if not alone."""
    failure_rate_above_peers: float = attrs.field(default=0.2, validator=ge(0.0))
    """It is out as well if it fails more often than its peers by so much, and by 1.9 standard deviations of
    theirs."""
    min_calls: float = attrs.field(default=20, validator=ge(1))
    """So many calls, in about the last 20 s, are needed to compare a provider with others."""
    base_ejection_s: float = attrs.field(default=10.0, validator=gt(0.0))
    """For how long it gets no calls at first; doubled each time. A time is forgotten when the provider has
    been well for as long as it lasted."""
    max_ejection_s: float = attrs.field(default=300.0, validator=gt(0.0))
    """The longest."""
    max_ejected: float = attrs.field(default=0.5, validator=[ge(0.0), le(1.0)])
    """The share of the providers that may be out at the same time. 0 turns all of this off."""
    alone_ejection_s: float = attrs.field(default=1.0, validator=gt(0.0))
    """The longest for a provider that is alone. Nobody answers in its place."""


@attrs.frozen(kw_only=True)
class Concurrency:
    """How many calls may be in flight, and wait. What is beyond is refused: `resource_exhausted`."""

    max_in_flight: int = attrs.field(default=1000, validator=ge(1))
    """Calls that have been sent and have not ended."""
    max_waiting: int = attrs.field(default=1000, validator=ge(0))
    """Calls that wait for one of those to end."""
    max_wait_s: float = attrs.field(default=1.0, validator=ge(0.0))
    """For how long each waits at most."""


def _above_0(_: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{attribute.name} is a number of seconds above 0, or None, and not {value!r}")


def _checked(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise TypeError for what is not of the class that an attribute has by default."""
    kind = {"retry": Retry, "breaking": Breaking, "concurrency": Concurrency}[attribute.name]
    if not isinstance(value, kind):
        raise TypeError(f"{attribute.name} is a {kind.__name__}, and not {value!r}")


@attrs.frozen(kw_only=True)
class CallPolicy:
    """How the calls of a dependency are balanced, bounded, and treated when they fail."""

    timeout_s: float | None = attrs.field(default=10.0, validator=_above_0)
    """Seconds that a call may take; a stream, until its first message. None leaves it to cancel scopes."""
    balance: str = attrs.field(default="least-loaded")
    """How a provider is chosen: `least-loaded`, `first`, `round-robin`, `random` or `consistent-hash`."""
    balance_key: str | Callable[[HttpRequest], str] = attrs.field(default="")
    """What a consistent hash goes by: the value of a header `x-...`, or what a function returns for the
    request. A call without a key goes to the least loaded provider."""
    retry: Retry = attrs.field(factory=Retry, validator=_checked)
    breaking: Breaking = attrs.field(factory=Breaking, validator=_checked)
    concurrency: Concurrency = attrs.field(factory=Concurrency, validator=_checked)

    @balance.validator
    def _check_balance(self, _attribute: object, value: object) -> None:
        if value not in BALANCERS:
            raise ValueError(f"balance is one of {', '.join(BALANCERS)}, and not {value!r}")

    @balance_key.validator
    def _check_balance_key(self, _attribute: object, value: object) -> None:
        if isinstance(value, str) and value and not value.lower().startswith("x-"):
            raise ValueError(f"balance_key names a header that begins with x-, or is a function: {value!r}")

    def key_of(self, request: HttpRequest) -> str:
        """Return what a consistent hash goes by for a request; empty if it has no key."""
        if not isinstance(self.balance_key, str):
            return self.balance_key(request)
        if not (name := self.balance_key.lower()):
            return ""
        return next((value for field, value in request.headers if field.lower() == name), "")
