"""An entry that is there for as long as it is renewed: it is attached to a lease of etcd.

A member answers the renewal of a lease that is dead with 200 and without a TTL.
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
        wait_s = self.ttl_s / _RENEWALS
        while not self.lost.is_set():
            await trio.sleep(wait_s)
            try:
                await self._renew(space)
                wait_s = self.ttl_s / _RENEWALS
            except ReplacedError:
                self.lost.set()
            except StoreError:
                wait_s = self.ttl_s / 10

    async def _renew(self, space: Keyspace) -> None:
        # A member that is silent must leave time for another one.
        attempt_s = min(ATTEMPT_S, self.ttl_s / 4)
        answer = await space.gateway.call("/v3/lease/keepalive", {"ID": self.id}, attempt_s=attempt_s)
        result: Json = answer.body.get("result", {})
        space.check(result)
        if not int(result.get("TTL", 0)):
            self.lost.set()
            return
        self.valid_until = answer.sent_at + float(result["TTL"])
        found = op.entries(await space.ask("/v3/kv/range", {"key": op.text(self.key), "keys_only": True}))
        if not found or op.revision_of(found[0]) != self.revision:
            self.lost.set()  # it was deleted, or another one has its place

    async def revoke(self, space: Keyspace) -> None:
        """End it, and the entry with it, if that can be done soon; otherwise it lapses."""
        with trio.move_on_after(_REVOKE_S, shield=True), suppress(StoreError):
            await space.gateway.call("/v3/lease/revoke", {"ID": self.id})
