"""A connection of a pool. No I/O."""

from __future__ import annotations

from cpg_trio.http.channel import Channel
from cpg_trio.http.client.origin import Origin


class Connection:
    """A connection to an origin, used for one exchange at a time. Its pool owns it while it is idle."""

    __slots__ = ("caller", "channel", "fresh", "idle_since", "origin")

    def __init__(self, origin: Origin, channel: Channel) -> None:
        self.origin = origin
        self.channel = channel
        self.fresh = True
        """Whether it was opened for the exchange that has it: the peer cannot have closed it as idle then."""
        self.idle_since = 0.0
        self.caller = ""
        """The caller that its pool counts it for, while it is in use."""
