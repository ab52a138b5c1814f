"""An entry that is there for as long as it is renewed: it is attached to a lease of etcd.

A member answers the renewal of a lease that is dead with 200 and without a TTL. So does one that has not
heard of the lease yet. Which of them it is, the entry says: it is gone with its lease.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Self

import attrs
import trio

from cpg_trio.store._store import ReplacedError, StoreError
from cpg_trio.store.etcd import _operations as op
from cpg_trio.store.etcd._gateway import ATTEMPT_S, Json
from cpg_trio.store.etcd._keyspace import Keyspace

_RENEWALS = 3  # in the time to live
_RETRIES = 10  # in the time to live, while renewals fail
_REVOKE_S = 2.0


@attrs.define(eq=False)
class Lease:
    """A lease, and the entry that is attached to it. See `Presence`."""

    id: str
    key: str
    ttl_s: float
    valid_until: float
    revision: int = 0
    lost: trio.Event = attrs.field(factory=trio.Event)

    @classmethod
    async def granted(cls, space: Keyspace, key: str, ttl_s: float) -> Self:
        """Get a lease. Its time is a whole number of seconds, and at least what etcd makes it."""
        answer = await space.gateway.call("/v3/lease/grant", {"TTL": str(math.ceil(ttl_s))})
        space.check(answer.body)
        ttl_s = float(answer.body["TTL"])
        return cls(answer.body["ID"], space.prefix + key, ttl_s, answer.sent_at + ttl_s)

    async def attach(self, space: Keyspace, value: bytes) -> None:
        """Put the entry, in the place of one that is there. Raises: StoreError."""
        operations = [op.put(self.key, value, self.id), space.restamp()]
        answer, _ = await space.transact([], operations, [])
        self.revision = int(answer["header"]["revision"])

    async def keep(self, space: Keyspace) -> None:
        """Renew it until it is lost. What fails is tried again soon."""
        renewed = True
        while not self.lost.is_set():
            await trio.sleep(self.ttl_s / (_RENEWALS if renewed else _RETRIES))
            try:
                renewed = await self._renew(space)
            except ReplacedError:
                self.lost.set()
            except StoreError:
                renewed = False

    async def _renew(self, space: Keyspace) -> bool:
        """Return whether it was renewed, and see whether the entry is there: it may have been replaced."""
        # A member that is silent must leave time for another one.
        attempt_s = min(ATTEMPT_S, self.ttl_s / 4)
        answer = await space.gateway.call("/v3/lease/keepalive", {"ID": self.id}, attempt_s=attempt_s)
        result: Json = answer.body.get("result", {})
        space.check(result)
        ttl_s = float(result.get("TTL", 0))
        if ttl_s:
            self.valid_until = answer.sent_at + ttl_s
        found = op.entries(await space.ask("/v3/kv/range", {"key": op.text(self.key), "keys_only": True}))
        if not found or op.revision_of(found[0]) != self.revision:
            self.lost.set()
        return ttl_s > 0

    async def revoke(self, space: Keyspace) -> None:
        """End it, and the entry with it, if that can be done soon; otherwise it lapses."""
        with trio.move_on_after(_REVOKE_S, shield=True), suppress(StoreError):
            await space.gateway.call("/v3/lease/revoke", {"ID": self.id})
