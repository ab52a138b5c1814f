"""What a host takes in and keeps is bounded: so much passes, one more does not, and then again."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionRejected

from cpg_trio import HealthState
from cpg_trio._health_states import health_number
from cpg_trio.host import Health, Host, HostConfig, Limits, Rate, RateLimits
from cpg_trio.host.access.limits import held_bytes
from cpg_trio.plugin._websocket import open_websocket
from cpg_trio.rpc import AsgiTransport
from tests._wire import dial, dial_http2
from tests.host.calls import (
    CHECK,
    COOKIE,
    DISCOVER,
    HANDSHAKE,
    HEALTH_WATCH,
    REGISTER,
    REPORT,
    UNREGISTER,
    VERSIONS,
    WATCH,
    Caller,
    Headers,
    WireCaller,
    running,
    runtime_id,
)
from tests.host.routed import hosting, routing, text
from tests.http.peers import OK, Peer
from tests.plugin.running import eventually


def few(**limits: int) -> HostConfig:
    return HostConfig(limits=Limits(**limits), rates=RateLimits(handshake=None))


def exhausted(what: str, most: int) -> tuple[int, dict[str, str]]:
    return 429, {"code": "resource_exhausted", "message": f"too many {what} (max: {most})"}


def hello(**more: Any) -> dict[str, Any]:
    return {**COOKIE, **VERSIONS, "selfId": "p", **more}


def service(service_type: str) -> dict[str, str]:
    return {"serviceType": service_type, "version": "1.0.0", "endpointPath": "/t/"}


@pytest.mark.parametrize("limit", [field.name for field in attrs.fields(Limits)])
def test_a_limit_that_leaves_nothing_is_refused(limit: str) -> None:
    with pytest.raises(ValueError, match=limit):
        Limits(**{limit: -1})


# What is kept


async def test_there_are_no_more_identities_than_the_limit_says() -> None:
    async with running(few(max_identities=2)) as host:
        first, _ = await host.plugin("p"), await host.plugin("p")
        assert await host.post(HANDSHAKE, hello()) == exhausted("identities", 2)
        assert len(host.host.identities) == 2
        assert (await host.post(HANDSHAKE, hello(selfId="")))[0] == 200  # who asks for none may
        host.host.identities.revoke(runtime_id(first))
        assert (await host.post(HANDSHAKE, hello()))[0] == 200


async def test_a_plugin_has_no_more_registrations_than_the_limit_says() -> None:
    async with running(few(max_registrations_per_plugin=2)) as host:
        plugin, other = await host.plugin("p"), await host.plugin("p")
        first = await host.register(plugin, "one")
        await host.register(plugin, "two")
        await host.register(plugin, "two", version="2.0.0")  # in place of that, and no third
        refused = await host.post(REGISTER, service("three"), plugin)
        assert refused == exhausted("registrations of one plugin", 2)
        assert host.host.registry.service_types() == ["one", "two"]
        await host.register(other, "three")
        await host.post(UNREGISTER, {"registrationId": first}, plugin)
        await host.register(plugin, "three")


@pytest.mark.parametrize(
    ("limit", "what"),
    [
        ("max_metadata_bytes_per_plugin", "bytes of metadata of one plugin"),
        ("max_metadata_bytes", "bytes of metadata"),
    ],
)
async def test_no_more_metadata_is_kept_than_the_limit_says(limit: str, what: str) -> None:
    most = 2 * held_bytes("k", "1234")
    async with running(few(**{limit: most})) as host:
        plugin = await host.plugin("p")
        for service_type, value, status in (
            ("one", "1234", 200),
            ("two", "1234", 200),
            ("three", "1", 429),
            ("two", "12345", 429),
            ("two", "1", 200),
        ):
            said = {**service(service_type), "metadata": {"k": value}}
            answer = await host.post(REGISTER, said, plugin)
            assert answer[0] == status
            assert status == 200 or answer == exhausted(what, most)
        host.host.registry.remove_plugin(runtime_id(plugin))
        assert host.host.registry._metadata_bytes.total == 0


async def test_there_are_no_more_plugins_with_registrations_than_the_limit_says() -> None:
    async with running(few(max_plugins=1)) as host:
        first, other = await host.provider("one"), await host.plugin("p")
        await host.register(first, "two")
        refused = await host.post(REGISTER, service("three"), other)
        assert refused == exhausted("plugins that have registered something", 1)
        host.host.registry.remove_plugin(runtime_id(first))
        await host.register(other, "three")


async def test_of_a_report_for_whose_reason_there_is_no_room_the_state_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with running(few(max_health_bytes=1000)) as host:
        one, other = await host.plugin("p"), await host.provider("t")
        assert (await host.post(REPORT, {"state": 2, "reason": "x" * 600}, one))[0] == 200
        for state in (HealthState.DEGRADED, HealthState.UNHEALTHY):
            number = health_number(state)
            assert (await host.post(REPORT, {"state": number, "reason": "y" * 600}, other))[0] == 200
            assert host.host.registry.health(runtime_id(other)) == Health(state)
            await host.post(REPORT, {"state": number, "reason": "y" * 600}, other)
        assert len([line for line in caplog.messages if f"{runtime_id(other)} reports" in line]) == 2
        assert host.host.registry.health(runtime_id(one)).reason == "x" * 600
        await host.host.revoke_identity(runtime_id(one))
        await host.post(REPORT, {"state": 2, "reason": "y" * 600}, other)
        assert host.host.registry.health(runtime_id(other)).reason == "y" * 600
        await host.host.revoke_identity(runtime_id(other))
        assert host.host.registry._health_bytes.total == 0


async def test_of_a_plugin_that_is_not_kept_no_report_is_kept_either(autojump_clock: MockClock) -> None:
    async with running() as host:
        idle = await host.plugin("p")
        await host.post(REPORT, {"state": 2, "reason": "waiting"}, idle)
        await trio.sleep(601)
        await host.plugin("p")
        assert host.host.registry.health(runtime_id(idle)) == Health()
        assert host.host.registry._health_bytes.total == 0
        assert (await host.post(REPORT, {"state": 2}, idle))[0] == 200  # its token is good


SHARED = [
    ("max_registrations", "registrations"),
    ("max_plugins", "plugins that have registered something"),
    ("max_metadata_bytes", "bytes of metadata"),
]


@pytest.mark.parametrize(("limit", "what"), SHARED)
async def test_one_address_leaves_room_for_others_in_what_is_for_all(limit: str, what: str) -> None:
    most = 100 * held_bytes("k", "v") if "bytes" in limit else 100
    host = Host(few(**{limit: most}))
    async with host.application() as app:

        async def fill(address: str) -> tuple[int, str]:
            """Register with a plugin each, until it is refused; return how often it was not, and why then."""
            transport = AsgiTransport(app, (address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
                caller = Caller(http, host)
                for count in range(most):
                    plugin = await caller.plugin("p")
                    said = {**service("t"), "metadata": {"k": "v"}}
                    status, answer = await caller.post(REGISTER, said, plugin)
                    if status != 200:
                        return count, answer["message"]
            raise AssertionError("nobody was refused")

        count, message = await fill("192.0.2.1")
        assert (count, message.split(" (")[0]) == (75, f"too many {what} of one address")
        assert (await fill("192.0.2.2"))[0] >= 18
        assert (await fill("2001:db8::1"))[0] >= 4


async def test_all_plugins_together_have_no_more_registrations_than_the_limit_says() -> None:
    async with running(few(max_registrations=2)) as host:
        first = await host.provider("one")
        await host.provider("two")
        assert await host.post(REGISTER, service("three"), first) == exhausted("registrations", 2)
        host.host.registry.remove_plugin(runtime_id(first))
        await host.provider("three")


@asynccontextmanager
async def streaming(host: WireCaller, path: str, headers: Headers) -> AsyncIterator[dict[str, Any]]:
    """Watch by a stream; yield what it begins with."""
    content = json.dumps({"serviceType": "t"} if path == WATCH else {}).encode()
    frame = b"\0" + len(content).to_bytes(4, "big") + content
    stream = {**headers, "content-type": "application/connect+json"}
    async with host.http.stream("POST", path, content=frame, headers=stream) as response:
        async for chunk in response.aiter_bytes():
            yield json.loads(chunk[5:])
            return


async def stream_refusal(host: WireCaller, path: str, headers: Headers) -> tuple[str, str]:
    async with streaming(host, path, headers) as first:
        return first["error"]["code"], first["error"]["message"]


async def test_a_plugin_has_no_more_watches_than_the_limit_says_by_websocket_and_stream_together() -> None:
    async with hosting(few(max_watches_per_plugin=2)) as (host, url), httpx.AsyncClient(base_url=url) as http:
        caller = Caller(http, host)
        plugin, other = await caller.plugin("p"), await caller.plugin("p")
        async with open_websocket(url + "/watch", plugin, []), streaming(caller, WATCH, plugin):
            assert await stream_refusal(caller, WATCH, plugin) == (
                "resource_exhausted",
                "too many watches of one plugin (max: 2)",
            )
            with pytest.raises(ConnectionRejected) as refused:
                async with open_websocket(url + "/watch", plugin, []):
                    pass
            assert (refused.value.status_code, refused.value.body) == (
                429,
                b"too many watches of one plugin (max: 2)\n",
            )
            async with streaming(caller, WATCH, other) as first:
                assert "error" not in first
        await eventually(lambda: not len(host.watches))
        async with open_websocket(url + "/watch", plugin, []), streaming(caller, WATCH, plugin) as first:
            assert "error" not in first


async def test_all_plugins_together_have_no_more_watches_than_the_limit_says() -> None:
    async with running(few(max_watches=1)) as host:
        one, other = await host.plugin("p"), await host.plugin("p")
        async with streaming(host, WATCH, one):
            refused = await stream_refusal(host, WATCH, other)
            assert refused == ("resource_exhausted", "too many watches (max: 1)")
        await eventually(lambda: not len(host.host.watches))
        async with streaming(host, WATCH, other) as first:
            assert "error" not in first


async def test_there_are_no_more_watches_of_health_than_the_limit_says() -> None:
    async with running(few(max_health_watches=2)) as host, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(streaming(host, HEALTH_WATCH, {}))
        refused = await stream_refusal(host, HEALTH_WATCH, {})
        assert refused == ("resource_exhausted", "too many watches of health (max: 2)")
        await stack.aclose()
        await eventually(lambda: not host.host.health._watches.total)
        async with streaming(host, HEALTH_WATCH, {}) as first:
            assert first == {"status": "SERVING_STATUS_SERVING"}


async def test_a_websocket_follows_no_more_types_than_the_limit_says() -> None:
    async with hosting(few(max_subscriptions=2)) as (host, url):
        identity, token = host.identities.issue("p")
        headers = {"X-Plugin-Runtime-ID": identity.runtime_id, "Authorization": f"Bearer {token}"}
        async with open_websocket(url + "/watch", headers, []) as socket:
            subscribe = [{"serviceType": name} for name in ("one", "two", "three")]
            await socket.send_message(json.dumps({"subscribe": subscribe}))
            said = [json.loads(str(await socket.get_message())) for _ in range(2)]
            refusal = {"serviceType": "three", "message": "too many subscriptions (max: 2)"}
            assert {"refusals": [refusal]} in said
            await socket.send_message(json.dumps({"unsubscribe": ["one"], "subscribe": subscribe[2:]}))
            assert "refusals" not in json.loads(str(await socket.get_message()))


async def test_all_watches_together_follow_no_more_types_than_the_limit_says() -> None:
    async with hosting(few(max_all_subscriptions=4)) as (host, url), httpx.AsyncClient(base_url=url) as http:
        caller = Caller(http, host)
        one, other = await caller.plugin("p"), await caller.plugin("p")
        async with open_websocket(url + "/watch", one, []) as socket:
            subscribe = [{"serviceType": name} for name in ("one", "two", "three", "four")]
            await socket.send_message(json.dumps({"subscribe": subscribe}))
            said = [json.loads(str(await socket.get_message())) for _ in range(2)]
            message = "too many subscriptions of all watches of one address (max: 3)"
            assert {"refusals": [{"serviceType": "four", "message": message}]} in said
            await socket.send_message(json.dumps({"unsubscribe": ["one"], "subscribe": subscribe[2:]}))
            assert "refusals" not in json.loads(str(await socket.get_message()))
            refused = await stream_refusal(caller, WATCH, other)
            assert refused == ("resource_exhausted", message)
        await eventually(lambda: not host.watches.subscriptions.total)
        async with streaming(caller, WATCH, other) as first:
            assert "error" not in first


@pytest.mark.parametrize("path", [WATCH, HEALTH_WATCH])
async def test_what_a_stream_is_asked_for_with_is_small_as_it_is_held_for_as_long_as_the_stream(
    path: str,
) -> None:
    async with running() as host:
        plugin = await host.plugin("p")
        unknown = b"\xba\x3e\xe8\x07" + b"x" * 1000  # a field that there is not
        message = b"\x0a\x01t" + unknown
        frame = b"\0" + len(message).to_bytes(4, "big") + message
        stream = {**plugin, "content-type": "application/connect+proto"}
        response = await host.http.post(path, content=frame, headers=stream)
        error = json.loads(response.content[5:])["error"]
        assert error == {"code": "invalid_argument", "message": "request too long: 1007 bytes (max: 512)"}


@pytest.mark.parametrize(("limit", "what"), [("max_health_watches", "watches of health")])
async def test_one_address_leaves_room_for_others_in_what_needs_no_identity(limit: str, what: str) -> None:
    host = Host(few(**{limit: 8}))
    async with host.application() as app, AsyncExitStack() as stack:
        callers = [
            WireCaller(
                await stack.enter_async_context(
                    httpx.AsyncClient(transport=AsgiTransport(app, (address, 1)), base_url="http://host")
                )
            )
            for address in ("192.0.2.1", "192.0.2.2")
        ]
        for _ in range(6):
            await stack.enter_async_context(streaming(callers[0], HEALTH_WATCH, {}))
        refused = await stream_refusal(callers[0], HEALTH_WATCH, {})
        assert refused == ("resource_exhausted", f"too many {what} of one address (max: 6)")
        async with streaming(callers[1], HEALTH_WATCH, {}) as first:
            assert first == {"status": "SERVING_STATUS_SERVING"}


async def test_no_more_callers_are_remembered_for_their_rates_than_the_limit_says() -> None:
    rates = RateLimits(handshake=None, discover=Rate(0.001, 2))
    async with running(HostConfig(limits=Limits(max_rate_keys=3), rates=rates)) as host:
        for _ in range(10):
            await host.post(DISCOVER, {"serviceType": "t"}, await host.plugin("p"))
        assert max(len(buckets) for buckets in host.host._access._limiter._buckets.values()) == 3


# What is said


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"selfVersion": "new"}, 'version "new" must be semantic version (e.g., 1.0.0, 2.1.3-beta)'),
        ({"requestedPlugins": ["p"] * 101}, "too many requested plugins: 101 (max: 100)"),
        ({"requestedPlugins": ["é" * 65]}, "requested plugin too long: 130 bytes (max: 128)"),
        ({"clientMetadata": {"": "v"}}, "metadata key cannot be empty"),
        (
            {"clientMetadata": {"k": "v" * 4097}},
            'metadata value for key "k" too long: 4097 bytes (max: 4096)',
        ),
        (
            {"clientMetadata": {f"k{n}": "" for n in range(101)}},
            "too many metadata entries: 101 (max: 100)",
        ),
    ],
)
async def test_a_handshake_says_no_more_than_the_protocol_lets_it(said: dict[str, Any], message: str) -> None:
    async with running() as host:
        refused = await host.post(HANDSHAKE, hello(**said))
        assert refused == (400, {"code": "invalid_argument", "message": message})
        assert not len(host.host.identities)


async def test_a_handshake_may_say_as_much_as_the_protocol_lets_it() -> None:
    async with running() as host:
        said = {
            "selfVersion": "",
            "requestedPlugins": ["p" * 128] * 100,
            "clientMetadata": {f"k{n}": "v" for n in range(100)},
        }
        assert (await host.post(HANDSHAKE, hello(**said)))[0] == 200


def padded(size: int) -> bytes:
    """Return a request for the host's own health, in JSON, of so many bytes."""
    return b"{" + b" " * (size - 2) + b"}"


@pytest.mark.parametrize("length", ["declared", "unknown"])
@pytest.mark.parametrize("packed", [False, True])
async def test_the_hosts_services_take_no_larger_messages_than_the_limit_says(
    packed: bool,  # noqa: FBT001
    length: str,
) -> None:
    async def answer(body: bytes) -> tuple[int, Any]:
        async def parts() -> AsyncGenerator[bytes, None]:
            yield body

        headers = {"content-type": "application/json"}
        body = gzip.compress(body) if packed else body
        if packed:
            headers["content-encoding"] = "gzip"
        async with aclosing(parts()) as in_parts:  # which the host may leave in the middle
            content = in_parts if length == "unknown" else body
            response = await host.http.post(CHECK, content=content, headers=headers)
        return response.status_code, response.json()

    async with running() as host:
        assert (await answer(padded(256 * 1024)))[0] == 200
        for size in (256 * 1024 + 1, 64 * 1024 * 1024 if packed else 10**6):
            assert await answer(padded(size)) == (
                429,
                {"code": "resource_exhausted", "message": "message is larger than configured max 262144"},
            )


@pytest.mark.parametrize("packed", [False, True])
async def test_a_stream_begins_with_no_larger_message_than_the_limit_says(packed: bool) -> None:  # noqa: FBT001
    async with running() as host:
        body = padded(256 * 1024 + 1)
        body = gzip.compress(body) if packed else body
        frame = bytes([packed]) + len(body).to_bytes(4, "big") + body
        headers = {"content-type": "application/connect+json", "connect-content-encoding": "gzip"}
        response = await host.http.post(HEALTH_WATCH, content=frame, headers=headers)
        error = json.loads(response.content[5:])["error"]
        assert error["code"] == "resource_exhausted"
        assert "262144" in error["message"]


async def test_a_message_is_refused_by_the_length_that_it_declares_before_it_has_come() -> None:
    async with running() as host:
        headers = {"content-type": "application/connect+json"}
        response = await host.http.post(HEALTH_WATCH, content=b"\0\xff\xff\xff\xff{", headers=headers)
        assert json.loads(response.content[5:])["error"]["code"] == "resource_exhausted"


async def test_a_refused_message_changes_nothing() -> None:
    async with running(few(max_message_bytes=200)) as host:
        plugin = await host.plugin("p")
        large = {**service("t"), "metadata": {"k": "v" * 200}}
        assert (await host.post(REGISTER, large, plugin))[0] == 429
        assert host.host.registry.service_types() == []
        assert (await host.post(DISCOVER, {"serviceType": "t"}, plugin))[0] == 404


# What is routed

TOO_LARGE = (413, "request body too large (max: 1000 bytes)\n")
LIMITED = HostConfig(limits=Limits(max_routed_body_bytes=1000))


async def take_bodies(peer: Peer) -> None:
    """Answer each request when its body has come whole."""
    while head := await peer.receive_head():
        if b"chunked" in head:
            await peer.receive_until(b"0\r\n\r\n")
        else:
            await peer.receive_until(b"x" * 1000)
        await peer.send(OK)


def chunked(*sizes: int) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes) + b"0\r\n\r\n"


async def test_a_routed_body_may_be_as_large_as_the_limit_says() -> None:
    async with routing(take_bodies, config=LIMITED) as s:
        declared = s.head("POST", None, "content-length: 1000") + b"x" * 1000
        assert (await s.call(declared)).status == 200
        streamed = s.head("POST", None, "transfer-encoding: chunked") + chunked(500, 500)
        assert (await s.call(streamed)).status == 200


async def test_a_routed_body_that_says_that_it_is_larger_is_refused_before_it_has_come() -> None:
    async with routing(take_bodies, config=LIMITED) as s:
        refused = await s.call(s.head("POST", None, "content-length: 1001"))
        assert text(refused) == TOO_LARGE
        assert refused.header(b"x-plugin-undelivered") == b"true"


@pytest.mark.parametrize("sizes", [(1001,), (500, 501), (1,) * 1001])
async def test_a_routed_body_that_turns_out_to_be_larger_is_refused_then(sizes: tuple[int, ...]) -> None:
    async with routing(take_bodies, config=LIMITED) as s:
        head = s.head("POST", None, "transfer-encoding: chunked")
        assert text(await s.call(head + chunked(*sizes))) == TOO_LARGE
        assert (await s.call(head + chunked(1000))).status == 200


async def test_a_routed_body_that_comes_in_parts_is_refused_when_it_has_passed_the_limit() -> None:
    async with routing(take_bodies, config=LIMITED) as s, dial(s.url) as wire:
        await wire.send(s.head("POST", None, "transfer-encoding: chunked"))
        for _ in range(3):
            await wire.send(b"190\r\n" + b"x" * 400 + b"\r\n")
        assert text(await wire.response()) == TOO_LARGE


async def test_a_routed_body_of_http2_is_limited_as_well() -> None:
    async with routing(take_bodies, config=LIMITED) as s, dial_http2(s.url) as wire:
        credentials = [(name.lower(), value) for name, value in s.credentials.items()]
        stream = await wire.request(s.path(), *credentials, body=b"x" * 1001, method="POST")
        assert (await wire.response(stream)).status == 413


async def test_routed_bodies_are_not_limited_unless_somebody_says_so() -> None:
    async with routing(take_bodies) as s:
        large = s.head("POST", None, "transfer-encoding: chunked") + chunked(*[2**16] * 100)
        assert (await s.call(large)).status == 200
