"""Which hosts there are, and which of them owns each plugin. Plain synchronous state without I/O.

A plugin belongs to one host, which alone keeps its lease and changes what is kept of it. A host without
others owns all plugins.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from cpg_trio._listeners import Listeners


@attrs.frozen
class Member:
    """A host of the directory."""

    id: str
    """Random, another one for each run."""
    url: str
    """At which the other hosts reach it."""
    version: str
    """Of its software."""
    address: str = ""
    """Where to connect to for that URL; empty for where the URL leads."""


class Owners:
    """Which hosts there are, and who owns which plugin."""

    def __init__(self, own_id: str = "") -> None:
        self.own_id = own_id
        """This host; empty for one that shares its directory with nobody."""
        self.members: dict[str, Member] = {}
        """The hosts that are there, by id, this one included."""
        self._owners: dict[str, str] = {}  # by runtime id, of plugins that another host owns, or nobody
        self._of: dict[str, dict[str, None]] = {}  # and the other way round
        self.changes = Listeners[str]("the owners of plugins")
        """Told the runtime id of each plugin that another host owns now."""

    def owns(self, runtime_id: str) -> bool:
        """Whether this host owns a plugin. It owns those of which it does not know an owner."""
        return runtime_id not in self._owners

    def owner(self, runtime_id: str) -> str:
        """Return the id of the host that owns a plugin."""
        return self._owners.get(runtime_id, self.own_id)

    def elsewhere(self, runtime_id: str) -> Member | None:
        """Return the other host that owns a plugin, None if this one does or the other is gone."""
        return self.members.get(self._owners.get(runtime_id, ""))

    def of(self, host_id: str) -> Iterator[str]:
        """Yield the plugins that another host owns."""
        yield from list(self._of.get(host_id, ()))

    def set(self, runtime_id: str, host_id: str) -> None:
        """Note who owns a plugin."""
        if host_id == self.owner(runtime_id):
            return
        self._forget(runtime_id)
        if host_id != self.own_id:
            self._owners[runtime_id] = host_id
            self._of.setdefault(host_id, {})[runtime_id] = None
        self.changes.tell(runtime_id)

    def forget(self, runtime_id: str) -> None:
        """Forget a plugin that is gone."""
        self._forget(runtime_id)

    def _forget(self, runtime_id: str) -> None:
        before = self._owners.pop(runtime_id, None)
        if before is not None:
            del self._of[before][runtime_id]
            if not self._of[before]:
                del self._of[before]
