"""How much a host takes in and keeps, for whom, and the error for what is beyond it."""

from __future__ import annotations

import attrs
from attrs.validators import ge, optional

_POSITIVE = ge(1)


class LimitError(Exception):
    """Something is beyond a limit, and nothing has changed; the message names the limit."""

    def __init__(self, what: str, most: int) -> None:
        super().__init__(f"too many {what} (max: {most})")


@attrs.frozen(kw_only=True)
class Limits:
    """What a host takes in and keeps at most. Raises: ValueError for a limit that leaves nothing."""

    max_identities: int = attrs.field(default=100_000, validator=_POSITIVE)
    """Identities that have not ended."""
    max_registrations: int = attrs.field(default=100_000, validator=_POSITIVE)
    """Registrations of all plugins together."""
    max_registrations_per_plugin: int = attrs.field(default=100, validator=_POSITIVE)
    max_metadata_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=_POSITIVE)
    """Names and values in the metadata of all registrations together."""
    max_metadata_bytes_per_plugin: int = attrs.field(default=256 * 1024, validator=_POSITIVE)
    max_watches: int = attrs.field(default=10_000, validator=_POSITIVE)
    """Watches of services, by websocket or stream, of all plugins together."""
    max_watches_per_plugin: int = attrs.field(default=16, validator=_POSITIVE)
    max_subscriptions: int = attrs.field(default=1000, validator=_POSITIVE)
    """Service types that one websocket follows."""
    max_health_watches: int = attrs.field(default=1000, validator=_POSITIVE)
    """Watches of health, which are open to anybody."""
    max_message_bytes: int = attrs.field(default=256 * 1024, validator=_POSITIVE)
    """A message to one of the host's own services, also when it is decompressed."""
    max_routed_body_bytes: int | None = attrs.field(default=None, validator=optional(ge(0)))
    """The body of a routed request: a stream, which may be without an end unless this says otherwise."""
