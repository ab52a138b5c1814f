"""What a client's connection is busy with. The lower, the less harm there is in closing it."""

from __future__ import annotations

from enum import IntEnum


class Activity(IntEnum):
    """See the module."""

    IDLE = 0
    """It has had a request, and nothing is in flight: it waits for another."""
    WAITING = 1
    """It waits for its client: for the first request, the rest of one, or until it reads of the response."""
    BUSY = 2
    """A call is in flight."""
