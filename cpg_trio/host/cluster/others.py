"""What the services of a host ask of the other hosts of its directory."""

from __future__ import annotations

from typing import Protocol


class Others(Protocol):
    """What a host knows of the changes of other hosts, and does for them."""

    @property
    def sends_elsewhere(self) -> bool:
        """Whether plugins are to call another host, as this one is cut off."""

    def knows(self, runtime_id: str) -> bool:
        """Whether what the store has of a plugin has come here."""

    async def caught_up(self) -> None:
        """Wait until all is known that the store has now. Raises: StoreError."""

    async def known(self, seen_revision: int = 0) -> None:
        """Wait until a watch may begin, whose watcher has been told of a revision.

        All is known that the store has now; a host that is cut off knows what it knows. Raises: BehindError
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
