"""A host among others: it joins them, follows their store, and says how it stands.

A host opens the store, checks that it fits it, loads it, and follows it. Once it listens it joins: it enters
the store, with an entry that is there for as long as it renews it, adopts what has no host, and is ready.
When it stops, it leaves first, so that others adopt its plugins while it finishes its calls.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio._version import __version__
from cpg_trio.host.access import Ended, Identities, Keys, RefusedError
from cpg_trio.host.cluster.applier import Applier
from cpg_trio.host.cluster.failover import Failover
from cpg_trio.host.cluster.follower import Follower
from cpg_trio.host.cluster.meta import check_given, join
from cpg_trio.host.cluster.owners import Member, Owners
from cpg_trio.host.cluster.standing import Stand, Standing
from cpg_trio.host.directory import Journal, Liveness, RegistrationPolicy, Registry
from cpg_trio.http import Origin, StartError
from cpg_trio.http.client.origin import UNIX
from cpg_trio.store import Commit, ConflictError, Presence, ReplacedError, Sealer, Store, StoreError

_log = logging.getLogger("cpg_trio.host")

_SHORTEST_TTL_S = 2
_LOOKS = 20  # in the time that an entry lasts, while the store is out of reach
_RETRY_S = 0.5
_LOOK_S = 5.0  # for other keys
_FLUSH_S = 2.0  # for what is to be written before a host leaves


def ttl_of(lease_s: float) -> int:
    """Return how long the entry of a host that has died is there, in seconds: a third of a lease."""
    return max(_SHORTEST_TTL_S, math.floor(lease_s / 3))


@attrs.frozen(kw_only=True)
class Local:
    """The parts of a host that are shared with other hosts."""

    keys: Keys
    identities: Identities
    registry: Registry
    liveness: Liveness
    journal: Journal
    policy: RegistrationPolicy
    end: Callable[[Ended], object]
    """Ends a plugin with all that it has."""
    in_use: Callable[[str], bool]
    """Whether a plugin has something here that lasts only as long as its identity is kept."""


class Cluster:
    """One host of those that share a store. `lease_s` is the lease of plugins."""

    def __init__(
        self, store: Store, owners: Owners, standing: Standing, local: Local, lease_s: float
    ) -> None:
        self.store = store
        """What they share."""
        self._local = local
        self.owners = owners
        self.standing = standing
        self._ttl_s = ttl_of(lease_s)
        self._dropped = trio.Event()
        self._has_joined = False
        self._applier = Applier(
            owners=owners,
            identities=local.identities,
            registry=local.registry,
            liveness=local.liveness,
            journal=local.journal,
            may_own=lambda: standing.has_entry,
            end=local.end,
            in_use=local.in_use,
            adopted=self._adopted,
        )
        self.follower = Follower(store, self._applier, self._members_changed)
        self._failover = Failover(store, owners, local.journal, standing, self.follower, self._ttl_s)
        standing.changes.add(lambda _: self._failover.wake())
        owners.changes.add(self._owner_changed)

    def on(self, prefix: str, changed: Callable[[str, bytes | None], object]) -> None:
        """Call `changed` with the rest of a key and its value, for each key that begins so and changes."""
        self._applier.hooks[prefix] = changed

    @property
    def why_cut_off(self) -> str:
        """Why the host does not reach the store; empty while it does."""
        return self.standing.why_cut_off

    @property
    def sends_elsewhere(self) -> bool:
        """Whether plugins are to call another host: this one does not reach the store, or is stopping."""
        return self.standing.stand in {Stand.CUT_OFF, Stand.LOST, Stand.LEFT}

    @property
    def revision(self) -> int:
        """The revision of the store until which all changes are known here."""
        return self.follower.revision

    def knows(self, runtime_id: str) -> bool:
        """Whether the document of a plugin has been seen here."""
        return self._local.journal.known(runtime_id) > 0

    async def adopt(self, runtime_id: str) -> bool:
        """Try to adopt a plugin whose owner is gone; return whether this host owns it now."""
        if not self.owners.owns(runtime_id) and self.standing.stand is Stand.READY:
            await self._failover.adopt([runtime_id])
        return self.owners.owns(runtime_id)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Load the store, and follow it for as long as the block lasts.

        Raises: StartError for a store that this host cannot use, or does not fit; within the block if the
        store is replaced.
        """
        local = self._local
        check_given(local.keys)
        async with self.store, open_plain_nursery() as nursery:
            joined, snapshot = await join(self.store, local.keys)
            local.registry.id, local.registry.counts_changes = joined.id, False
            local.journal.seals = joined.sealer
            async with local.journal.opened():
                await self.follower.load(snapshot)
                del snapshot  # it is as large as the directory
                nursery.start_soon(self._follow)
                nursery.start_soon(joined.follow_keys)
                nursery.start_soon(self._read_again, joined.sealer)
                yield
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def joined(self, url: str, address: str = "") -> AsyncIterator[None]:
        """Be one of the hosts for as long as the block lasts: own plugins, and adopt others.

        Raises: StartError if the store cannot be entered.
        """
        async with open_plain_nursery() as nursery:
            member = Member(self.owners.own_id, url, __version__, address, time.time())
            await nursery.start(self._be_present, member)
            nursery.start_soon(self._failover.run)
            yield
            with trio.move_on_after(_FLUSH_S):
                await self._local.journal.flushed()
            self._release(self.standing.leave)
            nursery.cancel_scope.cancel()
        _log.info("the host has left the other hosts")

    # Being there

    async def _be_present(
        self, member: Member, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Have an entry in the store, another one whenever it is lost, until cancelled.

        Started when the host has joined. Raises: StartError if it cannot, or if the store is replaced.
        """
        while True:
            try:
                async with self.store.present(member.key, member.value, self._ttl_s) as presence:
                    await self._be_there(presence, member, task_status)
            except ReplacedError as error:
                raise _start_error(error) from error
            except StoreError as error:
                if not self._has_joined:
                    raise StartError(f"the store cannot be used: {error}") from error
                self._lose(f"the store cannot be used: {error}")
            await trio.sleep(_RETRY_S)

    async def _be_there(self, presence: Presence, member: Member, task_status: trio.TaskStatus[None]) -> None:
        """Join, and stay until the entry of the host is lost."""
        self.standing.entered(presence.revision)
        self._dropped = trio.Event()
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._until_lapsed, presence, nursery.cancel_scope)
            nursery.start_soon(self._until_dropped, self._dropped, nursery.cancel_scope)
            if self.standing.stand is Stand.JOINING:
                await self._take_over_from_former_run(member)
            else:
                await self.follower.compared()
                self._tell_of_others_at_the_place_of(member)
            await self._catch_up(presence.revision)
            self._failover.look()
            await self._failover.adopt_due()
            self.standing.ready()
            if not self._has_joined:
                self._has_joined = True
                others = len(self.owners.members) - 1
                _log.info("the host has joined %s", f"{others} others" if others else "as the first one")
                task_status.started()
            await self._stay(presence)

    async def _take_over_from_former_run(self, member: Member) -> None:
        """Remove the entries of hosts that were at this host's place, so that their plugins are adopted."""
        if former := [other.key for other in self._at_the_place_of(member)]:
            _log.info("%d former runs of this host are gone", len(former))
            with suppress(ConflictError):
                await self.store.commit(Commit(deletes=former, expected=self.standing.own_fence()))

    def _tell_of_others_at_the_place_of(self, member: Member) -> None:
        if others := ", ".join(other.id for other in self._at_the_place_of(member)):
            _log.error("other hosts are reached at %s, too (%s): set PEER_URL for each", member.url, others)

    def _at_the_place_of(self, member: Member) -> Sequence[Member]:
        """Return the other hosts that are reached where this one is."""
        others = [other for other in self.owners.members.values() if other.url and other.id != member.id]
        return [other for other in others if (other.url, other.address) == (member.url, member.address)]

    async def _catch_up(self, revision: int = 0) -> None:
        """Wait until all that is in the store is known here. Raises: StoreError."""
        await self.follower.reached(max(revision, await self.store.revision()))

    async def _until_lapsed(self, presence: Presence, scope: trio.CancelScope) -> None:
        while trio.current_time() < presence.valid_until and not presence.lost.is_set():
            with trio.move_on_at(presence.valid_until):
                await presence.lost.wait()
        gone = presence.lost.is_set()
        self._lose("its entry in the store is gone" if gone else "the store has not answered in time")
        scope.cancel()

    async def _until_dropped(self, dropped: trio.Event, scope: trio.CancelScope) -> None:
        await dropped.wait()
        self._lose("its entry has been removed from the store")
        scope.cancel()

    async def _stay(self, presence: Presence) -> None:
        """Say whether the host reaches the store, until cancelled."""
        standing, margin_s = self.standing, self._ttl_s / 3
        while True:
            why = self._why_out_of_touch(presence, margin_s)
            if why:
                standing.cut_off(why)
            elif standing.stand is Stand.CUT_OFF:
                with suppress(StoreError):
                    await self._catch_up()
                    if not self._why_out_of_touch(presence, margin_s):
                        standing.ready()
            look_s = min(margin_s, presence.valid_until - margin_s - trio.current_time())
            await trio.sleep(max(look_s, self._ttl_s / _LOOKS))

    def _why_out_of_touch(self, presence: Presence, margin_s: float) -> str:
        now, failing_since = trio.current_time(), self.follower.failing_since
        if now >= presence.valid_until - margin_s:
            silent_s = now - presence.valid_until + self._ttl_s
            return f"the store has not answered for {silent_s:.1f} s"
        if failing_since is not None and now >= failing_since + self._ttl_s - margin_s:
            return f"the store cannot be followed: {self.follower.why_failing}"
        return ""

    def _lose(self, why: str) -> None:
        self._release(lambda: self.standing.lost(f"{why}: it owns no plugins, and changes nothing"))

    def _release(self, change: Callable[[], object]) -> None:
        """Own no plugins any more. What is known of them stays."""
        change()
        self._applier.release_all()

    # What is followed

    async def _read_again(self, sealer: Sealer) -> None:
        """Load the store anew when there are other keys, if something could not be read, until cancelled."""
        key_ids = sealer.key_ids
        while True:
            await trio.sleep(_LOOK_S)
            before, key_ids = key_ids, sealer.key_ids
            if key_ids != before and self._local.journal.has_unapplied():
                await self.follower.compared()
                self._failover.wake()

    def _members_changed(self) -> None:
        self._failover.look()
        if self.standing.owns_plugins and self.owners.own_id not in self.owners.members:
            self._dropped.set()

    def _owner_changed(self, runtime_id: str) -> None:
        if not self.owners.owns(runtime_id) and self.owners.elsewhere(runtime_id) is None:
            self._failover.wake()

    def _adopted(self, runtime_id: str, former: str) -> None:
        local = self._local
        local.identities.adopt(runtime_id)
        with suppress(RefusedError):  # a policy that fails is asked again
            local.policy.enforce_for(runtime_id)
        local.liveness.adopt(runtime_id, self._failover.last_sign(former))

    async def _follow(self) -> None:
        try:
            await self.follower.run()
        except ReplacedError as error:
            raise _start_error(error) from error


def _start_error(error: ReplacedError) -> StartError:
    return StartError(f"the store is not the one that this host began with: {error}. Start the host again")


def peer_url(configured: str, bound: Sequence[str], *, one_machine: bool = False) -> str:
    """Return the URL at which other hosts reach one that listens at `bound`, which are URLs.

    Where they are not all on `one_machine`, that is no address of this machine alone: another host may have
    the same, and would take this one for its own former run. Raises: StartError if that cannot be told.
    """
    if configured:
        return configured
    for url in bound:
        if not url.startswith(UNIX) and _is_reached(url, one_machine=one_machine):
            return url
    raise StartError(
        f"other hosts have to reach this one, and {', '.join(bound)} does not say where: set PEER_URL, as in"
        " PEER_URL=http://192.0.2.7:8080, or BASE_URLS=any if all hosts and plugins are on this machine"
    )


def _is_reached(url: str, *, one_machine: bool) -> bool:
    try:
        address = ip_address(Origin.parse(url)[0].host)
    except ValueError:  # a name
        return True
    is_local = address.is_loopback or address.is_link_local
    return not address.is_unspecified and (one_machine or not is_local)
