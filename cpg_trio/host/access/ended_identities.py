"""Identities that have ended. A host remembers them, so that none of their tokens proves anything.

An expired identity is remembered for an hour, so that its plugin learns why it ended. A revoked identity is
remembered for as long as one of its tokens could be shown. When there is no room, the expired ones are
dropped first, oldest first: their tokens are void anyway. Then the oldest revoked ones are dropped, and from
that moment a token that the host does not know proves nothing if it was issued before. So no revoked token
becomes valid again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs

REMEMBERED_S = 60 * 60.0  # beyond the end of the last token, so that its plugin learns why


@attrs.frozen
class Ended:
    """An identity that has ended."""

    runtime_id: str
    self_id: str
    why: str
    until: float
    """Until when it is remembered, on the clock: `REMEMBERED_S` beyond the end of its last token."""
    by_owner: bool = False
    """Whether it is over because its plugin has not been heard of, by the host that owns it. Another host may
    have come to own it, and heard of it, before that is known there."""


class EndedIdentities:
    """The identities that have ended, at most `most` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._expired: dict[str, Ended] = {}  # the oldest first, here and below
        self._revoked: dict[str, Ended] = {}
        self.next_end = math.inf
        """When the next of them is to be dropped, on the clock."""

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._expired) + len(self._revoked)

    def __iter__(self) -> Iterator[str]:
        """Yield their runtime ids."""
        yield from self._expired
        yield from self._revoked

    def get(self, runtime_id: str) -> Ended | None:
        """Return an identity that has ended, None if it has not or is not remembered."""
        return self._revoked.get(runtime_id) or self._expired.get(runtime_id)

    def add(self, ended: Ended, now: float) -> tuple[Ended | None, bool]:
        """Remember one. Return the one that was dropped for it, and whether a token of that may be valid."""
        is_over = ended.until - REMEMBERED_S <= now
        (self._expired if is_over else self._revoked)[ended.runtime_id] = ended
        self.next_end = min(self.next_end, ended.until)
        if len(self) <= self._most:
            return None, False
        dropped_from = self._expired or self._revoked
        dropped = dropped_from.pop(next(iter(dropped_from)))
        return dropped, dropped.until - REMEMBERED_S > now

    def remove(self, runtime_id: str) -> None:
        """Forget one, as it has not ended after all."""
        self._revoked.pop(runtime_id, None)
        self._expired.pop(runtime_id, None)

    def drop_old(self, now: float) -> list[str]:
        """Drop those whose time is over; return their runtime ids."""
        dropped = []
        for remembered in (self._expired, self._revoked):
            while remembered and (oldest := next(iter(remembered.values()))).until <= now:
                del remembered[oldest.runtime_id]
                dropped.append(oldest.runtime_id)
        firsts = [next(iter(each.values())).until for each in (self._expired, self._revoked) if each]
        self.next_end = min(firsts, default=math.inf)
        return dropped
