"""What the services of a host ask of the other hosts of its directory."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from cpg_trio.host.cluster.barrier import Barrier
from cpg_trio.host.cluster.cluster import Cluster
from cpg_trio.store import Store, StoreError


class Others(Protocol):
    """What a host knows of the changes of other hosts, and does for them."""

    @property
    def sends_elsewhere(self) -> bool:
        """Whether plugins are to call another host, as this one is cut off, or stops."""

    def knows(self, runtime_id: str) -> bool:
        """Whether what is in the store of a plugin has come here."""

    async def caught_up(self) -> None:
        """Wait until all is known that the store has now. Raises: StoreError."""

    async def known(self, seen_revision: int = 0) -> None:
        """Wait until a watch may begin, whose watcher has been told of a revision.

        All is known that the store has now; a host that is not ready knows what it knows. Raises: BehindError
        if that is not what the watcher has been told of.
        """

    async def adopt(self, runtime_id: str) -> bool:
        """Take over a plugin whose owner is gone; return whether this host owns it. Raises: StoreError."""


class Alone:
    """The `Others` of a host that shares its directory with nobody."""

    sends_elsewhere = False

    def knows(self, _runtime_id: str) -> bool:
        """See `Others`."""
        return True

    async def caught_up(self) -> None:
        """See `Others`."""

    async def known(self, _seen_revision: int = 0) -> None:
        """See `Others`."""

    async def adopt(self, _runtime_id: str) -> bool:
        """See `Others`. No owner is gone."""
        return False


ALONE = Alone()


def others_of(cluster: Cluster | None, store: Store | None) -> Others:
    """Return the `Others` of a host, which keeps its directory in a store."""
    return ALONE if cluster is None or store is None else Among(cluster, store)


class Among:
    """The `Others` of a host that is one of several."""

    def __init__(self, cluster: Cluster, store: Store) -> None:
        self._cluster = cluster
        self._barrier = Barrier(store.revision, cluster.follower.reached)

    @property
    def sends_elsewhere(self) -> bool:
        """See `Others`."""
        return self._cluster.sends_elsewhere

    def knows(self, runtime_id: str) -> bool:
        """See `Others`."""
        return self._cluster.knows(runtime_id)

    async def caught_up(self) -> None:
        """See `Others`."""
        if why := self._cluster.standing.why_not_ready:
            raise StoreError(why)
        await self._barrier.caught_up()

    async def known(self, seen_revision: int = 0) -> None:
        """See `Others`."""
        with suppress(StoreError):
            await self.caught_up()
        await self._barrier.passed(seen_revision)

    async def adopt(self, runtime_id: str) -> bool:
        """See `Others`."""
        return await self._cluster.adopt(runtime_id)
