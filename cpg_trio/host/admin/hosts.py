"""The hosts that share a directory, as one of them sees them: who is there, who owns what, and its store.

Plain synchronous state that follows what the cluster tells.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import trio

from cpg_trio._human import span
from cpg_trio.host.admin import messages
from cpg_trio.host.admin.events import Event, EventLog
from cpg_trio.host.admin.problems import Problem
from cpg_trio.host.cluster import Cluster, Member
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State

_TOGETHER_S = 1.0  # within which adoptions are told as one event
_ADOPTED_WITHIN_S = 10.0  # plugins of a host that is gone
_UPGRADED_WITHIN_S = 15 * 60.0  # all hosts, one after the other
_MOST_NAMED = 3  # hosts, in a sentence


class Hosts:
    """Follows the hosts of a shared directory while `following`. `store` says where the directory is kept."""

    def __init__(
        self, cluster: Cluster, store: str, events: EventLog, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._events = events
        self._wall_clock = wall_clock
        self._cut_off_since = 0.0
        self._differ_since = 0.0
        self._orphans_since = 0.0
        self._adopted = 0
        self._noted = trio.Event()
        self.adoptions = 0
        """How many plugins this host has adopted."""

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow them within the block."""
        owners, standing = self._cluster.owners, self._cluster.standing
        with ExitStack() as stack:
            stack.enter_context(owners.changes.added(self._owner_changed))
            stack.enter_context(owners.arrivals.added(self._arrived))
            stack.enter_context(owners.departures.added(self._departed))
            stack.enter_context(standing.changes.added(self._stands))
            yield

    async def run(self) -> None:
        """Tell of adoptions, those of a second together, until cancelled."""
        while True:
            await self._noted.wait()
            await trio.sleep(_TOGETHER_S)
            count, self._adopted, self._noted = self._adopted, 0, trio.Event()
            plugins = "1 plugin" if count == 1 else f"{count} plugins"
            self._tell(f"the host has adopted {plugins} that had no host any more")

    # What there is

    @property
    def own_id(self) -> str:
        """The id of this host."""
        return self._cluster.owners.own_id

    @property
    def in_touch(self) -> bool:
        """Whether this host is in touch with the store."""
        return not self._cluster.standing.why_not_ready

    @property
    def behind_s(self) -> float:
        """For how many seconds this host has not been able to follow the store."""
        since = self._cluster.follower.failing_since
        return trio.current_time() - since if since is not None else 0.0

    @property
    def revision(self) -> int:
        """The revision of the store until which all is known here."""
        return self._cluster.revision

    @property
    def members(self) -> Sequence[Member]:
        """The hosts that are there, this one first, then by their URLs."""
        owners = self._cluster.owners
        return sorted(owners.members.values(), key=lambda m: (m.id != owners.own_id, m.url, m.id))

    def owned(self, runtime_ids: Sequence[str]) -> Counter[str]:
        """Return how many of some plugins each host owns, by its id."""
        return Counter(map(self._cluster.owners.owner, runtime_ids))

    def orphans(self) -> int:
        """Return how many plugins have a host that is gone. Out of touch with the store it does not know."""
        owners = self._cluster.owners
        if not self.in_touch:
            return 0
        return sum(1 for host_id in owners.gone() for _ in owners.of(host_id))

    def add_owner(self, message: pb.Plugin) -> None:
        """Add to a plugin's message who owns it."""
        owners = self._cluster.owners
        message.host_id = owners.owner(message.runtime_id)
        member = owners.members.get(message.host_id)
        message.host_url = member.url if member is not None else ""

    def owns(self, runtime_id: str) -> bool:
        """Whether this host owns a plugin, and so hears of it."""
        return self._cluster.owners.owns(runtime_id)

    def message(self, runtime_ids: Sequence[str]) -> pb.SharedDirectory:
        """Return all of it, with how many of some plugins each host owns."""
        owned, own_id, why = self.owned(runtime_ids), self._cluster.owners.own_id, self._why()
        return pb.SharedDirectory(
            hosts=[
                pb.DirectoryHost(
                    host_id=member.id,
                    url=member.url,
                    version=member.version,
                    since=messages.timestamp_if_known(member.since),
                    answers=member.id == own_id,
                    plugins=owned[member.id],
                )
                for member in self.members
            ],
            store=pb.StoreStanding(
                store=self._store,
                in_touch=self.in_touch,
                reason=why,
                since=messages.timestamp_if_known(self._cut_off_since),
                revision=self.revision,
                behind=messages.duration(self.behind_s),
            ),
            orphans=self.orphans(),
        )

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the hosts and their store."""
        now = self._wall_clock()
        if why := self._why():
            yield Problem(
                State.DEGRADED,
                f"the host is cut off from {self._store}: {why}",
                self._cut_off_since,
                what_to_do="see to the store and to the network; other hosts take over meanwhile",
            )
        orphans = self.orphans()
        self._orphans_since = (self._orphans_since or now) if orphans else 0.0
        if orphans and now - self._orphans_since >= _ADOPTED_WITHIN_S:
            whose = "1 plugin has" if orphans == 1 else f"{orphans} plugins have"
            since_s = span(now - self._orphans_since)
            yield Problem(
                State.DEGRADED,
                f"{whose} no host: theirs is gone for {since_s}, and no other one has adopted them",
                self._orphans_since,
                what_to_do="cpg-trio status, at each host: does it reach the store?",
            )
        yield from self._different_releases(now)

    def _different_releases(self, now: float) -> Iterator[Problem]:
        urls: dict[str, list[str]] = {}
        for member in sorted(self.members, key=lambda member: member.url):
            urls.setdefault(member.version, []).append(member.url)
        self._differ_since = (self._differ_since or now) if len(urls) > 1 else 0.0
        if len(urls) > 1 and now - self._differ_since >= _UPGRADED_WITHIN_S:
            releases = "; ".join(f"{version} at {_some(at)}" for version, at in sorted(urls.items()))
            yield Problem(
                State.DEGRADED,
                f"the hosts are of different releases: {releases}",
                self._differ_since,
                what_to_do="upgrade the hosts that are behind",
            )

    def _why(self) -> str:
        """Return why this host is not in touch with the store any more; empty if it is, or was never."""
        return self._cluster.why_cut_off

    # What is told

    def _owner_changed(self, runtime_id: str) -> None:
        if self._cluster.owners.owns(runtime_id):
            self.adoptions += 1
            self._adopted += 1
            self._noted.set()

    def _arrived(self, member: Member) -> None:
        if member.id != self._cluster.owners.own_id:
            self._tell(f"the host {member.url or member.id} ({member.version}) is there")

    def _departed(self, member: Member) -> None:
        if member.id != self._cluster.owners.own_id:
            self._tell(f"the host {member.url or member.id} is gone")

    def _stands(self, why: str) -> None:
        if self._why():
            self._cut_off_since = self._cut_off_since or self._wall_clock()
            self._tell(f"the host is cut off from its store: {why}")
        elif not why:
            self._cut_off_since = 0.0
            self._tell("the host is in touch with its store")

    def _tell(self, text: str) -> None:
        self._events.add(Event(kind=pb.EVENT_KIND_HOST, text=text))


def _some(urls: Sequence[str]) -> str:
    more = len(urls) - _MOST_NAMED
    return ", ".join(urls[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
