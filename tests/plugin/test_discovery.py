"""How a plugin hears of its dependencies: by websocket, by stream, or by asking, whatever its host offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request

from cpg_trio import HealthState
from cpg_trio._cell import Cell
from cpg_trio.asgi import (
    Receive,
    Scope,
    Send,
    no_websocket,
    refuse_websocket,
    send_response,
    send_text,
)
from cpg_trio.host import Host, HostConfig, LeaseConfig
from cpg_trio.http import Pool
from cpg_trio.plugin import Dependency, Plugin, discovery
from cpg_trio.plugin._dependencies import Dependencies
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._session import ProviderSet, Session, SessionProvider
from cpg_trio.plugin.discovery import _settle, _suitable, follow
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from tests.host.calls import WATCH
from tests.http.apps import served
from tests.http.peers import Peer, serving
from tests.plain_host import plain_host
from tests.plugin.running import (
    ASKED_S,
    DEGRADED,
    HEALTHY,
    Busy,
    Meddling,
    echo_plugin,
    eventually,
    hosting,
    meddled,
    plugged,
    state_of,
    until,
    unused_port,
)


def needy(*service_types: str, min_version: str = "") -> tuple[Plugin, list[Dependency]]:
    plugin = echo_plugin("needy", "needs")
    return plugin, [plugin.require(name, min_version=min_version) for name in service_types]


async def heard(dependency: Dependency, condition: Callable[[Dependency], object]) -> None:
    with trio.fail_after(20):
        async for _ in dependency.changes():
            if condition(dependency):
                return


def without(*ways: str, seen: Counter[str]) -> Meddling:
    """A host that lacks some ways to be watched; counts which are tried."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> bool:
        way = scope["path"].rpartition("/")[2]
        seen[way] += 1
        if way not in ways:
            return False
        if scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
        else:
            await send_text(send, 404, "404 page not found\n")
        return True

    return refuse


async def test_one_websocket_tells_of_all_dependencies() -> None:
    plugin, (one, two) = needy("one", "two")
    seen = Counter[str]()
    async with meddled(without(seen=seen)) as (_, url), plugged(plugin, url):
        async with plugged(echo_plugin("a", "one"), url), plugged(echo_plugin("b", "two"), url):
            await heard(one, lambda d: d.available)
            await heard(two, lambda d: d.available)
        await heard(one, lambda d: not d.available)
        await heard(two, lambda d: not d.available)
    assert seen["watch"] == 3  # one a plugin
    assert seen["WatchService"] == 0


@pytest.mark.parametrize("ways", [("watch",), ("watch", "WatchService")])
async def test_where_there_is_no_websocket_streams_tell_and_where_there_are_none_it_asks(
    virtual_time: MockClock, ways: tuple[str, ...]
) -> None:
    plugin, (echo,) = needy("echo", min_version="1.0.0")
    seen = Counter[str]()
    async with meddled(without(*ways, seen=seen)) as (host, url), plugged(plugin, url):
        async with plugged(echo_plugin(), url):
            await heard(echo, lambda d: d.available)
        await heard(echo, lambda d: not d.available)
        await until(host, lambda: state_of(host, "needs") == DEGRADED)
    assert seen["watch"] == 2  # neither plugin tries again what is not there
    assert seen["DiscoverService"]


@pytest.mark.parametrize("ways", [(), ("watch",)])
async def test_a_provider_that_is_too_old_is_passed_over_for_one_that_is_not(
    virtual_time: MockClock, ways: tuple[str, ...]
) -> None:
    plugin, (echo,) = needy("echo", min_version="2.0.0")
    async with (
        meddled(without(*ways, seen=Counter())) as (host, url),
        plugged(echo_plugin(version="1.10.0"), url),
    ):
        await until(host, lambda: host.registry.available("echo"))
        async with plugged(plugin, url):
            async with plugged(echo_plugin(version="2.0.0"), url):
                await heard(echo, lambda d: d._service.provider and d._service.provider.version == "2.0.0")
            await heard(echo, lambda d: not d.available)


def versions(dependency: Dependency) -> list[str]:
    return sorted(provider.version for provider in dependency._service.providers.value.values())


async def test_each_provider_is_told_of_when_it_comes_and_when_it_goes() -> None:
    plugin, (echo,) = needy("echo")
    async with hosting() as (host, url), plugged(plugin, url):
        async with plugged(echo_plugin(version="1.0.0"), url):
            async with plugged(echo_plugin(version="2.0.0"), url):
                async with plugged(echo_plugin(version="3.0.0"), url):
                    await heard(echo, lambda d: versions(d) == ["1.0.0", "2.0.0", "3.0.0"])
                await heard(echo, lambda d: versions(d) == ["1.0.0", "2.0.0"])
            await heard(echo, lambda d: versions(d) == ["1.0.0"])
        await heard(echo, lambda d: not d.available)
        assert not echo._service.providers.value
    assert not host.watches._services


async def test_a_host_that_tells_of_one_provider_only_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpg_trio.plugin.discovery._MAX_PROVIDERS", 0)  # as if it did not know the field
    plugin, (echo,) = needy("echo")
    async with hosting() as (host, url), plugged(plugin, url):
        async with plugged(echo_plugin(version="2.0.0"), url):
            async with plugged(echo_plugin(), url):
                await until(host, lambda: host.registry.callable_count("echo") == 2)
                await heard(echo, lambda d: d.available)
                assert len(echo._service.providers.value) == 1
            await heard(echo, lambda d: versions(d) == ["2.0.0"])
        await heard(echo, lambda d: not d.available)


@pytest.mark.parametrize("ways", [(), ("watch",)])
async def test_of_several_major_versions_each_dependency_gets_those_in_its_range(
    ways: tuple[str, ...],
) -> None:
    plugin = echo_plugin("needy", "needs")
    echo = plugin.require("echo", version=">=1.2,<2")
    async with (
        meddled(without(*ways, seen=Counter())) as (host, url),
        plugged(echo_plugin(version="1.0.0"), url),
        plugged(echo_plugin(version="2.0.0"), url),
    ):
        await until(host, lambda: host.registry.callable_count("echo") == 2)
        async with plugged(plugin, url):
            await heard(echo, lambda d: "is required" in (d._service.missing or ""))
            assert ">=1.2,<2 is required" in (echo._service.missing or "")
            async with plugged(echo_plugin(version="1.5.0"), url):
                await heard(echo, lambda d: versions(d) == ["1.5.0"])


def test_a_version_that_a_host_without_ranges_tells_of_does_not_count() -> None:
    plugin = Plugin("needy", version="1.0.0")
    echo = plugin.require("echo", version="<2")
    session = cast("Session", None)
    endpoints = [pb.ServiceEndpoint(provider_id="p", version=version) for version in ("1.0.0", "2.0.0")]
    old, new = (SessionProvider.at(session, endpoint) for endpoint in endpoints)
    assert _suitable(echo._service, ProviderSet.of(old)) == ProviderSet.of(old)
    assert _suitable(echo._service, ProviderSet.of(new)) == ProviderSet(
        reason="2.0.0 is there and <2 is required"
    )


@attrs.define
class HeldAnswer:
    """A host without a websocket that answers one question late, with what is not true any more."""

    question: int
    asked: trio.Event = attrs.field(factory=trio.Event)
    released: trio.Event = attrs.field(factory=trio.Event)
    _questions: int = 0

    async def meddle(self, scope: Scope, receive: Receive, send: Send) -> bool:
        if scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
            return True
        if not scope["path"].endswith("/DiscoverService"):
            return False
        self._questions += 1
        if self._questions != self.question:
            return False
        self.asked.set()
        await self.released.wait()
        await send_response(send, 404, b'{"code": "not_found"}', [(b"content-type", b"application/json")])
        return True


async def test_an_answer_that_is_out_of_date_when_it_arrives_is_ignored(
    virtual_time: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_POLL_S", 0.02)
    plugin, (dependency,) = needy("one", min_version="2.0.0")
    held = HeldAnswer(question=3)
    async with (
        meddled(held.meddle) as (host, url),
        plugged(plugin, url),
        plugged(echo_plugin("a", "one"), url),
    ):
        await held.asked.wait()
        (old,) = host.registry.providers("one")
        async with plugged(echo_plugin("a", "one", version="2.0.0"), url):
            await until(host, lambda: len(host.registry.providers("one")) == 2)
            host.registry.unregister(old.runtime_id, old.id)
            await heard(dependency, lambda d: d.available)
            held.released.set()
            with trio.move_on_after(0.5):
                await heard(dependency, lambda d: not d.available)
            assert dependency.available


async def test_a_provider_with_a_minimum_version_is_known_to_be_degraded() -> None:
    plugin, (echo,) = needy("echo", min_version="2.0.0")
    new = echo_plugin(version="2.0.0")
    async with (
        hosting() as (_, url),
        plugged(echo_plugin(), url),
        plugged(new, url),
        plugged(plugin, url),
    ):
        await heard(echo, lambda d: d.available)
        new.set_health(HealthState.DEGRADED, "slow disk")
        await heard(echo, lambda d: d.degraded)


async def test_a_websocket_that_is_refused_for_a_while_is_opened_in_the_end(
    virtual_time: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpg_trio.plugin.discovery._STREAM_S", 0.3)
    plugin, (echo,) = needy("echo")
    refused, seen = ["watch"], Counter[str]()

    async def refuse_for_now(scope: Scope, receive: Receive, send: Send) -> bool:
        return await without(*refused, seen=seen)(scope, receive, send)

    async with (
        meddled(refuse_for_now) as (host, url),
        plugged(plugin, url),
        plugged(echo_plugin(), url),
    ):
        await heard(echo, lambda d: d.available)
        assert seen["WatchService"]
        assert not len(host.watches) > 1  # one stream at most
        refused.clear()
        await eventually(lambda: len(host.watches) == 2)  # the websockets of both


@pytest.mark.parametrize("swallowed", ["hangs", "closes", "502"])
async def test_where_websockets_do_not_get_through_streams_are_followed(
    virtual_time: MockClock, swallowed: str
) -> None:
    async def swallow(scope: Scope, receive: Receive, send: Send) -> bool:
        if scope["type"] != "websocket":
            return False
        await receive()
        if swallowed == "hangs":
            while (await receive())["type"] != "websocket.disconnect":
                pass
        elif swallowed == "502":
            await refuse_websocket(send, 502, "bad gateway", [])
        else:
            await send({"type": "websocket.close"})
        return True

    plugin, (echo,) = needy("echo")
    leases = LeaseConfig(lease_s=0.9)  # and so short timeouts
    async with (
        meddled(swallow, Host(HostConfig(leases=leases))) as (_, url),
        plugged(plugin, url, heartbeat_s=None),
        plugged(echo_plugin(), url, heartbeat_s=None),
    ):
        await heard(echo, lambda d: d.available)


async def test_where_the_stream_tells_nothing_the_plugin_asks(virtual_time: MockClock) -> None:
    async def hold_back(scope: Scope, receive: Receive, send: Send) -> bool:
        if scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
            return True
        if not scope["path"].endswith("WatchService"):
            return False
        while (await receive())["type"] != "http.disconnect":
            pass
        return True

    plugin, (echo,) = needy("echo")
    async with meddled(hold_back) as (_, url), plugged(plugin, url), plugged(echo_plugin(), url):
        await heard(echo, lambda d: d.available)


def answers_of_a_websocket_that_breaks() -> list[bytes]:
    ok = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    return [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK",
        ok + b"\r\n",
        ok + b"sec-websocket-accept: wrong\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nno\n",
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\n\r\n",
        b"HTTP/1.1 500 \xff\r\nx: \xff\r\n\r\n",
    ]


@asynccontextmanager
async def following(url: str, *, heartbeat_s: float = 0.05) -> AsyncIterator[Dependency]:
    """Follow a dependency at a host that is only pretended."""
    _, (dependency,) = needy("echo")
    async with Pool() as pool, trio.open_nursery() as nursery:
        session = Session(Hosts([url], pool), "needy-0", "token", heartbeat_s)
        nursery.start_soon(follow, session, Dependencies(dependency._service))
        yield dependency
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", answers_of_a_websocket_that_breaks())
async def test_a_websocket_that_breaks_is_tried_again(virtual_time: MockClock, answer: bytes) -> None:
    connections = Cell(0)

    async def handle(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(answer)
        connections.set(connections.value + 1)

    async with serving(handle) as origin, following(f"http://127.0.0.1:{origin.port}"):
        with trio.fail_after(20):
            async for count in connections.reader():
                if count >= 3:
                    break


@pytest.mark.parametrize(
    "frame", [{"text": "{}"}, {"bytes": b"\xff\xff"}, {"bytes": b"\0" * (2**20 + 1)}, None]
)
async def test_frames_that_make_no_sense_do_not_end_a_plugin(
    virtual_time: MockClock, frame: dict[str, object] | None
) -> None:
    connections = Cell(0)

    async def babble(scope: Scope, receive: Receive, send: Send) -> bool:
        if scope["type"] != "websocket":
            return False
        await receive()
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
        connections.set(connections.value + 1)
        await send({"type": "websocket.send", **frame} if frame else {"type": "websocket.close"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return True

    plugin, (echo,) = needy("echo")
    async with meddled(babble) as (host, url), plugged(plugin, url):
        with trio.fail_after(20):
            async for count in connections.reader():
                if count >= 3:
                    break
        await until(host, lambda: state_of(host, "needs") == DEGRADED)
        assert not echo.available


async def test_a_websocket_that_tells_something_and_closes_is_opened_less_and_less_often(
    virtual_time: MockClock,
) -> None:
    opened: list[float] = []

    async def tell_and_close(scope: Scope, receive: Receive, send: Send) -> bool:
        if scope["type"] != "websocket":
            return False
        await receive()
        opened.append(trio.current_time())
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
        await send({"type": "websocket.send", "bytes": pb.WatchUpdate(gone=["x"]).SerializeToString()})
        await send({"type": "websocket.close"})
        return True

    plugin, _ = needy("echo")
    async with meddled(tell_and_close) as (_, url), plugged(plugin, url):
        await eventually(lambda: len(opened) >= 2)
        await trio.sleep(1)
        assert len(opened) <= 8


async def test_a_websocket_that_answers_no_pings_is_given_up(virtual_time: MockClock) -> None:
    connections = Cell(0)

    async def accept_and_be_silent(peer: Peer) -> None:
        server = WSConnection(ConnectionType.SERVER)
        server.receive_data(await peer.receive_head())
        request = next(server.events())
        assert isinstance(request, Request)
        await peer.send(server.send(AcceptConnection(subprotocol=request.subprotocols[0])))
        connections.set(connections.value + 1)
        await peer.receive_to_end()

    async with serving(accept_and_be_silent) as origin, following(f"http://127.0.0.1:{origin.port}"):
        with trio.fail_after(20):
            async for count in connections.reader():
                if count >= 3:
                    break


async def test_no_plugin_sees_its_dependency_go_while_a_host_is_replaced_that_remembers_nothing(
    virtual_time: MockClock,
) -> None:
    port = unused_port()
    url = f"http://127.0.0.1:{port}"
    plugin, (echo,) = needy("echo")
    providers: list[str | None] = []

    async def look() -> None:
        async for told in echo._service.providers.reader():
            providers.append(next(iter(told), None))

    async with plugged(plugin, url), plugged(echo_plugin(), url), trio.open_nursery() as nursery:
        async with hosting(bind=f"127.0.0.1:{port}") as (host, _):
            await eventually(lambda: len(host.watches) == 2)
            await heard(echo, lambda d: d.available)
            before = echo._service.provider
            nursery.start_soon(look)
            await wait_all_tasks_blocked()
        async with hosting(bind=f"127.0.0.1:{port}") as (host, _):
            await heard(echo, lambda d: d._service.provider != before)
            await until(host, lambda: state_of(host, "needs") == HEALTHY)
        nursery.cancel_scope.cancel()
    assert len(providers) == len(set(providers)) == 2
    assert None not in providers


async def test_a_provider_that_does_not_return_to_a_new_host_is_dropped_after_a_while(
    autojump_clock: MockClock,
) -> None:
    _, (echo,) = needy("echo")
    old, new = (Session(Hosts(["http://host.test"], Pool()), name, "token") for name in ("a-1", "a-2"))
    endpoint = pb.ServiceEndpoint(provider_id="echo-1", version="1.0.0", endpoint_url="/services/echo/echo-1")
    echo._service.update(old, ProviderSet.of(SessionProvider.at(old, endpoint)))
    old.void.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_settle, new, Dependencies(echo._service))
        await wait_all_tasks_blocked()
        echo._service.update(new, ProviderSet(reason="nobody is there"))  # the new host does not know it yet
        assert echo._service.missing is None
        await trio.sleep(2 * new.heartbeat_s - 0.1)
        assert echo._service.missing is None
    assert echo._service.missing == "nobody is there"


async def test_what_a_new_host_tells_of_a_provider_counts_at_once() -> None:
    _, (echo,) = needy("echo")
    old, new = (Session(Hosts(["http://host.test"], Pool()), name, "token") for name in ("a-1", "a-2"))
    for session, provider_id in ((old, "echo-1"), (new, "echo-2")):
        endpoint = pb.ServiceEndpoint(provider_id=provider_id, version="1.0.0", endpoint_url="/")
        echo._service.update(session, ProviderSet.of(SessionProvider.at(session, endpoint)))
        assert echo._service.provider
        assert echo._service.provider.runtime_id == provider_id
    echo._service.update(new, ProviderSet())
    assert echo._service.provider is None


def frames(*messages: tuple[int, bytes]) -> bytes:
    return b"".join(bytes([flags]) + len(content).to_bytes(4, "big") + content for flags, content in messages)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0",
        frames((0, b"\xff\xff")),
        frames((2, b"[" * 20_000)),
        frames((2, b'{"error": {"code": "internal", "details": [{"type": "a", "value": "\xc3\xa9"}]}}')),
        # an available provider of version "v1"
        frames((0, b"\x0a\x04echo\x10\x01\x1a\x0e\x0a\x03p-1\x12\x02v1\x1a\x03/x/")),
    ],
)
async def test_garbage_on_a_watch_stream_does_not_end_a_plugin(
    virtual_time: MockClock, answer: bytes
) -> None:
    watches = Cell(0)

    async def garbage(scope: Scope, receive: Receive, send: Send) -> bool:
        if scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
            return True
        if not scope["path"].endswith("WatchService"):
            return False
        watches.set(watches.value + 1)
        await send_response(send, 200, answer, [(b"content-type", b"application/connect+proto")])
        return True

    plugin = echo_plugin("needy", "needs")
    dependency = plugin.require("echo", min_version="1.0.0")
    async with meddled(garbage) as (host, url), plugged(plugin, url):
        await until(host, lambda: state_of(host, "needs") == DEGRADED)
        with trio.fail_after(20):
            async for count in watches.reader():
                if count >= 3:
                    break
        assert not dependency.available
        assert state_of(host, "needs") == DEGRADED


async def test_a_host_that_is_replaced_is_noticed_by_the_watch_and_not_only_by_the_heartbeat(
    virtual_time: MockClock,
) -> None:
    plugin = echo_plugin("needy", "needs")
    plugin.require("echo")
    old, new = Host(), Host()
    async with old.application() as old_app, new.application() as new_app:
        current = [old_app]

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            await current[0](scope, receive, send)

        async with served(dispatch) as url, plugged(plugin, url, heartbeat_s=3600.0):
            await until(old, lambda: state_of(old, "needs") == DEGRADED)
            await eventually(lambda: old.watches.watchers("echo"))
            current[0] = new_app
            old.watches.close()
            await until(new, lambda: state_of(new, "needs") == DEGRADED)


@pytest.mark.parametrize("way", ["websocket", "stream"])
async def test_a_watch_is_opened_again_as_late_as_the_host_asks(virtual_time: MockClock, way: str) -> None:
    busy = Busy("/watch" if way == "websocket" else WATCH, websockets=way == "websocket")
    plugin = echo_plugin()
    plugin.require("other", required=False)
    async with meddled(busy) as (host, url), plugged(plugin, url):
        await eventually(lambda: len(host.watches))
        assert (WATCH in busy.paths) is (way == "stream")
    assert busy.waited_s >= ASKED_S


async def test_a_stream_that_always_ends_at_once_is_opened_less_and_less_often(
    virtual_time: MockClock,
) -> None:
    caller = Plugin("caller", version="1.0.0")
    caller.require("echo")
    async with plain_host() as (host, url):
        host.ends_streams = True
        async with plugged(caller, url):
            await eventually(lambda: host.watches >= 2)
            await trio.sleep(1)
            assert host.watches <= 8
