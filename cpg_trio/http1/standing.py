"""What a client's connection is busy with. The lower, the less harm there is in closing it."""

from __future__ import annotations

from enum import IntEnum


class Standing(IntEnum):
    """See the module."""

    IDLE = 0
    """Nothing is in flight: it waits for a request, or for the rest of a head."""
    RECEIVING = 1
    """A request is in flight that has not come whole."""
    BUSY = 2
    """A call is in flight."""
