"""What becomes of the plugins of a host that is gone: the hosts that are left adopt them.

Each plugin has an order of hosts (`Member.rank`). The first of those that are there adopts it at once; the
second one a few seconds later, if it is still without an owner, and so on. To adopt is to commit the plugin's
document with another owner, expecting it as it is known: of two hosts one does it. A host owns the plugin
when it follows that commit.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs
import trio

from cpg_trio.host.cluster.follower import Follower
from cpg_trio.host.cluster.owners import Owners
from cpg_trio.host.cluster.standing import Stand, Standing
from cpg_trio.host.directory import Journal
from cpg_trio.host.directory.documents import plugin_key, runtime_id_of
from cpg_trio.store import (
    MAX_COMMIT_BYTES,
    MAX_VALUE_BYTES,
    Commit,
    ConflictError,
    Store,
    StoreError,
)

_log = logging.getLogger("cpg_trio.host")

_TURN_S = 3.0  # for a host to adopt, until it is the next one's turn
_RETRY_S = 0.5
_AT_ONCE = 50  # plugins in a commit


@attrs.frozen
class _Adoption:
    """What is to be committed of a plugin: its document with another owner, and the revision that it has."""

    value: bytes
    expected: int


class Failover:
    """Adopts plugins. `ttl_s` is for how long the entry of a host that has died is there."""

    def __init__(
        self,
        store: Store,
        owners: Owners,
        journal: Journal,
        standing: Standing,
        follower: Follower,
        ttl_s: float,
    ) -> None:
        self._store = store
        self._owners = owners
        self._journal = journal
        self._standing = standing
        self._follower = follower
        self._ttl_s = ttl_s
        self._gone_at: dict[str, float] = {}  # when each owner that is gone was first missed, on Trio's clock
        self._wake = trio.Event()

    def look(self) -> None:
        """Look which owners are gone: hosts have come or gone."""
        gone, now = set(self._owners.gone()), trio.current_time()
        self._gone_at = {host_id: self._gone_at.get(host_id, now) for host_id in gone}
        self.wake()

    def wake(self) -> None:
        """Look what is to be adopted: something has changed."""
        self._wake.set()

    def last_sign(self, host_id: str) -> float:
        """Return when a host that is gone was there for sure, or some time before, on Trio's clock."""
        return self._gone_at.get(host_id, trio.current_time()) - self._ttl_s

    async def run(self) -> None:
        """Adopt what is without an owner, when it is this host's turn, until cancelled."""
        while True:
            self._wake = trio.Event()
            due_at = await self.adopt_due() if self._standing.stand is Stand.READY else math.inf
            with trio.move_on_at(due_at):
                await self._wake.wait()

    async def adopt_due(self) -> float:
        """Adopt what it is this host's turn to adopt; return when more may be due, on Trio's clock."""
        now, orphans = trio.current_time(), dict(self._orphans())
        if due := [runtime_id for runtime_id, at in orphans.items() if at <= now]:
            await self.adopt(due)
            return trio.current_time() + _RETRY_S  # another host may have been first, or the store is away
        return min(orphans.values(), default=math.inf)

    async def adopt(self, runtime_ids: Sequence[str]) -> None:
        """Try to adopt plugins; return when this host owns those that it has got."""
        former = {runtime_id: self._owners.owner(runtime_id) for runtime_id in runtime_ids}
        try:
            for some in self._adoptions(runtime_ids):
                await self._adopt(some)
        except StoreError as error:
            _log.warning("plugins without a host cannot be adopted yet: %s", error)
        for host_id, count in Counter(former[each] for each in filter(self._owners.owns, former)).items():
            _log.warning("the host %s is gone; this host has adopted %d of its plugins", host_id, count)

    async def _adopt(self, adoptions: Mapping[str, _Adoption]) -> None:
        """Adopt plugins by one commit; each by itself if another host has been first with one of them."""
        puts = {key: each.value for key, each in adoptions.items()}
        expected = {key: each.expected for key, each in adoptions.items()}
        try:
            commit = Commit(puts=puts, expected={**expected, **self._standing.own_fence()})
            await self._follower.reached(await self._store.commit(commit))
        except ConflictError:
            for key in adoptions if len(adoptions) > 1 else ():
                for one in self._adoptions([runtime_id_of(key)]):
                    await self._adopt(one)

    def _adoptions(self, runtime_ids: Iterable[str]) -> Iterator[Mapping[str, _Adoption]]:
        """Yield by key what is to be committed of plugins, as much at a time as one commit takes."""
        some, size = dict[str, _Adoption](), 0
        for runtime_id in runtime_ids:
            key, document = plugin_key(runtime_id), self._journal.document(runtime_id)
            if document is None or not self._journal.is_applied(runtime_id):
                continue
            value = self._journal.records.encoded(document)
            if len(value) > MAX_VALUE_BYTES:
                continue
            size += len(key) + len(value)
            if some and (len(some) == _AT_ONCE or size > MAX_COMMIT_BYTES):
                yield some
                some, size = {}, len(key) + len(value)
            some[key] = _Adoption(value, self._journal.known(runtime_id))
        if some:
            yield some

    def _orphans(self) -> Iterator[tuple[str, float]]:
        """Yield the plugins whose owner is gone, and when it is this host's turn."""
        own = self._owners.members.get(self._owners.own_id)
        if own is None:
            return
        others = [member for member in self._owners.members.values() if member is not own]
        for host_id in self._owners.gone():
            since = self._gone_at.setdefault(host_id, trio.current_time())
            for runtime_id in filter(self._journal.is_applied, self._owners.of(host_id)):
                rank = own.rank(runtime_id)
                before = sum(member.rank(runtime_id) < rank for member in others)
                yield runtime_id, since + before * _TURN_S
