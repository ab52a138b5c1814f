"""What an operator sees of hosts that share a directory, at any of them, and does there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import StringIO

import httpx
import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from trio.testing import MockClock

from cpg_trio import __version__
from cpg_trio.cli._output import Output
from cpg_trio.cli._plugins import show_plugin, show_plugins
from cpg_trio.cli._status import show_status
from cpg_trio.host.admin.dashboard import Dashboard
from cpg_trio.host.cluster import Member as Seen
from cpg_trio.plugin import PluginConfig
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.rpc import AsgiTransport, Code, ConnectError
from cpg_trio.store import Commit, StoreError
from tests.host.admin.dashboard.pages import parsed
from tests.host.calls import REPORT
from tests.host.cluster.hosts import TTL_S, Hosts, Member, hosts, id_of, settled
from tests.host.cluster.serving import serving_hosts
from tests.host.test_metrics import Scraped, page_of
from tests.plugin.running import echo_plugin, eventually

LEASE_S = 15.0


async def two(group: Hosts) -> tuple[Member, Member]:
    return (
        await group.start(peer_url="http://a:8080"),
        await group.start(peer_url="http://b:8080"),
    )


def status(member: Member) -> pb.GetStatusResponse:
    return member.host.admin.view.status(pb.GetStatusRequest())


def plugin(member: Member, runtime_id: str) -> pb.Plugin:
    return member.host.admin.view.plugin(pb.GetPluginRequest(plugin=runtime_id)).plugin


def events(member: Member) -> list[str]:
    return [event.text for event in member.host.admin.events if event.kind == pb.EVENT_KIND_HOST]


def metrics(member: Member) -> Mapping[str, float]:
    """Return the metrics of a host that have no labels."""
    registry = CollectorRegistry()
    for collector in member.host._collectors():
        registry.register(collector)
    lines = [line.split() for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    return {words[0]: float(words[1]) for words in lines if words[0].startswith("cpg_trio_")}


async def test_each_host_shows_all_hosts_and_who_owns_each_plugin(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        storage, logger = await a.calls.provider("storage"), await b.calls.provider("logger")
        await b.calls.provider("other")
        await settled()
        told = status(b).directory
        assert [(host.url, host.answers, host.plugins) for host in told.hosts] == [
            ("http://b:8080", True, 2),
            ("http://a:8080", False, 1),
        ]
        assert {host.version for host in told.hosts} == {__version__}
        assert all(host.HasField("since") for host in told.hosts)
        assert (told.store.in_touch, told.store.revision, told.orphans) == (
            True,
            await group.store.revision(),
            0,
        )
        for member in (a, b):
            assert plugin(member, id_of(storage)).host_url == "http://a:8080"
            assert plugin(member, id_of(logger)).host_url == "http://b:8080"
            assert not status(member).problems
        assert plugin(a, id_of(storage)).HasField("last_heard_at")
        assert not plugin(b, id_of(storage)).HasField("last_heard_at")


async def test_hosts_that_come_and_go_and_what_is_adopted_are_events(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        for name in ("x", "y", "z"):
            await a.calls.provider(name)
        await settled()
        await group.kill(a)
        await trio.sleep(TTL_S + 3)
        assert events(b) == [
            "the host is in touch with its store",
            "the host http://a:8080 is gone",
            "the host has adopted 3 plugins that had no host any more",
        ]
        assert metrics(b)["cpg_trio_adoptions_total"] == 3


async def test_a_host_that_is_cut_off_says_so_and_when_it_is_back(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        await settled()
        b.store.cut = True
        await trio.sleep(TTL_S)
        told = status(b)
        assert not told.directory.store.in_touch
        assert told.directory.store.behind.seconds > 0
        [problem] = told.problems
        assert problem.summary.startswith("the host is cut off from ")
        assert told.directory.store.reason in problem.summary
        assert problem.HasField("since")
        assert (metrics(b)["cpg_trio_store_in_touch"], metrics(a)["cpg_trio_store_in_touch"]) == (0, 1)
        assert metrics(b)["cpg_trio_store_behind_seconds"] > 1
        assert not status(a).problems
        b.store.cut = False
        await trio.sleep(TTL_S)
        assert status(b).directory.store.in_touch
        assert not status(b).problems
        first, *lost, back = events(b)
        assert first == back == "the host is in touch with its store"
        assert all(text.startswith("the host is cut off from its store: ") for text in lost)
        assert 1 <= len(lost) <= 2


async def test_plugins_that_nobody_adopts_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def adopt(_: object) -> None:
        raise StoreError("it does not answer this")

    async with hosts() as group:
        a, b = await two(group)
        await a.calls.provider("x")
        await settled()
        cluster, admin = b.host.cluster, b.host.admin.hosts
        assert cluster
        assert admin
        monkeypatch.setattr(cluster._failover, "_adopt", adopt)
        await group.kill(a)
        await trio.sleep(TTL_S + 3)
        assert status(b).directory.orphans == 1
        assert not status(b).problems
        now = admin._wall_clock()
        monkeypatch.setattr(admin, "_wall_clock", lambda: now + 20)
        [problem] = status(b).problems
        assert problem.summary.startswith("1 plugin has no host: theirs is gone for 20 s")
        assert metrics(b)["cpg_trio_plugins_orphaned"] == 1


async def test_hosts_of_different_releases_are_a_problem_once_an_upgrade_should_be_over(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with hosts() as group:
        a, _ = await two(group)
        older = Seen("older", "http://c:8080", "0.0.9")
        await group.store.commit(Commit(puts={older.key: older.value}))
        await settled()
        admin = a.host.admin.hosts
        assert admin
        now = admin._wall_clock()
        assert not status(a).problems
        monkeypatch.setattr(admin, "_wall_clock", lambda: now + 16 * 60)
        [problem] = status(a).problems
        assert problem.summary == (
            f"the hosts are of different releases: 0.0.9 at http://c:8080; {__version__} at http://a:8080,"
            " http://b:8080"
        )
        await group.store.commit(Commit(deletes=[older.key]))
        await settled()
        assert not status(a).problems


async def test_the_page_of_metrics_has_those_of_several_hosts(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        storage = await a.calls.provider("t")
        await settled()
        told = metrics(b)
        assert (told["cpg_trio_hosts"], told["cpg_trio_plugins_owned"]) == (2, 0)
        assert metrics(a)["cpg_trio_store_commits_total"] > 0
        registry = CollectorRegistry()
        for collector in b.host._collectors():
            registry.register(collector)
        exposed = Scraped(generate_latest(registry).decode()).types
        missing = page_of("Of one of several hosts").items() - exposed.items()
        assert {name for name, _ in missing} == {"cpg_trio_forwarded_calls_total"}  # none was forwarded yet
        assert {name for name in told if "store" in name} <= page_of("Of one of several hosts").keys()
    assert storage


# Actions


async def test_a_drain_at_any_host_holds_at_each_and_so_does_its_end(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        storage = await a.calls.provider("t")
        await settled()
        for drains, undrains in ((a, a), (b, b), (a, b), (b, a)):
            await drains.host.admin.actions.drain(id_of(storage), reason="new disk", actor="me")
            await settled()
            for member in (a, b):
                assert not member.is_callable(storage)
                shown = plugin(member, id_of(storage))
                assert (shown.state, shown.reason) == (pb.PLUGIN_STATE_DRAINING, "drained by me: new disk")
            late = await group.start()
            assert not late.is_callable(storage)
            await group.shut_down(late)
            await undrains.host.admin.actions.drain(id_of(storage), undo=True, actor="me")
            await settled()
            assert a.is_callable(storage)
            assert b.is_callable(storage)


async def test_a_drain_that_cannot_be_written_is_refused_and_undone(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        storage = await a.calls.provider("t")
        await settled()
        b.store.cut = True
        await trio.sleep(TTL_S)
        with pytest.raises(ConnectError) as refused:
            await b.host.admin.actions.drain(id_of(storage), actor="me")
        assert refused.value.code is Code.UNAVAILABLE
        assert not b.host.registry.is_drained(id_of(storage))
        b.store.cut = False
        await trio.sleep(TTL_S)
        assert a.is_callable(storage)
        assert b.is_callable(storage)


async def test_a_plugin_is_revoked_at_any_host(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        storage = await a.calls.provider("t")
        await settled()
        await b.host.admin.actions.revoke(id_of(storage), reason="stolen", actor="me")
        await settled()
        for member in (a, b):
            shown = plugin(member, id_of(storage))
            assert (shown.state, shown.reason) == (pb.PLUGIN_STATE_GONE, "revoked by me: stolen")


async def test_a_plugin_is_told_to_stop_by_any_host() -> None:
    stopped = trio.Event()

    async def run(url: str) -> None:
        await echo_plugin().serve(config=PluginConfig(host_url=url, hostname="127.0.0.1"))
        stopped.set()

    async with serving_hosts() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(run, a.url)
        await eventually(lambda: b.host.registry.provides("echo"))
        await b.host.admin.actions.shut_down("echo-plugin", grace_s=1, actor="me")
        with trio.fail_after(10):
            await stopped.wait()
        assert not b.host._forwarding.forwarded  # it asks the plugin itself


async def test_calls_that_are_forwarded_are_counted() -> None:
    async with serving_hosts() as (a, b):
        me = await a.calls.provider("t")
        for _ in range(3):
            assert (await b.calls.post(REPORT, {"state": "HEALTH_STATE_HEALTHY"}, me))[0] == 200
        a.stop.set()
        registry = CollectorRegistry()
        for collector in b.host._collectors():
            registry.register(collector)
        shown = Scraped(generate_latest(registry).decode())
        assert shown["cpg_trio_forwarded_calls_total"] == {"code=ok": 3}
        assert (
            shown.types["cpg_trio_forwarded_calls_total"]
            == page_of("Of one of several hosts")["cpg_trio_forwarded_calls_total"]
        )


# How it is shown


async def test_commands_show_the_hosts_the_store_and_the_owners(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        storage = await a.calls.provider("t")
        await settled()
        out = StringIO()
        show_status(status(b), Output(out))
        listed = b.host.admin.view.plugins(pb.ListPluginsRequest())
        show_plugins(listed.plugins, Output(out))
        show_plugin(b.host.admin.view.plugin(pb.GetPluginRequest(plugin=id_of(storage))), Output(out))
        text = out.getvalue()
        assert re.search(rf"hosts +http://b:8080   {__version__}   0 plugins +for 0 s +answers\n", text)
        assert re.search(rf" +http://a:8080   {__version__}   1 plugin +for 0 s\n", text)
        assert "in touch, revision" in text
        assert "HOST" in text
        assert re.search(r"  host +http://a:8080\n", text)
        b.store.cut = True
        await trio.sleep(TTL_S)
        out = StringIO()
        show_status(status(b), Output(out))
        assert "not in touch for" in out.getvalue()


async def test_pages_show_the_hosts_the_store_and_the_owners(autojump_clock: MockClock) -> None:
    async with hosts() as group:
        a, b = await two(group)
        storage = await a.calls.provider("t")
        await settled()
        admin = b.host.admin
        transport = AsgiTransport(Dashboard(admin.view, admin.events, admin.actions, admin.managed_actions))
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as http:
            overview = parsed((await http.get("/")).text).one(id="hosts")
            assert "http://b:8080 this one" in overview.text
            assert "http://a:8080" in overview.text
            assert "in touch, revision" in overview.text
            page = parsed((await http.get(f"/plugins/{id_of(storage)}")).text)
            assert "hosthttp://a:8080" in page.one(id="plugin_facts").text
