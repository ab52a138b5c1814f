"""The websocket `/watch`, as any websocket client meets it."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio.testing
from google.protobuf import json_format
from trio.testing import MockClock
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
)
from wsproto.events import TextMessage

from cpg_trio import HealthState, wire
from cpg_trio.host import Health, Host, HostConfig, Identity, LeaseConfig, Limits, Policy, Rate, RateLimits
from cpg_trio.host.access.access_check import AccessCheck
from cpg_trio.host.access.audit import Action, AuditEvent
from cpg_trio.host.access.identity import Identities
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.watch import Update
from cpg_trio.host.directory.watch_hub import WatchHub
from cpg_trio.host.services import websocket
from cpg_trio.host.services.websocket import CODECS, WatchSocket, _Codec
from cpg_trio.plugin._websocket import open_websocket
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from tests._wire import HANDSHAKE, WebSocketWire, dial
from tests.plugin.running import eventually, hosting

JSON, PROTO = "cpg-trio.watch.v1.json", "cpg-trio.watch.v1.proto"


def proof(host: Host, self_id: str = "watcher") -> dict[str, str]:
    identity, token = host.identities.issue(self_id)
    return {wire.RUNTIME_ID_HEADER: identity.runtime_id, "Authorization": f"Bearer {token}"}


def add(host: Host, runtime_id: str, service_type: str = "t", version: str = "1.0.0") -> str:
    return host.registry.register(runtime_id, service_type, version, "/x/", {}).id


@asynccontextmanager
async def watching(
    url: str, headers: dict[str, str], *subprotocols: str, path: str = "/watch"
) -> AsyncIterator[WebSocketConnection]:
    with trio.fail_after(20):
        async with open_websocket(url + path, headers, subprotocols) as socket:
            yield socket


async def say(socket: WebSocketConnection, **request: Any) -> None:
    await socket.send_message(json.dumps(request))


async def hear(socket: WebSocketConnection) -> Any:
    text = await socket.get_message()
    assert isinstance(text, str)
    return json.loads(text)


def subscriptions(*service_types: str) -> list[dict[str, str]]:
    return [{"serviceType": service_type} for service_type in service_types]


async def test_a_snapshot_of_all_that_is_followed_comes_first_and_then_each_change() -> None:
    async with hosting() as (host, url), watching(url, proof(host), JSON) as socket:
        assert socket.subprotocol == JSON
        add(host, "a-1", "one", "1.2.0")
        await say(socket, subscribe=subscriptions("one", "two"))
        snapshot = await hear(socket)
        assert snapshot["events"] == [
            {
                "serviceType": "one",
                "state": "SERVICE_STATE_AVAILABLE",
                "endpoint": {"providerId": "a-1", "version": "1.2.0", "endpointUrl": "/services/one/a-1"},
            },
            {"serviceType": "two", "state": "SERVICE_STATE_UNAVAILABLE"},
        ]
        host.registry.report_health("a-1", Health(HealthState.DEGRADED))
        changed = await hear(socket)
        assert [(e["serviceType"], e["state"]) for e in changed["events"]] == [
            ("one", "SERVICE_STATE_DEGRADED")
        ]
        assert int(changed["revision"]) > int(snapshot["revision"])


async def test_frames_are_proto_for_who_asks_for_proto() -> None:
    async with hosting() as (host, url), watching(url, proof(host), PROTO, JSON) as socket:
        assert socket.subprotocol == PROTO
        request = pb.WatchRequest(subscribe=[pb.WatchSubscription(service_type="t", min_version="2.0.0")])
        await socket.send_message(request.SerializeToString())
        add(host, "old", version="1.10.0")
        for expected in (pb.SERVICE_STATE_UNAVAILABLE, pb.SERVICE_STATE_AVAILABLE):
            data = await socket.get_message()
            assert isinstance(data, bytes)
            update = pb.WatchUpdate.FromString(data)
            assert [event.state for event in update.events] == [expected]
            add(host, "new", version="2.0.0")


async def test_frames_are_json_for_who_asks_for_nothing() -> None:
    async with hosting() as (host, url), watching(url, proof(host)) as socket:
        await say(socket, subscribe=subscriptions("t"))
        assert (await hear(socket))["events"][0]["serviceType"] == "t"


async def test_types_are_followed_and_left_on_the_fly() -> None:
    async with hosting() as (host, url), watching(url, proof(host), JSON) as socket:
        await say(socket, subscribe=subscriptions("one"))
        await hear(socket)
        await say(socket, subscribe=subscriptions("two"), unsubscribe=["one", "never-followed"])
        assert [e["serviceType"] for e in (await hear(socket))["events"]] == ["two"]
        add(host, "a", "one")
        add(host, "a", "two")
        assert [e["serviceType"] for e in (await hear(socket))["events"]] == ["two"]


async def test_what_cannot_be_followed_is_refused_by_itself() -> None:
    async with hosting() as (host, url), watching(url, proof(host), JSON) as socket:
        bad = {"serviceType": "t", "minVersion": "two"}
        await say(socket, subscribe=[*subscriptions("no such/type", "good"), bad])
        answers = [await hear(socket), await hear(socket)]
        refusals = next(a["refusals"] for a in answers if "refusals" in a)
        assert [r["serviceType"] for r in refusals] == ["no such/type", "t"]
        assert "contains invalid characters" in refusals[0]["message"]
        assert "must be semantic version" in refusals[1]["message"]
        events = next(a["events"] for a in answers if "events" in a)
        assert [e["serviceType"] for e in events] == ["good"]


async def test_one_connection_follows_no_more_than_a_thousand_types() -> None:
    async with hosting() as (host, url), watching(url, proof(host), JSON) as socket:
        names = [f"t{index}" for index in range(Limits().max_subscriptions + 1)]
        await say(socket, subscribe=subscriptions(*names))
        while not (refusals := (await hear(socket)).get("refusals")):
            pass
        assert refusals == [{"serviceType": names[-1], "message": "too many subscriptions (max: 1000)"}]
        assert host.watches.watchers(names[-2]) == 1


@pytest.mark.parametrize(
    ("subprotocol", "frame"),
    [
        (JSON, "["),
        (JSON, '{"follow": "t"}'),
        (JSON, '{"subscribe": ' + "[" * 50_000),
        (JSON, '{"subscribe": "é' + "é" * 200 + '"}'),
        (JSON, b"{}"),
        (PROTO, "{}"),
        (PROTO, b"\xff\xff"),
    ],
)
async def test_a_frame_that_cannot_be_read_ends_the_connection_and_says_why(
    subprotocol: str, frame: str | bytes
) -> None:
    async with hosting() as (host, url), watching(url, proof(host), subprotocol) as socket:
        await socket.send_message(frame)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.get_message()
        assert closed.value.reason
        assert closed.value.reason.code == 1007
        assert closed.value.reason.reason
        assert len(host.watches) == 0


@pytest.mark.parametrize(
    ("without", "with_", "status", "text"),
    [
        ("X-Plugin-Runtime-ID", {}, 401, "X-Plugin-Runtime-ID header required\n"),
        ("Authorization", {}, 401, "Authorization: Bearer <token> required\n"),
        ("", {"Authorization": "Bearer wrong"}, 401, "invalid token\n"),
        ("", {"Sec-WebSocket-Protocol": "chat"}, 400, f"subprotocols are {PROTO} and {JSON}\n"),
    ],
)
async def test_who_cannot_prove_who_they_are_or_speaks_another_language_is_refused(
    without: str, with_: dict[str, str], status: int, text: str
) -> None:
    async with hosting() as (host, url):
        headers = {k: v for k, v in {**proof(host), **with_}.items() if k != without}
        chosen = headers.pop("Sec-WebSocket-Protocol", JSON)
        with pytest.raises(ConnectionRejected) as refused:
            async with watching(url, headers, chosen):
                pass
        assert (refused.value.status_code, refused.value.body) == (status, text.encode())


async def test_there_is_no_websocket_elsewhere_and_no_page_here() -> None:
    async with hosting() as (host, url), httpx.AsyncClient() as http:
        with pytest.raises(ConnectionRejected) as refused:
            async with watching(url, proof(host), path="/elsewhere"):
                pass
        assert (refused.value.status_code, refused.value.body) == (404, b"no websocket at /elsewhere\n")
        assert (await http.get(f"{url}/watch", headers=proof(host))).status_code == 404


async def test_a_watch_ends_with_the_identity_that_it_was_begun_with() -> None:
    async with hosting() as (host, url):
        headers = proof(host)
        async with watching(url, headers, JSON) as socket:
            await say(socket, subscribe=subscriptions("t"))
            await hear(socket)
            host.identities.revoke(headers[wire.RUNTIME_ID_HEADER])
            add(host, "a")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.get_message()
            assert closed.value.reason
            assert closed.value.reason.code == 1008


async def test_a_watch_ends_with_its_identity_also_when_nothing_changes() -> None:
    async with hosting() as (host, url):
        headers = proof(host)
        async with watching(url, headers, JSON) as socket:
            await say(socket, subscribe=subscriptions("t"))
            await hear(socket)
            await host.revoke_identity(headers[wire.RUNTIME_ID_HEADER])
            with pytest.raises(ConnectionClosed) as closed:
                await socket.get_message()
            assert closed.value.reason
            assert closed.value.reason.code == 1008
            await eventually(lambda: not host.watches.has(headers[wire.RUNTIME_ID_HEADER]))


async def test_who_waits_for_a_turn_while_its_identity_ends_is_told_and_does_nothing_more() -> None:
    async with hosting() as (host, url):
        headers = proof(host)
        async with watching(url, headers, JSON) as socket, AsyncExitStack() as others:
            await say(socket, subscribe=subscriptions("t"))
            await hear(socket)
            turns = host.watches.turns
            while turns.value:
                await others.enter_async_context(turns)
            host.registry.register("a", "t", "1.0.0", "/x/", {"large": "x" * 4000})
            await say(socket, subscribe=subscriptions("u"))
            await eventually(lambda: turns.statistics().tasks_waiting == 2)
            host.identities.revoke(headers[wire.RUNTIME_ID_HEADER])
            await others.aclose()
            with pytest.raises(ConnectionClosed) as closed:
                await socket.get_message()
            assert closed.value.reason
            assert closed.value.reason.code == 1008
            assert not host.watches.watchers("u")


class Changing(Policy):
    """Permits every call, until it permits none."""

    permits = True

    def may_call(self, _plugin: Identity, _service_type: str, /) -> bool:
        return self.permits


async def test_who_may_not_call_a_service_any_more_is_told_nothing_more_of_it() -> None:
    policy = Changing()
    async with hosting(HostConfig(policy=policy)) as (host, url), watching(url, proof(host), JSON) as socket:
        await say(socket, subscribe=subscriptions("t"))
        await hear(socket)
        policy.permits = False
        add(host, "a")
        add(host, "a", version="2.0.0")
        update = await hear(socket)
        assert update["events"] == [{"serviceType": "t", "state": "SERVICE_STATE_UNAVAILABLE"}]
        assert "may not call t" in update["refusals"][0]["message"]


async def test_who_asks_again_and_again_for_what_it_may_not_have_fills_no_audit_trail() -> None:
    policy, events = Changing(), list[AuditEvent]()
    policy.permits = False
    config = HostConfig(policy=policy, rates=RateLimits(failed_authentication=Rate(0.01, 3)))
    async with hosting(config) as (host, url), watching(url, proof(host), JSON) as socket:
        host.audit.subscribe(events.append)
        await say(socket, subscribe=subscriptions(*["t"] * 50))
        assert len((await hear(socket))["refusals"]) == 50
    assert len([event for event in events if event.action is Action.DISCOVER]) == 3


async def test_a_watch_ends_when_its_identity_expires() -> None:
    config = HostConfig(unrenewed_token_ttl_s=0.3, token_ttl_s=0.3)
    async with hosting(config) as (host, url), watching(url, proof(host), JSON) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.get_message()
        assert closed.value.reason
        assert closed.value.reason.code == 1008


async def test_a_stopping_host_ends_its_watches_as_one_that_goes_away() -> None:
    async with hosting() as (host, url), watching(url, proof(host), JSON) as socket:
        await say(socket, subscribe=subscriptions("t"))
        await hear(socket)
        host.watches.close()
        with pytest.raises(ConnectionClosed) as closed:
            await socket.get_message()
        assert closed.value.reason
        assert closed.value.reason.code == 1001


async def test_a_watcher_that_leaves_is_forgotten() -> None:
    async with hosting() as (host, url):
        async with watching(url, proof(host), JSON) as socket:
            await say(socket, subscribe=subscriptions("t"))
            await hear(socket)
            assert host.watches.watchers("t") == len(host.watches) == 1
        await eventually(lambda: not len(host.watches))
        assert host.watches.watchers("t") == 0


def test_the_frames_are_what_the_protos_say_in_both_languages() -> None:
    update = pb.WatchUpdate(revision=7, refusals=[pb.WatchRefusal(service_type="t", message="no")])
    assert json_format.Parse(json_format.MessageToJson(update), pb.WatchUpdate()) == update


async def test_refusals_come_in_updates_of_a_few_and_a_request_that_is_too_large_is_not_read() -> None:
    async with hosting() as (host, url), open_websocket(url + "/watch", proof(host), [JSON]) as socket:
        wrong = [{"serviceType": f"no type {number}"} for number in range(120)]
        await socket.send_message(json.dumps({"subscribe": wrong}))
        counts = [len(json.loads(str(await socket.get_message()))["refusals"]) for _ in range(3)]
        assert counts == [50, 50, 20]
        await socket.send_message(" " * (256 * 1024 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await socket.get_message()
        reason = closed.value.reason
        assert reason
        assert (reason.code, reason.reason) == (1007, "a request of 262145 bytes (max: 262144)")


async def test_requests_of_one_address_that_are_too_many_or_too_long_wait(autojump_clock: MockClock) -> None:
    host = Host(HostConfig(rates=RateLimits(subscribe=Rate(1, 10))))
    identity, token = host.identities.issue("watcher", address="192.0.2.1")
    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/watch",
        "scheme": "ws",
        "subprotocols": [],
        "client": ("192.0.2.1", 1),
        "headers": [
            (b"x-plugin-runtime-id", identity.runtime_id.encode()),
            (b"authorization", f"Bearer {token}".encode()),
        ],
    }
    requests = iter([" " * 4 * 1024 + "{}", " " * 5000 + "{}", '{"subscribe": [{"serviceType": "t"}]}'])

    async def receive() -> MutableMapping[str, Any]:
        await trio.lowlevel.checkpoint()
        if (text := next(requests, None)) is None:
            await trio.sleep_forever()
        return {"type": "websocket.receive", "text": text}

    told: list[float] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "websocket.send":
            told.append(trio.current_time())

    connected = iter([{"type": "websocket.connect"}])

    async def from_client() -> MutableMapping[str, Any]:
        return next(connected, None) or await receive()

    async with host.application() as app, trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(app, scope, from_client, send)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [pytest.approx(1, abs=0.01)] == [at - began for at in told]


# In memory: what happens between two steps


class InMemory:
    """A websocket without a socket, and the identity that has opened it."""

    def __init__(self, max_subscriptions: int = 10) -> None:
        self.identities, registry = Identities(), Registry()
        self.plugin, token = self.identities.issue("watcher")
        self.app = WatchSocket(AccessCheck(self.identities), WatchHub(registry), max_subscriptions, "host")
        fields = {wire.RUNTIME_ID_HEADER: self.plugin.runtime_id, "Authorization": f"Bearer {token}"}
        headers = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        self.scope = {"headers": headers, "client": ("127.0.0.1", 5), "subprotocols": [JSON]}
        self.sent: list[MutableMapping[str, Any]] = []
        self.when_received: Callable[[], object] = lambda: None

    async def receive(self, *requests: str) -> None:
        """Have it receive frames, and run until it ends."""
        send_in, receive = trio.open_memory_channel[dict[str, Any]](len(requests) + 1)
        send_in.send_nowait({"type": "websocket.connect"})
        for text in requests:
            send_in.send_nowait({"type": "websocket.receive", "text": text})

        async def send(message: MutableMapping[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            self.sent.append(message)

        async def receive_next() -> dict[str, Any]:
            await trio.testing.wait_all_tasks_blocked()
            message = await receive.receive()
            if message["type"] == "websocket.receive":
                self.when_received()
            return message

        with trio.fail_after(5):
            await self.app(self.scope, receive_next, send)


async def test_a_request_that_comes_after_its_caller_has_ended_is_not_answered() -> None:
    socket = InMemory()
    socket.when_received = partial(socket.identities.revoke, socket.plugin.runtime_id, "it misbehaves")
    await socket.receive(json.dumps({"subscribe": subscriptions("no type")}))
    accept, close = socket.sent
    assert accept["type"] == "websocket.accept"
    assert (close["type"], close["code"]) == ("websocket.close", 1008)
    assert "has ended (it misbehaves)" in close["reason"]


async def test_the_reason_of_a_close_fits_its_frame() -> None:
    socket = InMemory()
    await socket.receive('{"é' + "é" * 300 + '": 1}')
    close = socket.sent[-1]
    assert (close["type"], close["code"]) == ("websocket.close", 1007)
    assert 100 < len(close["reason"].encode()) <= 123  # RFC 6455, section 5.5


async def test_one_subscription_more_than_there_may_be_is_refused() -> None:
    socket = InMemory(max_subscriptions=2)
    await socket.receive(json.dumps({"subscribe": subscriptions("a", "b", "c")}), "not JSON")
    refusals = [json.loads(each["text"]).get("refusals", []) for each in socket.sent if "text" in each]
    (refusal,) = [each for some in refusals for each in some]
    assert refusal == {"serviceType": "c", "message": "too many subscriptions (max: 2)"}


# Several providers


def several(service_type: str, **more: Any) -> list[dict[str, Any]]:
    return [{"serviceType": service_type, "maxProviders": 2**32 - 1, **more}]


async def test_who_asks_for_several_providers_is_told_of_each_by_itself_and_in_no_event() -> None:
    async with hosting() as (host, url), watching(url, proof(host), JSON) as socket:
        add(host, "a", version="1.2.0")
        add(host, "b", version="2.0.0")
        await say(socket, subscribe=several("t"))
        snapshot = await hear(socket)
        assert snapshot["providers"] == [
            {
                "serviceType": "t",
                "complete": True,
                "changed": [
                    {"endpoint": {"providerId": "a", "version": "1.2.0", "endpointUrl": "/services/t/a"}},
                    {"endpoint": {"providerId": "b", "version": "2.0.0", "endpointUrl": "/services/t/b"}},
                ],
            }
        ]
        assert "events" not in snapshot
        host.registry.report_health("a", Health(HealthState.DEGRADED))
        (changes,) = (await hear(socket))["providers"]
        assert [(s["endpoint"]["providerId"], s["degraded"]) for s in changes["changed"]] == [("a", True)]
        host.registry.remove_plugin("b")
        assert (await hear(socket))["providers"] == [{"serviceType": "t", "removed": ["b"]}]
        host.registry.cancel_calls("b")
        assert (await hear(socket))["gone"] == ["b"]
        host.registry.drain("a", "an upgrade")
        assert (await hear(socket))["providers"] == [
            {"serviceType": "t", "removed": ["a"], "reason": "it is drained"}
        ]


async def test_a_range_counts_for_one_provider_as_for_several_and_a_bad_one_is_refused() -> None:
    async with hosting() as (host, url), watching(url, proof(host), JSON) as socket:
        add(host, "old", "t")
        add(host, "old", "u")
        one = {"serviceType": "u", "versionRange": ">=2"}
        bad = {"serviceType": "v", "versionRange": "latest"}
        await say(socket, subscribe=[*several("t", versionRange=">=2"), one, bad])
        answers = [await hear(socket), await hear(socket)]
        (refusal,) = next(a["refusals"] for a in answers if "refusals" in a)
        assert refusal["serviceType"] == "v"
        assert "cannot be read" in refusal["message"]
        update = next(a for a in answers if "providers" in a)
        assert update["providers"][0]["reason"] == "1.0.0 is there and >=2 is required"
        assert "1.0.0 is there and >=2 is required" in update["events"][0]["reason"]
        add(host, "new", "t", "2.1.0")
        (changes,) = (await hear(socket))["providers"]
        assert [s["endpoint"]["version"] for s in changes["changed"]] == ["2.1.0"]


async def test_who_may_call_a_service_again_is_told_of_all_its_providers_anew() -> None:
    policy = Changing()
    async with hosting(HostConfig(policy=policy)) as (host, url), watching(url, proof(host), JSON) as socket:
        add(host, "a")
        await say(socket, subscribe=several("t"))
        await hear(socket)
        policy.permits = False
        add(host, "b")
        update = await hear(socket)
        assert "may not call t" in update["refusals"][0]["message"]
        assert "providers" not in update
        policy.permits = True
        add(host, "c")
        (changes,) = (await hear(socket))["providers"]
        assert sorted(s["endpoint"]["providerId"] for s in changes["changed"]) == ["a", "b", "c"]
        assert changes["complete"]


async def test_a_range_of_a_megabyte_ends_the_connection_as_any_frame_of_that_size() -> None:
    async with hosting() as (host, url), watching(url, proof(host), JSON) as socket:
        await say(socket, subscribe=several("t", versionRange=">=" + "1" * 2**17))
        assert "version range too long" in (await hear(socket))["refusals"][0]["message"]
        await say(socket, subscribe=several("t", versionRange=">=" + "1" * 2**20))
        with pytest.raises(ConnectionClosed):
            await socket.get_message()
        assert not host.watches._services


async def test_a_watcher_that_is_up_to_date_costs_neither_its_last_request_nor_its_last_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[pb.WatchRequest] = []

    def decode(text: str) -> pb.WatchRequest:
        requests.append(json_format.Parse(text, pb.WatchRequest()))
        return requests[-1]

    codecs = {JSON: attrs.evolve(CODECS[JSON], decode=decode)}
    monkeypatch.setattr(websocket, "CODECS", codecs)
    async with hosting() as (host, url), watching(url, proof(host), JSON) as socket:
        for runtime_id in ("a", "b"):  # together more than goes out without a task
            host.registry.register(runtime_id, "t", "1.0.0", "/x/", {"large": "x" * 4000})
        await say(socket, subscribe=several("t"))
        await hear(socket)
        await trio.testing.wait_all_tasks_blocked()
        nobody_s = [pb.WatchRequest()]
        assert sys.getrefcount(requests[0]) == sys.getrefcount(nobody_s[0])
        assert not [each for each in gc.get_objects() if isinstance(each, Update)]


# Many watchers


async def test_what_many_are_told_is_encoded_once_for_each_subprotocol(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[str] = []

    def counted(codec: _Codec) -> _Codec:
        def encode(update: pb.WatchUpdate) -> str | bytes:
            encoded.append(codec.kind)
            return codec.encode(update)

        return attrs.evolve(codec, encode=encode)

    monkeypatch.setattr(websocket, "CODECS", {name: counted(codec) for name, codec in CODECS.items()})
    async with hosting() as (host, url), AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(watching(url, proof(host), subprotocol))
            for subprotocol in [JSON, PROTO] * 20
        ]
        for socket in sockets:
            if socket.subprotocol == JSON:
                await say(socket, subscribe=subscriptions("t"))
            else:
                request = pb.WatchRequest(subscribe=[pb.WatchSubscription(service_type="t")])
                await socket.send_message(request.SerializeToString())
            await socket.get_message()
        encoded.clear()
        add(host, "a")
        messages = {await socket.get_message() for socket in sockets}
        assert len(messages) == 2
        assert sorted(encoded) == ["binary", "text"]


class AllBut(Policy):
    """Permits calls to all but some, by their names."""

    denied: set[str]

    def may_call(self, plugin: Identity, _service_type: str, /) -> bool:
        return plugin.self_id not in self.denied


async def test_each_watcher_sees_only_what_it_may_see_of_a_change_that_many_are_told() -> None:
    policy = AllBut()
    policy.denied = set()
    names = [f"watcher-{number}" for number in range(40)]
    async with hosting(HostConfig(policy=policy)) as (host, url), AsyncExitStack() as stack:
        sockets = {
            name: await stack.enter_async_context(watching(url, proof(host, name), JSON)) for name in names
        }
        for socket in sockets.values():
            await say(socket, subscribe=subscriptions("t"))
            await hear(socket)
        policy.denied = set(names[::3])
        add(host, "a")
        for name, socket in sockets.items():
            update = await hear(socket)
            (event,) = update["events"]
            if name in policy.denied:
                assert event == {"serviceType": "t", "state": "SERVICE_STATE_UNAVAILABLE"}
                assert "may not call t" in update["refusals"][0]["message"]
            else:
                assert event["endpoint"]["providerId"] == "a"
                assert "refusals" not in update


async def whole(socket: WebSocketWire) -> Any:
    """Return a message that may come in pieces."""
    text = ""
    while True:
        event = await socket.event()
        assert isinstance(event, TextMessage)
        text += event.data
        if event.message_finished:
            return json.loads(text)


async def test_a_watcher_that_does_not_read_holds_up_nobody_and_then_hears_in_order_what_holds() -> None:
    async with hosting(HostConfig(leases=LeaseConfig(lease_s=600))) as (host, url), AsyncExitStack() as stack:
        wire = await stack.enter_async_context(dial(url, receive_buffer=2048))
        fields = {**proof(host), "Sec-WebSocket-Protocol": JSON}
        assert (await wire.get("/watch", {**HANDSHAKE, **fields})).status == 101
        slow = WebSocketWire(wire)
        await slow.send(TextMessage(json.dumps({"subscribe": subscriptions("t")})))
        other = await stack.enter_async_context(watching(url, proof(host), JSON))
        await say(other, subscribe=subscriptions("t"))
        await hear(other)
        host.registry.register("a", "t", "1.0.0", "/x/", {"large": "x" * 3000})
        await hear(other)
        while not host.watches.lags_s():
            for state in (HealthState.DEGRADED, HealthState.HEALTHY):
                host.registry.report_health("a", Health(state))
                await hear(other)
        host.registry.report_health("a", Health(HealthState.UNHEALTHY))
        revisions = list[int]()
        with trio.fail_after(20):
            while not revisions or revisions[-1] < host.registry.revision:
                update = await whole(slow)
                revisions.append(int(update.get("revision", 0)))
        assert update["events"] == [{"serviceType": "t", "state": "SERVICE_STATE_UNAVAILABLE"}]
        assert revisions == sorted(set(revisions))
        await eventually(lambda: not host.watches.lags_s())
