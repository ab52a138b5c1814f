"""Which hosts there are, and which of them owns each plugin. Plain synchronous state without I/O.

A plugin belongs to one host, which alone keeps its lease and changes what is kept of it. What the store says
of that holds: a host owns a plugin when it has seen that the store says so. A host without others owns all
plugins, and each host owns those that only it knows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

import attrs

from cpg_trio._listeners import Listeners
from cpg_trio.http import Origin

HOSTS = "hosts/"  # before the id of a host: the key of its entry in a store
NOBODY = ""  # owns a plugin whose owner has lost its entry in the store


@attrs.frozen
class Member:
    """A host of the directory."""

    id: str
    """Random, another one for each run."""
    url: str
    """At which the other hosts reach it; empty if they do not."""
    version: str
    """Of its software."""
    address: str = ""
    """Where they connect to for that; empty for where the URL leads."""
    since: float = 0.0
    """When it joined, in seconds since 1970; 0 if it does not say."""

    @property
    def key(self) -> str:
        """The key of its entry in a store."""
        return f"{HOSTS}{self.id}"

    @property
    def value(self) -> bytes:
        """What its entry says."""
        return json.dumps(attrs.asdict(self, filter=lambda field, _: field.name != "id")).encode()

    @classmethod
    def read(cls, key: str, value: bytes) -> Member:
        """Return the host of an entry; one whose URL is none has no URL. Raises: ValueError for no host."""
        key.encode()  # it may be no UTF-8, and `rank` needs it
        fields = json.loads(value)
        if not isinstance(fields, Mapping):
            raise ValueError("it is no JSON object")  # noqa: TRY004 - of a value that was read
        texts = {name: str(fields.get(name, "")) for name in ("url", "version", "address")}
        if not _is_url(texts["url"]):
            texts["url"] = ""
        return cls(key.removeprefix(HOSTS), **texts, since=float(fields.get("since", 0.0)))

    def rank(self, runtime_id: str) -> bytes:
        """Return a number by which hosts share plugins: the one with the lowest comes first.

        Rendezvous hashing (Thaler and Ravishankar, 1998): all hosts come to the same order without asking.
        """
        return hashlib.blake2b(f"{self.id}/{runtime_id}".encode(), digest_size=8).digest()


def _is_url(text: str) -> bool:
    try:
        Origin.parse(text)
    except ValueError:
        return False
    return True


class Owners:
    """Which hosts there are, and who owns which plugin."""

    def __init__(self, own_id: str = NOBODY) -> None:
        self.own_id = own_id
        """This host; empty for one that shares its directory with nobody."""
        self.members: dict[str, Member] = {}
        """The hosts that are there, by id, this one included."""
        self._owners: dict[str, str] = {}  # by runtime id, of plugins that another host owns, or nobody
        self._of: dict[str, dict[str, None]] = {}  # and the other way round
        self.changes = Listeners[str]("the owners of plugins")
        """Told the runtime id of each plugin that another host owns now, or this one, or nobody."""
        self.arrivals = Listeners[Member]("hosts that come")
        self.departures = Listeners[Member]("hosts that are gone")

    def arrived(self, member: Member) -> None:
        """Note that a host is there."""
        before = self.members.get(member.id)
        self.members[member.id] = member
        if before is None:
            self.arrivals.tell(member)

    def departed(self, host_id: str) -> None:
        """Note that a host is not there any more."""
        if (member := self.members.pop(host_id, None)) is not None:
            self.departures.tell(member)

    def owns(self, runtime_id: str) -> bool:
        """Whether this host owns a plugin. It owns those of which it does not know an owner."""
        return runtime_id not in self._owners

    def owner(self, runtime_id: str) -> str:
        """Return the id of the host that owns a plugin."""
        return self._owners.get(runtime_id, self.own_id)

    def elsewhere(self, runtime_id: str) -> Member | None:
        """Return the other host that owns a plugin, None if this one does or the other is gone."""
        return self.members.get(self._owners.get(runtime_id, NOBODY))

    def of(self, host_id: str) -> Iterator[str]:
        """Yield the plugins that another host owns, or nobody."""
        yield from list(self._of.get(host_id, ()))

    def others(self) -> Iterator[str]:
        """Yield the plugins that this host does not own."""
        yield from list(self._owners)

    def gone(self) -> Iterator[str]:
        """Yield the ids of the owners that are not there any more."""
        yield from [host_id for host_id in self._of if host_id not in self.members]

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
