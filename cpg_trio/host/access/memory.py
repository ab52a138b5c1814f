"""How much memory a host's limits allow, and limits that fit the memory of the process.

Each limit has a price: the bytes that one entry takes at most, with the longest names that the protocol
allows. Tests fill each structure and measure that it takes no more. The sum, with what the process uses when
it starts, has to stay below three quarters of the memory that the process may have. Limits that come to more
are all reduced by the same factor.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import attrs

from cpg_trio._memory import Memory, memory_of_process, resident_bytes
from cpg_trio.host.access.limits import Limits
from cpg_trio.host.access.rate_limiting import Kind
from cpg_trio.http.server.capacity import CONNECTION_BYTES
from cpg_trio.rpc.room import Room, room_of_process

_log = logging.getLogger("cpg_trio.host")

PRICES: Mapping[str, int] = {
    "max_identities": 3_600,  # with what operators see of it, and events
    "max_declared_bytes": 1,
    "max_ended_identities": 900,
    "max_plugins": 12_000,  # two tasks each, and their deadlines
    "max_registrations": 2_500,  # likewise
    "max_metadata_bytes": 1,
    "max_health_bytes": 2,  # the last reason is shown to operators, too
    "max_watches": 40_000,  # with its stream, and one update that is being sent
    "max_all_subscriptions": 2_400,
    "max_watched_providers": 1_400,
    "max_version_range_bytes": 1,
    "max_health_watches": 20_000,  # likewise
    "max_grants": 900,
    "max_direct_reports": 2_000,
    "max_call_series": 9_000,  # in the totals, and in each slot of the last minute
    "max_rate_keys": 420 * len(Kind),
}
"""Bytes that one entry takes at most, by the name of its limit."""
OTHER_BYTES = 55 * 1024 * 1024
"""What has bounds of its own: caches, the queue of the log, large updates of watches, events."""
_PART = 0.75  # of the memory that the process may have
_PART_OF_MESSAGES = 8  # an eighth is for the messages of the host's own services
_LEAST = 0.001  # of the limits


def room_for_messages() -> Room:
    """Return the room for the messages of the host's own services."""
    return room_of_process(_PART_OF_MESSAGES)


def estimate(limits: Limits, max_connections: int) -> Mapping[str, int]:
    """Return how many bytes each limit allows at most, by its name."""
    kept = {name: getattr(limits, name) * price for name, price in PRICES.items()}
    return {**kept, "max_connections": max_connections * CONNECTION_BYTES}


@attrs.frozen
class Fitted:
    """Limits that fit the memory of the process."""

    limits: Limits
    max_connections: int
    factor: float
    """By which they were multiplied; 1 if they fit as they were."""
    memory: Memory

    def tell(self) -> None:
        """Log which limits were reduced, and how to set them; nothing if none was."""
        if self.factor == 1:
            return
        reduced = [f"{name}={getattr(self.limits, name)}" for name in PRICES]
        _log.warning(
            "limits are reduced to %.2g of what they were set to, so that what is kept of what others send"
            " fits three quarters of the %d MiB that %s lets this process have: LIMITS=%s MAX_CONNECTIONS=%d."
            " Give it more memory, or lower some of them to leave others more",
            self.factor,
            self.memory.mebibytes,
            self.memory.source,
            ",".join(reduced),
            self.max_connections,
        )


def fitted(
    limits: Limits, max_connections: int, memory: Memory | None = None, resident: int | None = None
) -> Fitted:
    """Return limits that fit the memory that this process may have, beside what it uses already."""
    memory = memory_of_process() if memory is None else memory
    resident = resident_bytes() if resident is None else resident
    room = _PART * memory.limit - resident - OTHER_BYTES
    wanted = sum(estimate(limits, max_connections).values())
    factor = max(_LEAST, min(1.0, room / wanted))
    if factor == 1:
        return Fitted(limits, max_connections, 1.0, memory)
    changes = {name: max(1, int(getattr(limits, name) * factor)) for name in PRICES}
    return Fitted(attrs.evolve(limits, **changes), max(1, int(max_connections * factor)), factor, memory)
