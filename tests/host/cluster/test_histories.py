"""Whatever happens to hosts and plugins: after quiet all hosts know the same, and nothing is lost.

Hosts share a store. Plugins register, change and end; hosts are killed, stopped, started and cut off, and
commits are done of which the host learns nothing. Plugins send heartbeats to the host that owns them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import MockClock

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host.cluster import Stand
from cpg_trio.rpc import ConnectError
from tests.host.calls import COOKIE, HANDSHAKE, REGISTER, VERSIONS, Headers
from tests.host.cluster.hosts import LEASES, Hosts, Member, hosts, id_of, settled

_MOST_HOSTS = 4
_QUIET_S = 30.0
_NAMES = ("p0", "p1")
_TYPES = ("t0", "t1", "t2")


@attrs.define
class Plugin:
    """A plugin, and what has been acknowledged to it."""

    name: str
    headers: Headers
    registered: dict[str, str] = attrs.field(factory=dict)  # registration ids, by service type
    unsure: set[str] = attrs.field(factory=set)  # types of which it was answered that nothing has changed
    ended: bool = False
    may_have_ended: bool = False

    @property
    def id(self) -> str:
        return id_of(self.headers)


class History:
    """Hosts and plugins, to which something happens."""

    def __init__(self, group: Hosts) -> None:
        self.group = group
        self.members: list[Member] = []
        self.plugins: list[Plugin] = []
        self.revisions: dict[str, int] = {}
        self.turn = trio.Lock()  # nobody calls a host that ends

    def owner(self, plugin: Plugin) -> Member | None:
        """Return a host that owns a plugin, and knows it."""
        knowing = [m for m in self.members if m.host.identities.entry(plugin.id) is not None]
        return next((m for m in knowing if m.owns(plugin.headers)), None)

    async def beat(self) -> None:
        while True:
            await trio.sleep(LEASES.lease_s / 4)
            for plugin in self.plugins:
                async with self.turn:
                    if (owner := self.owner(plugin)) is not None:
                        await owner.report(plugin.headers)

    def look(self) -> None:
        for member in self.members:
            revision = member.host.registry.revision
            assert revision >= self.revisions.get(member.id, 0)
            self.revisions[member.id] = revision

    # What happens. Each takes a number that chooses.

    def _member(self, number: int) -> Member | None:
        return self.members[number % len(self.members)] if self.members else None

    def _plugin(self, number: int) -> Plugin | None:
        return self.plugins[number % len(self.plugins)] if self.plugins else None

    async def join(self, number: int) -> None:
        if (member := self._member(number)) is None:
            return
        name = _NAMES[number % len(_NAMES)]
        status, answer = await member.calls.post(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": name})
        if status == 200:
            headers = {
                "X-Plugin-Runtime-ID": answer["runtimeId"],
                "Authorization": f"Bearer {answer['runtimeToken']}",
            }
            self.plugins.append(Plugin(name, headers))
            await self.register(number)

    async def register(self, number: int) -> None:
        plugin = self._plugin(number)
        owner = self.owner(plugin) if plugin is not None else None
        if plugin is None or owner is None:
            return
        service_type = _TYPES[number % len(_TYPES)]
        body = {"serviceType": service_type, "version": "1.0.0", "endpointPath": "/x/"}
        status, answer = await owner.calls.post(REGISTER, body, plugin.headers)
        if status == 200:
            plugin.registered[service_type] = answer["registrationId"]
            plugin.unsure.discard(service_type)
        else:  # it may have been done, and its owner be gone before it was undone
            plugin.unsure.add(service_type)

    async def unregister(self, number: int) -> None:
        plugin = self._plugin(number)
        owner = self.owner(plugin) if plugin is not None else None
        if plugin is None or owner is None or not plugin.registered:
            return
        service_type = sorted(plugin.registered)[number % len(plugin.registered)]
        status = await owner.unregister(plugin.headers, plugin.registered[service_type])
        if status == 200:
            del plugin.registered[service_type]
        else:
            plugin.unsure.add(service_type)

    async def health(self, number: int) -> None:
        plugin = self._plugin(number)
        if plugin is not None and (owner := self.owner(plugin)) is not None:
            await owner.report(plugin.headers, ("HEALTHY", "DEGRADED", "UNHEALTHY")[number % 3], f"r{number}")

    async def revoke(self, number: int) -> None:
        member, plugin = self._member(number // 7), self._plugin(number)
        if member is not None and plugin is not None:
            plugin.may_have_ended = True
            with suppress(ConnectError):
                await member.host.revoke_identity(plugin.id, "bad")
                plugin.ended = True

    async def drain(self, number: int) -> None:
        member, plugin = self._member(number // 7), self._plugin(number)
        if member is not None and plugin is not None and member.host.identities.entry(plugin.id):
            if member.host.registry.is_drained(plugin.id):
                member.host.registry.undrain(plugin.id)
            else:
                member.host.registry.drain(plugin.id, "why")

    async def start(self, _: int) -> None:
        if len(self.members) < _MOST_HOSTS:
            self.members.append(await self.group.start())

    async def kill(self, number: int) -> None:
        if len(self.members) > 1:
            async with self.turn:
                await self.group.kill(self.members.pop(number % len(self.members)))

    async def stop(self, number: int) -> None:
        if len(self.members) > 1:
            async with self.turn:
                await self.group.shut_down(self.members.pop(number % len(self.members)))

    async def cut(self, number: int) -> None:
        if (member := self._member(number)) is not None:
            member.store.cut = not member.store.cut

    async def uncertain(self, number: int) -> None:
        if (member := self._member(number)) is not None:
            member.store.done_though_failed = True

    async def wait(self, number: int) -> None:
        await trio.sleep(number / 10)

    # What holds

    async def check(self) -> None:
        for member in self.members:
            member.store.cut = member.store.done_though_failed = False
        await trio.sleep(_QUIET_S)
        await settled()
        self.look()
        directories = {member.id: member.directory() for member in self.members}
        known = directories[self.members[0].id]
        for member in self.members:
            assert member.stands(Stand.READY)
            assert directories[member.id] == known
            assert member.host.registry.revision == self.members[0].host.registry.revision
        for runtime_id, plugin in known.items():
            assert [m.id for m in self.members if m.host.owners.owns(runtime_id)] == [plugin["owner"]]
        for plugin in self.plugins:
            self._check_plugin(plugin, known.get(plugin.id, {}))
        await self._check_store(known)

    def _check_plugin(self, plugin: Plugin, known: Mapping[str, Any]) -> None:
        registered = {each[0] for each in known.get("registrations", ())}
        if plugin.ended:
            assert all(member.host.identities.ended(plugin.id) for member in self.members)
            assert not registered
        if plugin.may_have_ended:
            return
        acknowledged = {i for t, i in plugin.registered.items() if t not in plugin.unsure}
        assert acknowledged <= registered

    async def _check_store(self, known: Mapping[str, Any]) -> None:
        entries = {entry.key for entry in (await self.group.store.load()).entries}
        registry = self.members[0].host.registry
        services = {f"services/{r.service_type}/{p}" for p in known for r in registry.registrations(p)}
        assert {key for key in entries if key.startswith("services/")} == services
        assert {f"hosts/{member.id}" for member in self.members} == {e for e in entries if e[:6] == "hosts/"}
        for service_type in _TYPES:
            assert len(registry.provider_names(service_type)) <= 1


_KINDS = ("join", "register", "unregister", "health", "revoke", "drain", "start", "kill", "stop", "cut",
          "uncertain", "wait", "wait", "join", "register")  # fmt: skip
_STEPS = st.lists(st.tuples(st.sampled_from(_KINDS), st.integers(0, 120)), max_size=40)


async def live(steps: list[tuple[str, int]]) -> None:
    async with hosts() as group, open_plain_nursery() as nursery:
        history = History(group)
        await history.start(0)
        await history.start(0)
        nursery.start_soon(history.beat)
        for kind, number in steps:
            happens: Callable[[int], Awaitable[None]] = getattr(history, kind)
            await happens(number)
            history.look()
        await history.check()
        nursery.cancel_scope.cancel()


@settings(max_examples=60)
@given(_STEPS)
def test_after_quiet_all_hosts_know_the_same_and_nothing_is_lost(steps: list[tuple[str, int]]) -> None:
    trio.run(live, steps, clock=MockClock(autojump_threshold=0))
