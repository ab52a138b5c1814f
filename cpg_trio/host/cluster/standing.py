"""How a host stands with the store that it shares with others, and so whether it may change the directory.

    state      what it means                                     from there
    JOINING    the host has not entered the store yet            READY
    READY      it reaches the store, and follows it              CUT_OFF, LOST, LEFT
    CUT_OFF    no answer for a while; it still owns its plugins  READY, LOST, LEFT
    LOST       its entry is gone, or may be: it owns nobody      READY, LEFT
    LEFT       it is stopping, and owns nobody                   -

Only a host that is READY changes the directory: each commit expects the host's own entry. Plain state.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from enum import Enum, auto

from cpg_trio._listeners import Listeners
from cpg_trio.host.cluster.owners import HOSTS, NOBODY, Owners
from cpg_trio.store import Store, StoreError

_log = logging.getLogger("cpg_trio.host")


class Stand(Enum):
    """The states."""

    JOINING = auto()
    READY = auto()
    CUT_OFF = auto()
    LOST = auto()
    LEFT = auto()


_OWNING = {Stand.READY, Stand.CUT_OFF}
_ID_BYTES = 8
_NOT_YET = "it has not joined the other hosts yet"
_LEFT = "it has left the other hosts, as it is stopping"


class Standing:
    """The state of one host; one without an id shares its directory with nobody, and may change it."""

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._revision = 0
        self.has_entry = False
        """Whether the host has an entry in the store, as far as it knows: only then may it own plugins."""
        self.stand = Stand.JOINING
        """The state now."""
        self.why_not_ready = _NOT_YET
        """Why the host is not ready; empty if it is."""
        self.changes = Listeners[str]("the standing of the host")
        """Told why the host is not ready any more, or an empty text when it is."""

    @property
    def owns_plugins(self) -> bool:
        """Whether the host may own plugins."""
        return self.stand in _OWNING

    @property
    def why_cut_off(self) -> str:
        """Why the host does not reach the store now; empty while it does, and before it has joined."""
        return self.why_not_ready if self.stand in {Stand.CUT_OFF, Stand.LOST} else ""

    def fence(self) -> Mapping[str, int]:
        """Return what each commit of this host expects in addition: that it is there.

        Raises: StoreError while the host may not change the directory.
        """
        if not self._own_id:
            return {}
        if self.stand is not Stand.READY:
            raise StoreError(self.why_not_ready)
        return self.own_fence()

    def own_fence(self) -> Mapping[str, int]:
        """Return what the commits expect with which a host joins, and adopts plugins."""
        return {f"{HOSTS}{self._own_id}": self._revision}

    def entered(self, revision: int) -> None:
        """Note the revision of the host's entry, which has been made anew."""
        self._revision = revision
        self.has_entry = True

    def ready(self) -> None:
        """Note that the host reaches the store, and knows all that is in it."""
        self._change(Stand.READY, "")

    def cut_off(self, why: str) -> None:
        """Note that the store has not answered for a while."""
        if self.stand is Stand.READY:
            self._change(Stand.CUT_OFF, why)

    def lost(self, why: str) -> None:
        """Note that the host's entry is gone, or may be."""
        self.has_entry = False
        if self.stand is not Stand.LEFT:
            self._change(Stand.LOST, why)

    def leave(self) -> None:
        """Note that the host leaves, for good."""
        self.has_entry = False
        self._change(Stand.LEFT, _LEFT)

    def _change(self, stand: Stand, why: str) -> None:
        before, self.stand = self.stand, stand
        if before is stand:
            return
        self.why_not_ready = why
        if stand is Stand.READY and before is not Stand.JOINING:
            _log.warning("the host reaches its store again")
        elif stand in {Stand.CUT_OFF, Stand.LOST}:
            _log.error("the host is not ready: %s", why)
        self.changes.tell(why)


def membership(store: Store | None) -> tuple[Owners, Standing]:
    """Return what a host knows of other hosts, and how it stands with them: with a store that is shared."""
    own_id = secrets.token_hex(_ID_BYTES) if store is not None and store.shared else NOBODY
    return Owners(own_id), Standing(own_id)
