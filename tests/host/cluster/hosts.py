"""Several hosts in one process with one store, each of which can be cut off from it, killed, or stopped."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Self

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import Host, HostConfig, Keys, LeaseConfig, RateLimits
from cpg_trio.host.cluster import Cluster, Member as Entered, Stand
from cpg_trio.host.directory.registration import Registration
from cpg_trio.store import Changed, Commit, MemoryStore, ReplacedError, Snapshot, StoreError
from tests.host.calls import REPORT, UNREGISTER, Headers, WireCaller, calling

LEASES = LeaseConfig(lease_s=15.0)
TTL_S = 5.0
UNLIMITED = RateLimits(**dict.fromkeys(attrs.fields_dict(RateLimits)))


@attrs.define
class _Presence:
    revision: int
    valid_until: float
    lost: trio.Event = attrs.field(factory=trio.Event)


class Reached:
    """A store as one host reaches it. While it is `cut`, everything fails, and nothing is renewed."""

    shared = True

    def __init__(self, store: MemoryStore, lapses: trio.Nursery) -> None:
        self.store = store
        self._lapses = lapses
        self._cut = trio.Event()
        self.is_replaced = False
        self.is_absent = False
        """Whether nobody can be present."""
        self.done_though_failed = False
        """Whether the next commit is done, and then fails as if it may not have been."""

    @property
    def cut(self) -> bool:
        return self._cut.is_set()

    @cut.setter
    def cut(self, cut: bool) -> None:
        if cut:
            self._cut.set()
        elif self.cut:
            self._cut = trio.Event()

    def _check(self) -> None:
        if self.cut:
            raise StoreError("it is cut off")

    async def check(self) -> bool:
        self._check()
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def load(self, prefix: str = "") -> Snapshot:
        self._check()
        if self.is_replaced:
            raise ReplacedError("it was restored")
        return await self.store.load(prefix)

    async def revision(self) -> int:
        self._check()
        return await self.store.revision()

    async def commit(self, commit: Commit) -> int:
        await trio.lowlevel.checkpoint()
        self._check()
        revision = await self.store.commit(commit)
        if self.done_though_failed:
            self.done_though_failed = False
            raise StoreError("no answer")
        return revision

    @asynccontextmanager
    async def changes(self, after: int) -> AsyncIterator[AsyncIterator[Changed]]:
        self._check()
        async with self.store.changes(after) as changes, aclosing(self._until_cut(changes)) as until_cut:
            yield until_cut

    async def _until_cut(self, changes: AsyncIterator[Changed]) -> AsyncGenerator[Changed, None]:
        while True:
            found: list[Changed] = []
            async with open_plain_nursery() as nursery:
                nursery.start_soon(self._cancel_when_cut, nursery.cancel_scope)
                found.append(await anext(changes))
                nursery.cancel_scope.cancel()
            if not found:
                raise StoreError("it was cut off")
            yield found[0]

    async def _cancel_when_cut(self, scope: trio.CancelScope) -> None:
        await self._cut.wait()
        scope.cancel()

    @asynccontextmanager
    async def present(self, key: str, value: bytes, ttl_s: float) -> AsyncIterator[_Presence]:
        self._check()
        if self.is_absent:
            raise StoreError("it is cut off")
        revision = await self.store.commit(Commit(puts={key: value}))
        presence = _Presence(revision, trio.current_time() + ttl_s)
        self._lapses.start_soon(self._lapse, key, presence)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._renew, key, presence, ttl_s)
            try:
                yield presence
            finally:
                nursery.cancel_scope.cancel()
                if not self.cut and self._is_there(key, presence):
                    self.store._change(Commit(deletes=[key]))

    def _is_there(self, key: str, presence: _Presence) -> bool:
        entry = self.store._entries.get(key)
        return entry is not None and entry.revision == presence.revision

    async def _renew(self, key: str, presence: _Presence, ttl_s: float) -> None:
        while self.cut or self._is_there(key, presence):
            if not self.cut:
                presence.valid_until = trio.current_time() + ttl_s
            await trio.sleep(ttl_s / 3)
        presence.lost.set()

    async def _lapse(self, key: str, presence: _Presence) -> None:
        """Remove the entry when its time is over, as the store does."""
        while self._is_there(key, presence):
            if trio.current_time() >= presence.valid_until:
                self.store._change(Commit(deletes=[key]))
            await trio.sleep_until(presence.valid_until)


@attrs.define
class Member:
    """A host that runs, and how to call it."""

    host: Host
    calls: WireCaller
    store: Reached
    scope: trio.CancelScope
    stop: trio.Event
    ended: trio.Event = attrs.field(factory=trio.Event)

    @property
    def id(self) -> str:
        return self.host.owners.own_id

    @property
    def cluster(self) -> Cluster:
        assert self.host.cluster is not None
        return self.host.cluster

    @property
    def member(self) -> Entered:
        return self.host.owners.members[self.id]

    def stands(self, stand: Stand) -> bool:
        return self.host.standing.stand is stand

    def owns(self, plugin: Headers) -> bool:
        return self.host.owners.owns(id_of(plugin))

    def registration(self, plugin: Headers, service_type: str = "t") -> Registration | None:
        return self.host.registry.provider(service_type, id_of(plugin))

    def is_callable(self, plugin: Headers) -> bool:
        registration = self.registration(plugin)
        return registration is not None and registration.id in self.host.registry.callable_ids

    async def report(self, plugin: Headers, state: str = "HEALTHY", reason: str = "") -> int:
        body = {"state": f"HEALTH_STATE_{state}", "reason": reason}
        return (await self.calls.post(REPORT, body, plugin))[0]

    async def unregister(self, plugin: Headers, registration_id: str) -> int:
        return (await self.calls.post(UNREGISTER, {"registrationId": registration_id}, plugin))[0]

    def directory(self) -> Mapping[str, Any]:
        """Return what this host knows of plugins that have registered something."""
        registry, owners = self.host.registry, self.host.owners
        return {
            plugin: {
                "owner": owners.owner(plugin),
                "registrations": sorted(
                    (r.id, r.version, r.sequence) for r in registry.registrations(plugin)
                ),
                "health": registry.health(plugin),
                "drained": registry.why_drained(plugin),
                "name": self.host.identities.name_of(plugin),
            }
            for plugin in registry.plugins()
        }


def id_of(plugin: Headers) -> str:
    return plugin["X-Plugin-Runtime-ID"]


class Hosts:
    """Hosts with one store."""

    def __init__(self, nursery: trio.Nursery, lapses: trio.Nursery, **config: Any) -> None:
        self._nursery = nursery
        self._lapses = lapses
        self.store = MemoryStore()
        self._config = config

    async def start(self, *, cut: bool = False, **config: Any) -> Member:
        """Start a host; return when it has joined. `cut`: it cannot enter the store."""
        store = Reached(self.store, self._lapses)
        store.is_absent = cut
        member: Member = await self._nursery.start(self._run, {**self._config, **config}, store)
        return member

    async def _run(
        self, config: dict[str, Any], store: Reached, *, task_status: trio.TaskStatus[Member]
    ) -> None:
        defaults = {"keys": Keys(["k" * 32]), "leases": LEASES, "rates": UNLIMITED}
        host = Host(HostConfig(store=store, **{**defaults, **config}))
        member: Member | None = None
        with trio.CancelScope() as scope:
            async with host.application() as app, calling(host, app, ("127.0.0.1", 5)) as caller:
                member = Member(host, caller, store, scope, trio.Event())
                task_status.started(member)
                await member.stop.wait()
        if member is not None:
            member.ended.set()

    async def kill(self, member: Member) -> None:
        """End a host as if its process were killed: its entry lapses when its time is over."""
        member.store.cut = True
        member.scope.cancel()
        await member.ended.wait()

    async def shut_down(self, member: Member) -> None:
        """Stop a host, in order."""
        member.stop.set()
        await member.ended.wait()


@asynccontextmanager
async def hosts(**config: Any) -> AsyncIterator[Hosts]:
    async with open_plain_nursery() as lapses, open_plain_nursery() as nursery:
        yield Hosts(nursery, lapses, **config)
        nursery.cancel_scope.cancel()
        lapses.cancel_scope.cancel()


async def settled() -> None:
    """Let all that is under way be done; what takes time is not waited for."""
    for _ in range(20):
        await wait_all_tasks_blocked()


async def departed(member: Member, other: Member) -> None:
    """Wait until a host knows that another one is gone."""
    event = trio.Event()
    with member.host.owners.departures.added(lambda _: event.set()):
        await event.wait()
    assert other.id not in member.host.owners.members
