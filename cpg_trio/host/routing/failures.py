"""What a failed call means: the answer to its caller, and whether it counts against the provider.

The table is "Whose fault a failed call is" in `docs/design/routing.md`. A failure counts against a provider
only if the provider caused it: nothing listens there, what listens takes no connection or shows no
certificate that is accepted, or another plugin answers there.
"""

from __future__ import annotations

import time

import attrs

from cpg_trio import wire
from cpg_trio.asgi import HeaderList
from cpg_trio.host.access import PERHAPS_DELIVERED, UNDELIVERED, retry_fields
from cpg_trio.http import (
    ConnectFailedError,
    Failure,
    NotSentError,
    PoolFullError,
    UndeliveredError,
    UpstreamError,
)
from cpg_trio.rpc import Code

_UNAUTHORIZED = 401
_UNDELIVERED = wire.UNDELIVERED_HEADER.lower().encode()
_CLOCK = wire.CLOCK_HEADER.lower().encode()
_MOST_DIGITS = 12  # of seconds since 1970


@attrs.frozen
class CallFailure(Failure):
    """A failed call, as its caller and the log are told of it."""

    undelivered: bool = False
    """Whether the provider has certainly not seen it."""
    suspected: bool = False
    """Whether it counts against the provider."""


IDENTITY_ENDED = CallFailure(
    401,
    "invalid token",
    "the caller's identity has ended",
    Code.UNAUTHENTICATED.value,
    PERHAPS_DELIVERED,
)
PROVIDER_GONE = CallFailure(
    503,
    "service unavailable (provider unhealthy)",
    "the provider is gone",
    Code.UNAVAILABLE.value,
    PERHAPS_DELIVERED,
)


class ClocksDifferError(UndeliveredError):
    """The provider refuses what this host has signed, as the provider's clock shows another time."""


def failure_of(error: UpstreamError) -> CallFailure:
    """Return what an error on the way to the provider means."""
    if isinstance(error, PoolFullError):
        status, text, code = _NO_ROOM[error.own_share]
        fields = [*UNDELIVERED, *retry_fields(1)]
        return CallFailure(status, text, str(error), code.value, fields, undelivered=True)
    undelivered = isinstance(error, NotSentError | UndeliveredError)
    return CallFailure(
        502,
        "failed to proxy request",
        str(error),
        Code.UNAVAILABLE.value,
        UNDELIVERED if undelivered else PERHAPS_DELIVERED,
        undelivered=undelivered,
        suspected=isinstance(error, ConnectFailedError | UndeliveredError)
        and not isinstance(error, ClocksDifferError),
    )


_NO_ROOM = {  # by whether the caller has its share of the connections in use
    True: (429, "too many calls in flight to this provider", Code.RESOURCE_EXHAUSTED),
    False: (503, "service unavailable (all connections to providers are in use)", Code.UNAVAILABLE),
}


def refusal_of(status: int, fields: HeaderList) -> UndeliveredError | None:
    """Return why a response is not the provider's answer, None if it is.

    The guard of a plugin refuses a call that is for another plugin: one that ran at the same address, say. It
    marks such a refusal (`X-Plugin-Undelivered`).
    """
    if status != _UNAUTHORIZED:
        return None
    values = {name.lower(): value for name, value in fields}
    if _UNDELIVERED not in values:
        return None
    if (clock := values.get(_CLOCK)) is not None and clock.isdigit():
        ahead_s = int(clock[:_MOST_DIGITS]) - time.time()
        which = "ahead of" if ahead_s > 0 else "behind"
        return ClocksDifferError(
            f"the provider's clock is {abs(ahead_s):.0f} s {which} this host's: set them right"
        )
    return UndeliveredError("who answers there is not the provider")
