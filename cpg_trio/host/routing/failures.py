"""What a failed call means: the answer to its caller, whose failure it is, and who is suspected.

The table is "Whose fault a failed call is" in `docs/design/routing.md`. A provider is suspected only if it
caused the failure, and the next call would fail as well: nothing listens there, what listens takes no
connection or shows no certificate that is accepted, or another plugin answers there.
"""

from __future__ import annotations

import time

import attrs

from cpg_trio import wire
from cpg_trio.asgi import HeaderList
from cpg_trio.host.access import marks, retry_fields
from cpg_trio.http import (
    ConnectFailedError,
    LocalFailureError,
    NotSentError,
    PoolFullError,
    UndeliveredError,
    UpstreamError,
)
from cpg_trio.http.heads import MalformedError
from cpg_trio.http.relay import Failure
from cpg_trio.rpc import Code, Fault

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
    """Whether its provider gets no calls until its next sign of life."""


IDENTITY_ENDED = CallFailure(
    401,
    "invalid token",
    "the caller's identity has ended",
    Code.UNAUTHENTICATED.value,
    marks(Fault.CALLER, undelivered=False),
)
PROVIDER_GONE = CallFailure(
    503,
    "service unavailable (provider unhealthy)",
    "the provider is gone",
    Code.UNAVAILABLE.value,
    marks(Fault.PROVIDER, undelivered=False),
)


class ClocksDifferError(UndeliveredError):
    """The provider refuses what this host has signed, as the provider's clock shows another time."""


def failure_of(error: UpstreamError | MalformedError) -> CallFailure:
    """Return what an error on the way to the provider, or of the request's body, means."""
    if isinstance(error, MalformedError):
        fields = marks(Fault.CALLER, undelivered=False)
        return CallFailure(error.status, str(error), str(error), Code.INVALID_ARGUMENT.value, fields)
    if isinstance(error, PoolFullError):
        status, text, code, fault = _NO_ROOM[error.own_share]
        fields = [*marks(fault, undelivered=True), *retry_fields(1)]
        return CallFailure(status, text, str(error), code.value, fields, undelivered=True)
    undelivered = isinstance(error, NotSentError | UndeliveredError)
    return CallFailure(
        502,
        "failed to proxy request",
        str(error),
        Code.UNAVAILABLE.value,
        marks(fault_on_way(error), undelivered=undelivered),
        undelivered=undelivered,
        suspected=isinstance(error, ConnectFailedError | UndeliveredError)
        and not isinstance(error, ClocksDifferError),
    )


def fault_on_way(error: UpstreamError | MalformedError) -> Fault:
    """Return whose fault an error on the way to the provider is."""
    if isinstance(error, MalformedError):
        return Fault.CALLER
    if isinstance(error, PoolFullError):
        return _NO_ROOM[error.own_share][-1]
    if isinstance(error, LocalFailureError):
        return Fault.HOST
    return Fault.GUARD if isinstance(error, ClocksDifferError) else Fault.PROVIDER


_IN_USE = "service unavailable (all connections to providers are in use)"
_NO_ROOM = {  # by whether the caller has its share of the connections in use
    True: (429, "too many calls in flight to this provider", Code.RESOURCE_EXHAUSTED, Fault.CALLER),
    False: (503, _IN_USE, Code.UNAVAILABLE, Fault.HOST),
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
