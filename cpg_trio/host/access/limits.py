"""The limits of what a host accepts and keeps, and the error for what is beyond one."""

from __future__ import annotations

import sys

import attrs
from attrs.validators import ge, optional
from google.protobuf.message import Message

from cpg_trio import wire
from cpg_trio.errors import CpgTrioError

_POSITIVE = ge(1)
_MOST_HELD_BYTES = 512
_PLACE = 56  # bytes that a dictionary has for half of an entry; a list or a tuple has fewer


class LimitError(CpgTrioError):
    """A limit is reached, and nothing has changed. The message names the limit."""

    def __init__(self, what: str, most: int) -> None:
        super().__init__(f"too many {what} (max: {most})")


def held_bytes(*texts: str) -> int:
    """Return how many bytes texts take in memory, with their places in tables."""
    # A text that is not ASCII may be held twice, as it is and in UTF-8.
    return sum(_PLACE + sys.getsizeof(t) + (0 if t.isascii() else len(t.encode())) for t in texts)


def check_held_request(request: Message) -> None:
    """Check the size of a request that is held for as long as its stream lasts. Raises: wire.InvalidError.

    Unknown fields count, too.
    """
    if (size := request.ByteSize()) > _MOST_HELD_BYTES:
        raise wire.InvalidError(f"request too long: {size} bytes (max: {_MOST_HELD_BYTES})")


@attrs.frozen(kw_only=True)
class Limits:
    """What a host accepts and keeps at most. Raises: ValueError for a limit below 1."""

    max_identities: int = attrs.field(default=20_000, validator=_POSITIVE)
    """Identities that are kept: those in use, and others while there is room."""
    max_declared_bytes: int = attrs.field(default=32 * 1024 * 1024, validator=_POSITIVE)
    """The service types that they have declared, in bytes of memory."""
    max_ended_identities: int = attrs.field(default=50_000, validator=_POSITIVE)
    """Identities that have ended and are remembered, so that none of their tokens proves anything."""
    max_plugins: int = attrs.field(default=5_000, validator=_POSITIVE)
    """Plugins that have registered a service, and are supervised."""
    max_registrations: int = attrs.field(default=20_000, validator=_POSITIVE)
    """Registrations of all plugins together."""
    max_registrations_per_plugin: int = attrs.field(default=100, validator=_POSITIVE)
    max_metadata_bytes: int = attrs.field(default=32 * 1024 * 1024, validator=_POSITIVE)
    """The metadata of all registrations together, in bytes of memory."""
    max_metadata_bytes_per_plugin: int = attrs.field(default=256 * 1024, validator=_POSITIVE)
    max_health_bytes: int = attrs.field(default=16 * 1024 * 1024, validator=_POSITIVE)
    """The reasons and dependencies of the last health reports, in bytes of memory."""
    max_watches: int = attrs.field(default=5_000, validator=_POSITIVE)
    """Watches of services, by websocket or stream, of all plugins together."""
    max_watches_per_plugin: int = attrs.field(default=16, validator=_POSITIVE)
    max_subscriptions: int = attrs.field(default=1000, validator=_POSITIVE)
    """Service types that one websocket follows."""
    max_all_subscriptions: int = attrs.field(default=50_000, validator=_POSITIVE)
    """Service types that all watches follow, each as often as it is followed."""
    max_watched_providers: int = attrs.field(default=30_000, validator=_POSITIVE)
    """Places for providers in the subscriptions that ask for several: one without them has one provider."""
    max_version_range_bytes: int = attrs.field(default=4 * 1024 * 1024, validator=_POSITIVE)
    """The version ranges of all subscriptions, each as often as it is used, in bytes of memory."""
    max_health_watches: int = attrs.field(default=1000, validator=_POSITIVE)
    """Watches of health, which any client may open."""
    max_grants: int = attrs.field(default=20_000, validator=_POSITIVE)
    """Grants of the host's capabilities, of all plugins together."""
    max_direct_reports: int = attrs.field(default=20_000, validator=_POSITIVE)
    """Pairs of a caller and a provider of a service whose direct calls are counted."""
    max_call_series: int = attrs.field(default=10_000, validator=_POSITIVE)
    """Series of calls that are counted apart, by who called whom, method and code."""
    max_rate_keys: int = attrs.field(default=10_000, validator=_POSITIVE)
    """Callers whose rate is remembered, for each kind of call."""
    max_message_bytes: int = attrs.field(default=256 * 1024, validator=_POSITIVE)
    """A message to one of the host's own services, before and after decompression."""
    max_routed_body_bytes: int | None = attrs.field(default=None, validator=optional(ge(0)))
    """The body of a routed request. None: a stream without a limit."""
