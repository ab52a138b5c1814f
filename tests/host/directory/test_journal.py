"""The journal in a store that hosts share: who writes what, what conflicts, what follows a failure."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cpg_trio import HealthState
from cpg_trio.host.access import AccessCheck, Audit, Identities, Identity, Keys, Policy, RefusedError
from cpg_trio.host.access.policy import Rules, ServiceRules
from cpg_trio.host.directory import Health, Journal, RegistrationPolicy, Registry
from cpg_trio.host.directory.documents import decode, decode_ended
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.store import MAX_OPERATIONS, MAX_VALUE_BYTES, Commit, MemoryStore, StoreError

KEYS = Keys(["k" * 32])


class UnsteadyStore(MemoryStore):
    """Fails when it is told to: before a commit is done, or after it."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = ""
        self.commits = 0

    async def commit(self, commit: Commit) -> int:
        self.commits += 1
        if self.fails == "before":
            raise StoreError("no answer")
        revision = await super().commit(commit)
        if self.fails == "after":
            raise StoreError("no answer")
        return revision

    async def value(self, key: str) -> Any:
        found = await self.load(key)
        return json.loads(found.entries[0].value) if found.entries else None

    async def keys(self, prefix: str = "") -> list[str]:
        return [entry.key for entry in (await self.load(prefix)).entries]


class Member:
    """A host of a directory, as far as its journal is concerned."""

    def __init__(self, store: MemoryStore, name: str, rules: Rules | None = None) -> None:
        self.identities, self.registry = Identities(KEYS), Registry()
        self.registry._name_of = self.identities.name_of
        self.others: set[str] = set()
        self.away = ""
        self.expects: dict[str, int] = {}
        policy = Policy(rules or Rules())
        access = AccessCheck(self.identities, policy=policy)
        self.journal = Journal(
            store,
            self.identities,
            self.registry,
            RegistrationPolicy(access, self.identities, self.registry, policy, Audit()),
            owner=name,
            owns=lambda runtime_id: runtime_id not in self.others,
            fence=self._fence,
        )

    def _fence(self) -> Mapping[str, int]:
        if self.away:
            raise StoreError(self.away)
        return self.expects

    async def plugin(self, self_id: str = "p") -> Identity:
        identity, _ = self.identities.issue(self_id)
        await self.journal.saved(identity.runtime_id, lambda: self.identities.forget(identity.runtime_id))
        return identity

    async def register(self, plugin: Identity, service_type: str) -> None:
        registration = self.registry.register(plugin.runtime_id, service_type, "1.0.0", "/", {})

        def undo() -> None:
            self.registry.unregister(plugin.runtime_id, registration.id)

        await self.journal.saved(plugin.runtime_id, undo)

    async def saved(self, plugin: Identity) -> None:
        await self.journal.saved(plugin.runtime_id, lambda: None)


@asynccontextmanager
async def member(store: MemoryStore, name: str = "a", rules: Rules | None = None) -> AsyncIterator[Member]:
    made = Member(store, name, rules)
    async with made.journal.opened():
        yield made


async def test_a_document_has_all_of_its_plugin_and_its_services_are_known_by_name() -> None:
    store = UnsteadyStore()
    async with member(store) as a:
        plugin = await a.plugin("P")
        await a.register(plugin, "t")
        a.registry.report_health(plugin.runtime_id, Health(HealthState.DEGRADED, "of a reason", ("u",)))
        a.registry.set_lapsed(plugin.runtime_id, "silent")
        a.registry.drain(plugin.runtime_id, "of an update")
        await a.saved(plugin)
        (entry,) = (await store.load("plugins/")).entries
        document = decode(plugin.runtime_id, entry.value, a.journal.seals)
        assert (document.owner, document.identity, document.lapsed) == ("a", plugin, "silent")
        assert document.health == Health(HealthState.DEGRADED, "of a reason", ("u",))
        assert [each.service_type for each in document.registrations] == ["t"]
        assert await store.value(f"drained/{plugin.runtime_id}") == {"why": "of an update"}
        (service,) = (await store.load("services/")).entries
        assert (service.key, service.value) == (f"services/t/{plugin.runtime_id}", b"P")
        assert a.journal.known(plugin.runtime_id) == entry.revision
        a.registry.undrain(plugin.runtime_id)
        a.registry.remove_plugin(plugin.runtime_id)
        await a.saved(plugin)
        assert await store.keys() == [f"plugins/{plugin.runtime_id}"]
        a.identities.revoke(plugin.runtime_id, "of a test")
        await a.saved(plugin)
        (ended,) = (await store.load()).entries
        assert ended.key == f"ended/{plugin.runtime_id}"
        assert decode_ended(plugin.runtime_id, ended.value).why == "of a test"


async def test_a_service_belongs_to_one_name_and_only_its_registration_is_refused() -> None:
    store = UnsteadyStore()
    async with member(store, "a") as a, member(store, "b") as b:
        await a.register(await a.plugin("one"), "t")
        again, other, third = await b.plugin("one"), await b.plugin("two"), await b.plugin("three")
        refused: list[RefusedError] = []

        async def try_it() -> None:
            with pytest.raises(RefusedError) as caught:
                await b.register(other, "t")
            refused.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.register, again, "t")
            nursery.start_soon(try_it)
            nursery.start_soon(b.register, third, "u")
        (error,) = refused
        assert error.code == Code.PERMISSION_DENIED
        assert error.message == "t is provided by one, and no policy says that two may, too"
        assert error.retry_after_s
        assert [r.runtime_id for r in b.registry.providers("t")] == [again.runtime_id]
        assert len(await store.keys("services/t/")) == 2
        assert await store.keys("services/u/") == [f"services/u/{third.runtime_id}"]


async def test_who_was_refused_is_not_refused_what_it_asks_for_next() -> None:
    store = UnsteadyStore()
    async with member(store, "a") as a, member(store, "b") as b:
        await a.register(await a.plugin("one"), "t")
        other = await b.plugin("two")
        with pytest.raises(RefusedError):
            await b.register(other, "t")
        await b.register(other, "u")
        assert await store.keys("services/u/") == [f"services/u/{other.runtime_id}"]


async def test_what_is_sealed_is_forgotten_with_its_plugin() -> None:
    store = UnsteadyStore()
    async with member(store) as a:
        for _ in range(150):
            plugin = await a.plugin()
            with a.journal.applying(plugin.runtime_id):
                a.identities.forget(plugin.runtime_id)
        assert len(a.journal.records._sealed) <= 101


async def test_a_policy_lets_several_names_provide_a_service() -> None:
    store, rules = UnsteadyStore(), Rules(services={"t": ServiceRules(providers=["one", "two"])})
    async with member(store, "a", rules) as a, member(store, "b", rules) as b:
        await a.register(await a.plugin("one"), "t")
        await b.register(await b.plugin("two"), "t")
    assert len(await store.keys("services/t/")) == 2


async def test_what_another_host_has_changed_is_not_overwritten_and_the_rest_of_the_commit_is_written() -> (
    None
):
    store = UnsteadyStore()
    async with member(store) as a:
        taken, gone, mine = await a.plugin(), await a.plugin(), await a.plugin()
        document = await store.value(f"plugins/{taken.runtime_id}")
        adopted = json.dumps({**document, "owner": "b"}).encode()
        await store.commit(
            Commit(puts={f"plugins/{taken.runtime_id}": adopted}, deletes=[f"plugins/{gone.runtime_id}"])
        )
        refused: list[Code] = []

        async def try_it(plugin: Identity) -> None:
            with pytest.raises(ConnectError) as caught:
                await a.register(plugin, "t")
            refused.append(caught.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(try_it, taken)
            nursery.start_soon(try_it, gone)
            nursery.start_soon(a.register, mine, "t")
        assert refused == [Code.UNAVAILABLE] * 2
        assert await store.value(f"plugins/{taken.runtime_id}") == json.loads(adopted)
        assert await store.keys("services/") == [f"services/t/{mine.runtime_id}"]
        assert [r.runtime_id for r in a.registry.providers("t")] == [mine.runtime_id]
        assert not a.journal.why_unsaved


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_a_commit_that_may_have_been_done_is_looked_at_before_the_next(
    fails: str, mock_clock: MockClock
) -> None:
    store = UnsteadyStore()
    async with member(store) as a:
        plugin = await a.plugin()
        store.fails = fails
        with pytest.raises(ConnectError):
            await a.register(plugin, "t")
        assert not a.registry.provides("t")
        assert a.journal.why_unsaved
        commits = store.commits
        with pytest.raises(ConnectError):  # at once: nothing is tried
            await a.register(plugin, "t")
        assert store.commits == commits
        store.fails = ""
        await wait_all_tasks_blocked()
        mock_clock.jump(1.1)
        await wait_all_tasks_blocked(0.01)
        assert not a.journal.why_unsaved
        assert await store.keys("services/") == []
        assert (await store.value(f"plugins/{plugin.runtime_id}"))["registrations"] == []
        await a.register(plugin, "t")
        assert await store.keys("services/") == [f"services/t/{plugin.runtime_id}"]
        assert a.journal.known(plugin.runtime_id) == (await store.load("plugins/")).entries[0].revision


async def test_a_host_that_may_not_write_refuses_at_once_and_one_that_was_away_writes_nothing() -> None:
    store = UnsteadyStore()
    async with member(store) as a:
        plugin = await a.plugin()
        a.away, commits = "cut off", store.commits
        with pytest.raises(ConnectError, match="nothing has changed"):
            await a.register(plugin, "t")
        assert store.commits == commits
        a.away, a.expects = "", {"hosts/a": 7}
        with pytest.raises(ConnectError, match="nothing has changed"):
            await a.register(plugin, "t")
        assert await store.keys("services/") == []


async def test_a_revocation_is_written_by_a_host_that_may_write_nothing_else(
    autojump_clock: MockClock,
) -> None:
    store = UnsteadyStore()
    async with member(store) as a:
        revoked, other = await a.plugin("revoked"), await a.plugin("other")
        a.away = "it is stopping"
        a.registry.register(other.runtime_id, "t", "1.0.0", "/", {})
        a.identities.revoke(revoked.runtime_id)
        with pytest.raises(ConnectError):
            await a.saved(revoked)
        await trio.sleep(2)
        assert await store.keys("ended/") == [f"ended/{revoked.runtime_id}"]
        assert not await store.keys("services/")


async def test_any_host_revokes_and_drains_and_a_plugin_that_has_ended_leaves_nothing_behind() -> None:
    store = UnsteadyStore()
    async with member(store, "a") as a, member(store, "b") as b:
        plugin = await a.plugin()
        b.others.add(plugin.runtime_id)
        entry = a.identities.entry(plugin.runtime_id)
        assert entry
        with b.journal.applying(plugin.runtime_id):
            b.identities.restore(entry)
        (found,) = (await store.load("plugins/")).entries
        assert b.journal.applied(found.key, found.revision, found.value)
        b.registry.drain(plugin.runtime_id, "of b")
        await b.saved(plugin)
        assert await store.keys("drained/") == [f"drained/{plugin.runtime_id}"]
        await a.register(plugin, "t")  # b has not heard of it
        b.identities.revoke(plugin.runtime_id)
        await b.saved(plugin)
        assert await store.keys() == [f"ended/{plugin.runtime_id}"]
        with pytest.raises(ConnectError):
            await a.register(plugin, "u")
        assert await store.keys() == [f"ended/{plugin.runtime_id}"]


async def test_an_end_that_others_are_always_faster_than_is_written_in_the_end(mock_clock: MockClock) -> None:
    class Busy(UnsteadyStore):
        """Its plugins change before each commit."""

        is_busy = False

        async def commit(self, commit: Commit) -> int:
            for entry in (await self.load("plugins/")).entries if self.is_busy else ():
                await MemoryStore.commit(self, Commit(puts={entry.key: entry.value}))
            return await super().commit(commit)

    store = Busy()
    async with member(store) as a:
        plugin = await a.plugin()
        store.is_busy = True
        a.others.add(plugin.runtime_id)
        a.identities.revoke(plugin.runtime_id)
        with pytest.raises(ConnectError):
            await a.saved(plugin)
        store.is_busy = False
        await wait_all_tasks_blocked()
        mock_clock.jump(1.1)
        await wait_all_tasks_blocked(0.01)
        assert await store.keys() == [f"ended/{plugin.runtime_id}", "not_before"]


async def test_what_another_host_owns_is_neither_written_nor_deleted_when_it_expires(
    mock_clock: MockClock,
) -> None:
    store = UnsteadyStore()
    async with member(store, "a") as a, member(store, "b") as b:
        plugin = await a.plugin()
        entry = a.identities.entry(plugin.runtime_id)
        assert entry
        b.others.add(plugin.runtime_id)
        b.identities.restore(entry)
        commits = store.commits
        b.identities.renew(plugin)
        await b.saved(plugin)
        mock_clock.jump(2 * 86400)
        assert not b.identities.holds(plugin)
        await b.saved(plugin)
        assert store.commits == commits
        assert await store.keys() == [f"plugins/{plugin.runtime_id}"]


async def test_what_is_followed_is_news_unless_this_host_has_written_it_or_has_written_since() -> None:
    store = UnsteadyStore()
    async with member(store) as a:
        plugin = await a.plugin()
        key = f"drained/{plugin.runtime_id}"
        a.registry.drain(plugin.runtime_id, "x")
        await a.saved(plugin)
        drained = await store.revision()
        a.registry.undrain(plugin.runtime_id)
        await a.saved(plugin)
        undrained = await store.revision()
        assert not a.journal.applied(key, drained, b"{}")
        assert not a.journal.applied(key, undrained, None)
        assert a.journal.applied(key, undrained + 1, b"{}")
        assert not a.journal.applied(key, undrained + 1, b"{}")
        assert a.journal.applied(key, undrained + 2, None)
        assert not a.journal.applied(f"plugins/{plugin.runtime_id}", 2, b"{}")


async def test_what_is_followed_before_its_commit_is_answered_is_no_news() -> None:
    class Follows(UnsteadyStore):
        told: list[bool]

        async def commit(self, commit: Commit) -> int:
            revision = await super().commit(commit)
            self.told = [a.journal.applied(key, revision, value) for key, value in commit.puts.items()]
            self.told += [a.journal.applied(key, revision, None) for key in commit.deletes]
            return revision

    store = Follows()
    async with member(store) as a:
        plugin = await a.plugin()
        await a.register(plugin, "t")
        assert store.told == [False, False]
        a.registry.remove_plugin(plugin.runtime_id)
        await a.saved(plugin)
        assert store.told == [False, False]
        assert a.journal.known(plugin.runtime_id) == await store.revision()
        commits = store.commits
        await a.saved(plugin)
        assert store.commits == commits


async def test_of_two_times_from_which_tokens_count_the_later_one_is_kept() -> None:
    store = UnsteadyStore()
    async with member(store, "a") as a, member(store, "b") as b:
        a.identities.not_before, b.identities.not_before = 1000.5, 2000.5
        await b.plugin()
        await a.plugin()
        assert await store.value("not_before") == 2000.5
        (entry,) = (await store.load("not_before")).entries
        a.journal.applied(entry.key, entry.revision, entry.value)
        assert a.identities.not_before == 2000.5
        b.journal.applied(entry.key, entry.revision + 1, b"7.5")
        await b.journal.saved("", lambda: None)
        assert await store.value("not_before") == 2000.5


async def test_more_of_one_plugin_than_a_store_has_room_for_is_refused_and_others_are_written() -> None:
    store = UnsteadyStore()
    async with member(store) as a:
        many, large, other = await a.plugin(), await a.plugin(), await a.plugin()
        first = a.registry.register(many.runtime_id, "t", "1.0.0", "/", {})
        for number in range(MAX_OPERATIONS):  # whatever LIMITS says
            a.registry.restore(attrs.evolve(first, id=f"{number}", service_type=f"t{number}"))
        with pytest.raises(ConnectError, match="no room for as much of one plugin") as caught:
            await a.journal.saved(many.runtime_id, lambda: a.registry.remove_plugin(many.runtime_id))
        assert caught.value.code == Code.RESOURCE_EXHAUSTED
        second = a.registry.register(large.runtime_id, "l", "1.0.0", "/", {})
        a.registry.restore(attrs.evolve(second, metadata={"a": "x" * MAX_VALUE_BYTES}))
        with pytest.raises(ConnectError, match="no room for as much of one plugin"):
            await a.journal.saved(large.runtime_id, lambda: a.registry.remove_plugin(large.runtime_id))
        await a.register(other, "o")
        assert await store.keys("services/") == [f"services/o/{other.runtime_id}"]


async def test_a_registration_that_nobody_waits_for_is_taken_out_where_the_service_is_anothers() -> None:
    store = UnsteadyStore()
    async with member(store, "a") as a, member(store, "b") as b:
        await a.register(await a.plugin("one"), "t")
        other = await b.plugin("two")
        b.registry.register(other.runtime_id, "t", "1.0.0", "/", {})
        await b.saved(await b.plugin("three"))
        assert not b.registry.provides("t")
        await b.saved(other)
        assert await store.keys(f"services/t/{other.runtime_id}") == []


async def test_an_own_document_of_another_revision_is_written_again() -> None:
    store = UnsteadyStore()
    async with member(store) as a:
        plugin = await a.plugin()
        key = f"plugins/{plugin.runtime_id}"
        (entry,) = (await store.load(key)).entries
        await store.commit(Commit(puts={key: entry.value}))  # nobody has told of it
        await a.register(plugin, "t")
        assert [each["service_type"] for each in (await store.value(key))["registrations"]] == ["t"]


async def test_a_document_that_cannot_be_read_is_not_overwritten() -> None:
    store = UnsteadyStore()
    async with member(store) as a:
        plugin = await a.plugin()
        key = f"plugins/{plugin.runtime_id}"
        await store.commit(Commit(puts={key: b"7"}))
        with pytest.raises(ConnectError, match="another host has changed this plugin"):
            await a.register(plugin, "t")
        assert await store.value(key) == 7


@pytest.mark.parametrize("value", [b"{}", b"\xff", b"[" * 100_000])
async def test_a_time_that_cannot_be_read_is_written_again(value: bytes) -> None:
    store = UnsteadyStore()
    async with member(store) as a:
        await store.commit(Commit(puts={"not_before": value}))
        a.identities.not_before = 7.0
        plugin = await a.plugin()
        assert await store.value("not_before") == 7.0
        await store.commit(Commit(puts={f"plugins/{plugin.runtime_id}": value}))
        with pytest.raises(ConnectError, match="another host has changed this plugin"):
            await a.register(plugin, "t")


async def test_two_names_for_one_service_at_one_host_are_committed_one_after_the_other() -> None:
    store = UnsteadyStore()
    async with member(store) as a:
        plugins = [await a.plugin("one"), await a.plugin("two")]
        for plugin in plugins:
            a.registry.register(plugin.runtime_id, "t", "1.0.0", "/", {})
        await a.saved(plugins[0])
        assert await store.keys("services/") == [f"services/t/{plugins[0].runtime_id}"]
        assert [r.runtime_id for r in a.registry.providers("t")] == [plugins[0].runtime_id]
