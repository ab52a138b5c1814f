"""Which grants have ended before their time. Plain synchronous state.

A grant is signed, so that it has ended has to be remembered until its time is over: of one grant, or of all
that a plugin had. What is remembered is bounded. When it is too much, no grant that was issued before is good
any more unless the host holds it: its owner asks again.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import attrs

from cpg_trio._listeners import Listeners
from cpg_trio.host.access import SKEW_S
from cpg_trio.host.capabilities.grant_tokens import GrantClaims

ENDED_GRANTS = "grants-ended/"
"""Before the id of a grant, in a store that hosts share."""
ENDED_GRANTS_OF = "grants-ended-of/"
"""Before the runtime id of an owner, whose grants of before a time have ended."""


@attrs.frozen
class EndedGrant:
    """That grants have ended. Times are in seconds since 1970."""

    until: float
    """When it may be forgotten."""
    why: str
    before: float = 0.0
    """Of an owner: which of its grants have ended, by when they were issued."""

    def encoded(self) -> bytes:
        """Return it as a store keeps it."""
        return json.dumps(attrs.asdict(self)).encode()

    @classmethod
    def decoded(cls, value: bytes) -> EndedGrant:
        """Return what a store has kept. Raises: ValueError."""
        fields = json.loads(value)
        if not isinstance(fields, dict):
            raise ValueError("it is no object")  # noqa: TRY004 - the value is wrong, not a type of ours
        until, before, why = (fields.get(name, 0.0) for name in ("until", "before", "why"))
        if not (isinstance(until, int | float) and isinstance(before, int | float) and isinstance(why, str)):
            raise ValueError("a field is missing, or of another type")  # noqa: TRY004 - the same
        return cls(float(until), why, float(before))


class EndedGrants:
    """Remembers up to `most` ends. `wall_clock` gives seconds since 1970."""

    def __init__(self, most: int, wall_clock: Callable[[], float]) -> None:
        self._most = most
        self._wall_clock = wall_clock
        self._ended: dict[str, EndedGrant] = {}  # by the keys that a store has, those of before first
        self._not_before = 0.0
        self.told = Listeners[str]("ended grants")
        """Told the key of each end that other hosts of the directory are to know."""

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._ended)

    def get(self, key: str) -> EndedGrant | None:
        """Return an end by its key."""
        return self._ended.get(key)

    def add(self, key: str, ended: EndedGrant) -> None:
        """Remember an end that this host knows from another one, or that concerns this host alone."""
        known = self._ended.pop(key, ended)
        self._ended[key] = attrs.evolve(
            ended, until=max(ended.until, known.until), before=max(ended.before, known.before)
        )
        if len(self._ended) > self._most:
            self._drop_old()
        while len(self._ended) > self._most:
            del self._ended[next(iter(self._ended))]
            self._not_before = self._wall_clock()

    def tell(self, key: str, ended: EndedGrant) -> None:
        """Remember an end, and tell the other hosts."""
        self.add(key, ended)
        self.told.tell(key)

    def forget(self, key: str) -> None:
        """Forget an end."""
        self._ended.pop(key, None)

    def covers(self, claims: GrantClaims) -> bool:
        """Whether a grant has ended before its time."""
        of_owner = self._ended.get(ENDED_GRANTS_OF + claims.runtime_id)
        return (
            ENDED_GRANTS + claims.grant_id in self._ended
            or (of_owner is not None and claims.issued_at <= of_owner.before)
            or claims.issued_at <= self._not_before
        )

    def over(self) -> list[str]:
        """Return the keys of those that may be forgotten."""
        over_at = self._wall_clock() - SKEW_S  # by the clock of another host, the grant may be good still
        return [key for key, ended in self._ended.items() if ended.until <= over_at]

    def _drop_old(self) -> None:
        for key in self.over():
            del self._ended[key]
