"""Identities that have ended: what a host remembers of them, so that no token of theirs proves anything.

Those that have expired are remembered for an hour, only so that who comes back is told why. Those that were
revoked are remembered for as long as a token of theirs could be shown. When there is no room, the oldest of
the former go first, as their tokens are no good anyway; then the oldest of the latter, and from then on a
token that the host does not know proves nothing if it was issued before that moment. So a revocation is
never forgotten in the favour of who was revoked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs

REMEMBERED_S = 60 * 60.0  # beyond the last token: for the sake of who comes back with it


@attrs.frozen
class Ended:
    """An identity that has ended."""

    runtime_id: str
    self_id: str
    why: str
    until: float
    """How long that is remembered, on the clock; beyond the end of its last token."""


class EndedIdentities:
    """At most `most` identities that have ended."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._expired: dict[str, Ended] = {}  # the oldest first, here and below
        self._revoked: dict[str, Ended] = {}
        self.next_end = math.inf
        """When to look for some whose time is over, on the clock."""

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._expired) + len(self._revoked)

    def __iter__(self) -> Iterator[str]:
        """Yield their runtime ids."""
        yield from self._expired
        yield from self._revoked

    def get(self, runtime_id: str) -> Ended | None:
        """Return what is remembered of an identity."""
        return self._revoked.get(runtime_id) or self._expired.get(runtime_id)

    def add(self, ended: Ended, now: float) -> tuple[Ended | None, bool]:
        """Remember one. Return which was dropped for it, if any, and whether a token of that may be good."""
        is_over = ended.until - REMEMBERED_S <= now
        (self._expired if is_over else self._revoked)[ended.runtime_id] = ended
        self.next_end = min(self.next_end, ended.until)
        if len(self) <= self._most:
            return None, False
        dropped_from = self._expired or self._revoked
        dropped = dropped_from.pop(next(iter(dropped_from)))
        return dropped, dropped.until - REMEMBERED_S > now

    def drop_old(self, now: float) -> list[str]:
        """Forget those whose time is over; return which."""
        dropped = []
        for remembered in (self._expired, self._revoked):
            while remembered and (oldest := next(iter(remembered.values()))).until <= now:
                del remembered[oldest.runtime_id]
                dropped.append(oldest.runtime_id)
        firsts = [next(iter(each.values())).until for each in (self._expired, self._revoked) if each]
        self.next_end = min(firsts, default=math.inf)
        return dropped
