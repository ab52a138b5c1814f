"""What the author of a plugin says of the calls of a dependency. Data; the defaults are safe for any service.

The words are those of stamina (attempts, waits) and of Envoy (retry budget, outlier ejection).
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Retry:
    """When a call is sent again.

    Only what no provider has seen is, and what the method says is idempotent (`idempotency_level`).
    """

    idempotent: bool = False
    """Whether all methods are idempotent, whatever their `idempotency_level` says."""
    attempts: int = 3
    """How often a call is sent that a provider may have seen. Others are sent until their deadline."""
    wait_initial_s: float = 0.05
    """The wait before another attempt is random, of at most so long, doubled for each one."""
    wait_max_s: float = 2.0
    """The longest wait."""
    budget: float = 0.2
    """The retries of what a provider may have seen, as a share of the calls."""


@attrs.frozen(kw_only=True)
class Breaking:
    """When a provider gets no calls for a while, though its host tells that it is there."""

    consecutive_failures: int = 3
    """So many failures in a row open it."""
    base_ejection_s: float = 5.0
    """For how long at first; doubled each time."""
    max_ejection_s: float = 120.0
    """The longest."""
    max_ejected: float = 0.5
    """The share of the providers that may be out at the same time. A provider that is alone stays in."""


@attrs.frozen(kw_only=True)
class Concurrency:
    """How many calls may be in flight, and wait. What is beyond is refused: `resource_exhausted`."""

    max_in_flight: int = 1000
    """Calls that have been sent and have not ended."""
    max_waiting: int = 1000
    """Calls that wait for one of those to end."""
    max_wait_s: float = 1.0
    """For how long each waits at most."""


@attrs.frozen(kw_only=True)
class CallPolicy:
    """How the calls of a dependency are balanced, bounded, and treated when they fail."""

    timeout_s: float | None = 10.0
    """Seconds that a call may take; a stream, until its first message. None leaves it to cancel scopes."""
    balance: str = "least-loaded"
    """How a provider is chosen: `least-loaded`, `first`, `round-robin`, `random` or `consistent-hash`."""
    retry: Retry = attrs.field(factory=Retry)
    breaking: Breaking = attrs.field(factory=Breaking)
    concurrency: Concurrency = attrs.field(factory=Concurrency)
