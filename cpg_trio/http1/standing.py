"""What a client's connection is busy with. The lower, the less harm there is in closing it."""

from __future__ import annotations

from enum import IntEnum


class Standing(IntEnum):
    """See the module."""

    IDLE = 0
    """Nothing is in flight: it waits for a request, or for the rest of a head."""
    WAITING = 1
    """A call waits for its client: for the rest of the request, or until it reads of the response."""
    BUSY = 2
    """A call is in flight."""
