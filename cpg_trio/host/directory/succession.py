"""Which plugin has taken the place of another: it registered later, with the same name, at the same address.

A plugin that restarts at its port has another identity, and a plugin that knows only the wire protocol does
not say which one it has. So the host would probe the former identity, and the new plugin would answer for it,
for ever. Two processes cannot listen at one address, so the plugin that registered last is the one that
answers.

No I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from cpg_trio.host.access import Identities, Identity
from cpg_trio.host.directory.registration import Change, ChangeKind, Registration
from cpg_trio.host.directory.registry import Registry

_log = logging.getLogger("cpg_trio.host")


class Succession:
    """Finds predecessors and successors in the identities and the registry."""

    def __init__(self, identities: Identities, registry: Registry) -> None:
        self._identities = identities
        self._registry = registry

    def lapsing(self, lapse: Callable[[str, str], object]) -> Callable[[Change], None]:
        """Return a listener of changes that has the predecessors of a plugin lapse."""

        def registered(change: Change) -> None:
            if change.kind is not ChangeKind.REGISTERED:
                return
            for predecessor in self.predecessors(runtime_id := change.registration.runtime_id):
                if self._registry.health(predecessor).callable:
                    _log.info("%s has taken the place of %s", runtime_id, predecessor)
                lapse(predecessor, f"{runtime_id} has taken its place")

        return registered

    def predecessors(self, runtime_id: str) -> set[str]:
        """Return the runtime ids of the plugins whose place a plugin has taken."""
        return {
            older.runtime_id
            for mine in self._registry.registrations(runtime_id)
            for older in self._at_the_same_place(mine)
            if older.is_older_than(mine)
        }

    def is_succeeded(self, runtime_id: str) -> bool:
        """Whether another plugin has taken the place of this one."""
        return any(
            mine.is_older_than(newer)
            for mine in self._registry.registrations(runtime_id)
            for newer in self._at_the_same_place(mine)
        )

    def _at_the_same_place(self, mine: Registration) -> Iterator[Registration]:
        """Yield it, and what others have registered for the same service, by the same name and place."""
        identity = self._identity(mine)
        if identity is None:
            return
        for other in self._registry.at_place_of(mine):
            theirs = self._identity(other)
            # Replicas behind one address have handshakes that came from different ones.
            if theirs and (theirs.self_id, theirs.address) == (identity.self_id, identity.address):
                yield other

    def _identity(self, registration: Registration) -> Identity | None:
        entry = self._identities.entry(registration.runtime_id)
        return entry.identity if entry is not None else None
