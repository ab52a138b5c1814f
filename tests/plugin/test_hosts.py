"""A plugin with several hosts: which one it uses, when it moves to another one, and what does not fail."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cpg_trio import wire
from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.calls import CallPolicy, Retry
from cpg_trio.host import Capability, Host, HostConfig, LeaseConfig
from cpg_trio.host.services.lifecycle import Lifecycle
from cpg_trio.http import Pool, ServeConfig
from cpg_trio.plugin import Dependency, Plugin, PluginConfig, connect, parse_host_urls
from cpg_trio.plugin._dependencies import Dependencies
from cpg_trio.plugin._hosts import BY_URL, Hosts
from cpg_trio.plugin._session import Session
from cpg_trio.plugin.discovery import _Socket
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as watch
from cpg_trio.rpc import Context
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.routed import silent_address
from tests.names import Names
from tests.plugin.fronts import Front, fronted, urls_of
from tests.plugin.running import (
    HEALTHY,
    echo_plugin,
    error,
    eventually,
    goes_directly,
    grant_of,
    hosting,
    meddled,
    plugged,
    state_of,
    until,
    unused_port,
)
from tests.plugin.test_capability import _until_registered
from tests.rpc.echo import Echo

REPORT = "/connectplugin.v1.PluginLifecycle/ReportHealth"
A, B, C = "http://a.test:1", "http://b.test:1", "http://c.test:1"


def hosts_of(*urls: str) -> Hosts:
    return Hosts(urls, Pool(), owner="p")


# Names


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://a:1", ("http://a:1",)),
        ("http://a:1/, https://b:2/x/", ("http://a:1", "https://b:2/x")),
        ("http://a:1,http://a:1/", ("http://a:1",)),
    ],
)
def test_a_list_of_hosts_has_commas_between(text: str, urls: Sequence[str]) -> None:
    assert parse_host_urls(text) == urls


@pytest.mark.parametrize("text", ["", "http://a:1,", "http://a:1,b", "a"])
def test_a_list_with_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a base URL"):
        parse_host_urls(text)
    with pytest.raises(ValueError, match="a base URL"):
        PluginConfig(host_url=text)


def test_plugins_spread_over_the_hosts() -> None:
    assert {hosts_of(A, B, C).current.url for _ in range(100)} == {A, B, C}


async def test_each_address_of_a_name_is_a_host_and_a_name_with_one_is_connected_to_as_it_says(
    names: Names,
) -> None:
    names.known = {"a.test": ["192.0.2.1", "192.0.2.2"], "b.test": ["192.0.2.3"]}
    hosts = hosts_of(A, B)
    await hosts.look_up()
    found = set()
    for _ in range(3):
        found.add(hosts.current.key)
        hosts.current.failed("gone")
    assert found == {(A, ("192.0.2.1",)), (A, ("192.0.2.2",)), (B, BY_URL)}


async def test_a_name_that_cannot_be_looked_up_keeps_its_addresses(names: Names) -> None:
    names.known = {"a.test": ["192.0.2.1", "192.0.2.2"]}
    hosts = hosts_of(A)
    await hosts.look_up()
    names.known, names.fails = {}, OSError("not known")
    await hosts.look_up()
    assert hosts.several


async def test_names_are_looked_up_again_when_a_host_was_left_and_a_new_address_is_used(
    names: Names,
) -> None:
    names.known = {"a.test": ["192.0.2.1", "192.0.2.2"]}
    async with Pool() as pool, trio.open_nursery() as nursery:
        hosts = Hosts([A], pool)
        await hosts.look_up()
        hosts.current.answered(welcome=True)
        nursery.start_soon(hosts.keep)
        names.known = {"a.test": ["127.0.0.3", "127.0.0.4"]}
        hosts.current.failed("gone")
        await eventually(lambda: hosts.current.addresses[0].startswith("127"))
        nursery.cancel_scope.cancel()


# Moves


async def test_a_host_that_fails_is_left_for_the_one_that_has_failed_the_longest_ago(
    autojump_clock: MockClock,
) -> None:
    hosts, left = hosts_of(A, B, C), []
    for _ in range(6):
        left.append(hosts.current.url)
        hosts.current.failed("gone")
        await trio.sleep(1)
    assert set(left[:3]) == {A, B, C}
    assert left[3:] == left[:3]


async def test_what_is_found_of_a_host_that_was_left_moves_nobody() -> None:
    hosts = hosts_of(A, B)
    first = hosts.current
    for _ in range(3):
        first.failed("gone")
        first.silent("silent")
        first.dismissed("stopping")
    assert hosts.current.url != first.url
    assert hosts.moved == 1


async def test_only_when_all_have_failed_can_no_host_be_reached() -> None:
    hosts = hosts_of(A, B)
    hosts.current.failed("gone")
    assert (hosts.link.trouble, hosts.promising) == ("", True)
    hosts.current.failed("gone, too")
    assert (hosts.link.trouble, hosts.promising) == ("gone, too", False)


async def test_a_host_that_is_alone_may_be_slow_and_may_fail_and_is_not_left() -> None:
    hosts = hosts_of(A)
    hosts.current.silent("slow")
    hosts.current.dismissed("stopping")
    assert hosts.link.trouble == ""
    hosts.current.failed("gone")
    assert hosts.link.trouble == "gone"
    assert (hosts.moved, hosts.patience_s(5.0, 1.0)) == (0, 5.0)


async def test_where_all_hosts_send_their_plugins_elsewhere_plugins_stay_for_a_while(
    autojump_clock: MockClock,
) -> None:
    hosts = hosts_of(A, B, C)
    for _ in range(100):
        hosts.current.dismissed("cut off")
        hosts.current.answered()
        await trio.sleep(1)
    assert 3 <= hosts.moved <= 8  # to each of the others at first, and then once in a while


async def test_behind_a_balancer_plugins_that_are_sent_elsewhere_connect_anew_now_and_then(
    autojump_clock: MockClock,
) -> None:
    hosts = hosts_of(A)
    first = hosts.current
    for _ in range(100):
        hosts.current.dismissed("cut off", anew=True)
        await trio.sleep(1)
    assert hosts.current is not first
    assert 1 <= hosts.moved <= 4


async def test_a_host_that_is_well_again_is_as_good_as_any() -> None:
    hosts = hosts_of(A, B)
    hosts.current.failed("gone")
    hosts.current.failed("gone")
    hosts.current.answered(welcome=True)
    assert hosts.promising


async def test_a_move_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    hosts = hosts_of(A, B)
    first, second = hosts.current.url, ({A, B} - {hosts.current.url}).pop()
    hosts.current.failed("connection refused")
    assert caplog.messages == [f"p moves from {first} to {second}: connection refused"]


# Plugins


LEASES = LeaseConfig(lease_s=6.0)


def caller_of(**policy: Any) -> tuple[Plugin, Dependency]:
    plugin = Plugin("caller", version="1.0.0")
    return plugin, plugin.require("echo", policy=CallPolicy(**policy))


def used(fronts: list[Front]) -> Front:
    """Return the only front that has connections."""
    (front,) = [each for each in fronts if each.opened]
    return front


async def said(client: EchoServiceClient) -> str:
    return (await client.echo(EchoRequest(text="x"))).text


async def test_a_plugin_uses_the_first_host_that_answers_and_stays_there(virtual_time: MockClock) -> None:
    plugin, echo = caller_of()
    async with hosting(HostConfig(leases=LEASES)) as (_, url), fronted(url, 3) as fronts:
        await fronts[0].close()
        fronts[1].freeze()
        async with plugged(echo_plugin(), url), plugged(plugin, urls_of(fronts), heartbeat_s=None):
            await echo.wait_available()
            opened = [front.opened for front in fronts[:2]]
            await trio.sleep(8)
            assert [front.opened for front in fronts[:2]] == opened
            assert await said(echo.client(EchoServiceClient)) == "x"
            assert fronts[2].opened


async def test_a_host_that_drops_all_packets_holds_a_start_up_for_a_moment(
    virtual_time: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "shuffle", lambda _: None)
    async with hosting() as (host, url), silent_address() as silent:
        began_at = trio.current_time()
        async with plugged(echo_plugin(), f"{silent},{url}"):
            await until(host, lambda: state_of(host, "echo") == HEALTHY)
            assert trio.current_time() - began_at < 2.5


async def test_a_plugin_moves_between_the_addresses_of_a_name(names: Names) -> None:
    plugin, echo = caller_of()
    port = unused_port()
    config = HostConfig(serve=ServeConfig(allowed_hosts=["hosts.test"]))
    async with hosting(config) as (_, url), fronted(url, 3, port=port) as fronts:
        names.known = {"hosts.test": [front.address for front in fronts[:2]]}
        async with (
            plugged(echo_plugin(), url),
            plugged(plugin, f"http://hosts.test:{port}", heartbeat_s=None),
        ):
            await echo.wait_available()
            client, first = echo.client(EchoServiceClient), used(fronts)
            second = next(front for front in fronts[:2] if front is not first)
            assert await said(client) == "x"
            names.known = {"hosts.test": [second.address, fronts[2].address]}
            await first.close()
            assert await said(client) == "x"
            assert second.opened
            await eventually(lambda: len(names.asked) >= 2)
            await second.close()
            assert await said(client) == "x"
            assert fronts[2].opened


async def test_when_its_host_is_gone_a_plugin_is_at_another_one_as_who_it_was_and_no_call_fails(
    virtual_time: MockClock,
) -> None:
    plugin, echo = caller_of()
    plugin.provide("other", Echo())
    async with (
        hosting(HostConfig(leases=LEASES)) as (host, url),
        fronted(url) as fronts,
        plugged(echo_plugin(), url),
        plugged(plugin, urls_of(fronts), heartbeat_s=None),
    ):
        await echo.wait_available()
        await until(host, lambda: state_of(host, "other") == HEALTHY)
        session, client = echo._service.link.session, echo.client(EchoServiceClient)
        assert session is not None
        assert await said(client) == "x"
        gone = went_away(host, "other")
        await used(fronts).close()
        assert [await said(client) for _ in range(10)] == ["x"] * 10
        assert echo._service.states.value.available
        await trio.sleep(12)
        assert echo._service.link.session is session
        assert not session.void.is_set()
        assert not any(gone)
        async with plugged(echo_plugin(), url):  # which it is told of, so that the watch has moved, too
            await eventually(lambda: len(echo._service.providers.value) == 2)


def went_away(host: Host, service_type: str) -> list[bool]:
    """Return a list that has, for each change of the registry from now on, whether nobody is available."""
    gone: list[bool] = []
    host.registry.changes.add(lambda _: gone.append(not host.registry.available(service_type)))
    return gone


async def test_a_report_reaches_the_third_host_in_time_when_two_are_silent(virtual_time: MockClock) -> None:
    async with (
        hosting(HostConfig(leases=LeaseConfig(lease_s=15.0))) as (host, url),
        fronted(url, 3) as fronts,
        plugged(echo_plugin(), urls_of(fronts), heartbeat_s=None),
    ):
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        host._prober.probe = no_probe  # type: ignore[method-assign]
        gone = went_away(host, "echo")
        first = used(fronts)
        others = [front for front in fronts if front is not first]
        for front in (first, others[0]):
            front.freeze()
        await trio.sleep(35)
        assert not any(gone)
        assert others[1].opened


async def no_probe(runtime_id: str) -> bool:
    return False


async def test_calls_in_flight_at_a_host_that_is_silent_end_and_those_that_may_run_twice_do_not_fail(
    virtual_time: MockClock,
) -> None:
    plugin, echo = caller_of(retry=Retry(idempotent=True), timeout_s=60.0)
    async with (
        hosting(HostConfig(leases=LEASES)) as (_, url),
        fronted(url) as fronts,
        plugged(echo_plugin(), url),
        plugged(plugin, urls_of(fronts), heartbeat_s=None),
    ):
        await echo.wait_available()
        client = echo.client(EchoServiceClient)
        assert await said(client) == "x"
        used(fronts).freeze()
        began_at = trio.current_time()
        assert await said(client) == "x"
        assert trio.current_time() - began_at < LEASES.lease_s


async def test_what_a_slow_host_has_in_flight_goes_on_when_its_plugin_moves(
    virtual_time: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin, echo = caller_of(timeout_s=60.0)
    held, provider = HeldEcho(), Plugin("echo-plugin", version="1.0.0")
    provider.provide("echo", held)
    report = Lifecycle.report_health

    async def answer_late(service: Lifecycle, request: Any, ctx: Context, /) -> Any:
        if held.begun.is_set() and not session_of(echo).hosts.moved:
            await trio.sleep(4)
        return await report(service, request, ctx)

    monkeypatch.setattr(Lifecycle, "report_health", answer_late)
    async with (
        hosting(HostConfig(leases=LEASES)) as (_, url),
        fronted(url) as fronts,
        plugged(provider, url),
        plugged(plugin, urls_of(fronts), heartbeat_s=None),
        trio.open_nursery() as nursery,
    ):
        await echo.wait_available()
        answers, client = list[str](), echo.client(EchoServiceClient)

        async def call() -> None:
            answers.append(await said(client))

        nursery.start_soon(call)
        await eventually(lambda: session_of(echo).hosts.moved)
        await trio.sleep(5)
        held.release.set()
        await eventually(lambda: answers == ["x"])


def session_of(dependency: Dependency) -> Session:
    session = dependency._service.link.session
    assert session is not None
    return session


class HeldEcho(Echo):
    """Answers when it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.release = trio.Event(), trio.Event()

    async def echo(self, request: pb.EchoRequest, ctx: Context, /) -> pb.EchoResponse:
        self.begun.set()
        await self.release.wait()
        return await super().echo(request, ctx)


async def test_a_plugin_leaves_a_host_that_sends_it_elsewhere(
    virtual_time: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    report, sent = Lifecycle.report_health, list[str]()

    async def send_elsewhere(self: Lifecycle, request: Any, ctx: Context, /) -> Any:
        answer = await report(self, request, ctx)
        if not sent:
            sent.append("away")
            ctx.response_headers[wire.ELSEWHERE_HEADER] = "true"
        return answer

    monkeypatch.setattr(Lifecycle, "report_health", send_elsewhere)
    async with (
        hosting(HostConfig(leases=LEASES)) as (host, url),
        fronted(url) as fronts,
        plugged(echo_plugin(), urls_of(fronts), heartbeat_s=None),
    ):
        await eventually(lambda: all(front.opened for front in fronts))
        await trio.sleep(12)
        assert state_of(host, "echo") == HEALTHY
    assert len([line for line in caplog.messages if " moves from " in line]) == 1


async def test_a_host_that_has_no_use_for_a_registration_now_is_left_for_another_one(
    virtual_time: MockClock,
) -> None:
    refused: list[str] = []

    async def refuse_once(scope: Scope, _receive: Receive, send: Send) -> bool:
        if refused or not scope["path"].endswith("RegisterService"):
            return False
        refused.append(scope["path"])
        return await error(send, 503, "unavailable")

    async with (
        meddled(refuse_once) as (host, url),
        fronted(url) as fronts,
        plugged(echo_plugin(), urls_of(fronts)),
    ):
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        assert all(front.opened for front in fronts)


async def test_a_plugin_leaves_a_host_that_is_stopping_and_forgets_nobody(virtual_time: MockClock) -> None:
    plugin, echo = caller_of()
    stopping: list[str] = []

    async def stop_once(scope: Scope, receive: Receive, send: Send) -> bool:
        is_callers = dict(scope["headers"]).get(b"x-plugin-runtime-id", b"").startswith(b"caller")
        if scope["type"] != "websocket" or stopping or not is_callers:
            return False
        stopping.append("now")
        await receive()
        await send({"type": "websocket.accept", "subprotocol": wire.WATCH_PROTO})
        await trio.sleep(3)
        await send({"type": "websocket.close", "code": 1001, "reason": "the host is stopping"})
        return True

    async with (
        meddled(stop_once) as (_, url),
        fronted(url) as fronts,
        plugged(echo_plugin(), url),
        plugged(plugin, urls_of(fronts)),
    ):
        await echo.wait_available()
        hosts = session_of(echo).hosts
        states = echo.changes()
        await eventually(lambda: hosts.moved == 1)
        await trio.sleep(5)
        assert (await anext(states)).available
        assert all(front.opened for front in fronts)


async def test_what_a_host_tells_that_is_behind_counts_when_it_has_caught_up() -> None:
    _, echo = caller_of()
    session = Session(Hosts([A, B], Pool()), "caller-1", "token")
    echo._service.link.begin(session)
    socket = _Socket(session, Dependencies(echo._service))

    def told(revision: int, *names: str, complete: bool = False) -> None:
        update = watch.WatchUpdate(revision=revision)
        changes = update.providers.add(service_type="echo", complete=complete)
        for name in names:
            changes.changed.add().endpoint.provider_id = name
        socket._take(update)

    told(7, "a", "b", complete=True)
    assert set(echo._service.providers.value) == {"a", "b"}
    assert session.seen_revision == 7
    session.hosts.current.failed("gone")
    socket._begin(session.hosts.current)
    told(5, "a", complete=True)
    assert set(echo._service.providers.value) == {"a", "b"}
    told(7, "b")
    assert set(echo._service.providers.value) == {"a", "b"}
    told(9, "c")
    assert set(echo._service.providers.value) == {"a", "b", "c"}
    socket._begin(session.hosts.current)  # the same host: it has started anew
    told(1, "d", complete=True)
    assert (set(echo._service.providers.value), session.seen_revision) == ({"d"}, 1)


async def test_a_capability_is_called_at_another_host_with_the_same_grant(virtual_time: MockClock) -> None:
    plugin = Plugin("app", version="1.0.0")
    client = plugin.capability("echo").client(EchoServiceClient)
    config = HostConfig(leases=LEASES, capabilities=[Capability.of("echo", "1.0.0", Echo())])
    async with (
        hosting(config) as (_, url),
        fronted(url) as fronts,
        plugged(plugin, urls_of(fronts), heartbeat_s=None),
    ):
        await eventually(lambda: any(front.opened for front in fronts))
        with trio.fail_after(20):
            await _until_registered(lambda: said(client))
        await used(fronts).close()
        assert [await said(client) for _ in range(3)] == ["x"] * 3


async def test_direct_calls_go_on_when_the_host_is_gone(virtual_time: MockClock) -> None:
    plugin, echo = caller_of()
    async with (
        hosting(HostConfig(leases=LEASES)) as (host, url),
        fronted(url) as fronts,
        plugged(echo_plugin(), url),
        plugged(plugin, urls_of(fronts), heartbeat_s=None, direct_calls=True),
    ):
        await goes_directly(echo)
        grant = grant_of(echo)
        await used(fronts).close()
        routed = host.call_table.window().total.calls
        client = echo.client(EchoServiceClient)
        for _ in range(5):
            assert await said(client) == "x"
            await trio.sleep(2)
        assert grant_of(echo) is grant
        assert host.call_table.window().total.calls == routed


async def test_a_plugin_registers_elsewhere_when_its_host_is_silent(virtual_time: MockClock) -> None:
    hung: list[str] = []

    async def hang_once(scope: Scope, receive: Receive, _send: Send) -> bool:
        if hung or not scope["path"].endswith("RegisterService"):
            return False
        hung.append(scope["path"])
        while (await receive())["type"] != "http.disconnect":
            pass
        return True

    async with (
        meddled(hang_once) as (host, url),
        fronted(url) as fronts,
        plugged(echo_plugin(), urls_of(fronts)),
    ):
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        assert all(front.opened for front in fronts)


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_plugin_that_stops_takes_its_leave_at_another_host(
    virtual_time: MockClock,
    is_gone: bool,  # noqa: FBT001
) -> None:
    stop = trio.Event()
    async with (
        hosting() as (host, url),
        fronted(url) as fronts,
        plugged(echo_plugin(), urls_of(fronts), stop=stop),
    ):
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        if is_gone:
            await used(fronts).close()
        else:
            used(fronts).freeze()
        stop.set()
        with trio.fail_after(5):
            await until(host, lambda: not host.registry.provides("echo"))


async def test_a_client_uses_a_host_that_answers_and_another_one_when_that_is_gone(
    virtual_time: MockClock,
) -> None:
    async with hosting() as (host, url), fronted(url, 3) as fronts, plugged(echo_plugin(), url):
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        await fronts[0].close()
        async with connect(urls_of(fronts), "visitor") as session:
            first = next(front for front in fronts if front.opened)
            await first.close()
            provider = await session.discover("echo")
            assert await said(provider.client(EchoServiceClient)) == "x"
        assert host.identities.entry(session.runtime_id) is None


async def test_a_managing_host_may_give_several_urls(virtual_time: MockClock) -> None:
    async with (
        hosting(HostConfig(leases=LEASES)) as (host, url),
        fronted(url) as fronts,
        plugged(echo_plugin(), None, heartbeat_s=None) as at,
    ):
        await host.add_plugin(at, host_url=urls_of(fronts))
        gone = went_away(host, "echo")
        await used(fronts).close()
        await trio.sleep(12)
        assert not any(gone)
