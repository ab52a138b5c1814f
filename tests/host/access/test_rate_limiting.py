"""Nobody calls more often than the rate of a kind allows, whatever it says of itself; and who waits, may."""

from __future__ import annotations

import json
import math
import ssl
from collections.abc import Callable
from typing import Any

import attrs
import grpc
import httpx
import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock
from trio_websocket import ConnectionRejected

from cpg_trio.asgi import App
from cpg_trio.host import (
    Enrolment,
    Host,
    HostConfig,
    Identity,
    PluginRules,
    Policy,
    Rate,
    RateLimits,
    Rules,
)
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.rate_limiting import Kind, RateLimiter, TokenBuckets
from cpg_trio.plugin._websocket import open_websocket
from cpg_trio.protos.connectplugin.health.v1 import health_pb2
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import AsgiTransport
from tests import _wire
from tests._wire import Response, dial_http2
from tests.host.calls import (
    COOKIE,
    DISCOVER,
    HANDSHAKE,
    HEALTH_WATCH,
    REGISTER,
    REPORT,
    UNREGISTER,
    VERSIONS,
    WATCH,
    Headers,
    WireCaller,
    running,
)
from tests.host.routed import hosting, routing, text

ONE = Rate(1, 1)
ONCE = Rate(0.2, 1)
"""One call, and another one after five seconds."""


@attrs.define
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


# TokenBuckets


@attrs.frozen
class Taken:
    at: float
    passed: bool


def taken(rate: Rate, pauses: list[float]) -> list[Taken]:
    """Take a token after each pause."""
    clock = Clock()
    buckets = TokenBuckets(rate, clock)
    history = []
    for pause in pauses:
        clock.now += pause
        history.append(Taken(clock.now, not buckets.take("k")))
    return history


RATES = st.builds(Rate, st.floats(0.01, 1000), st.integers(1, 50))
PAUSES = st.lists(st.floats(0, 2) | st.just(0.0), min_size=1, max_size=200)


@given(RATES, PAUSES)
def test_no_window_has_more_calls_than_the_burst_and_what_the_rate_adds_in_it(
    rate: Rate, pauses: list[float]
) -> None:
    passed = [call.at for call in taken(rate, pauses) if call.passed]
    for first, begin in enumerate(passed):
        for last in range(first, len(passed)):
            allowed = rate.burst + rate.per_s * (passed[last] - begin)
            assert last - first + 1 <= allowed + 1e-3


@given(RATES, PAUSES)
def test_a_call_is_refused_only_if_its_bucket_has_less_than_a_token(rate: Rate, pauses: list[float]) -> None:
    tokens, before = float(rate.burst), math.inf
    for call in taken(rate, pauses):
        tokens = min(rate.burst, tokens + max(0.0, call.at - before) * rate.per_s)
        before = call.at
        assert call.passed or tokens < 1 + 1e-3
        tokens -= call.passed


@given(RATES, st.lists(st.floats(0, 2), max_size=50))
def test_who_waits_as_long_as_it_is_told_is_let_through(rate: Rate, pauses: list[float]) -> None:
    clock = Clock()
    rates = RateLimiter(RateLimits(router=rate), clock)
    for pause in pauses:
        clock.now += pause
        if wait_s := rates.take(Kind.ROUTER, "k"):
            assert wait_s >= 1
            clock.now += wait_s
            assert not rates.take(Kind.ROUTER, "k")


def test_the_time_to_wait_is_in_whole_seconds_rounded_up() -> None:
    clock = Clock()
    rates = RateLimiter(RateLimits(router=Rate(0.4, 1)), clock)
    assert not rates.take(Kind.ROUTER, "k")
    assert rates.take(Kind.ROUTER, "k") == 3
    clock.now += 0.5
    assert rates.take(Kind.ROUTER, "k") == 2
    clock.now += 1.9
    assert rates.take(Kind.ROUTER, "k") == 1


def test_a_refused_call_costs_nothing() -> None:
    clock = Clock()
    buckets = TokenBuckets(ONE, clock)
    assert not buckets.take("k")
    for _ in range(100):
        assert buckets.take("k")
    clock.now += 1
    assert not buckets.take("k")


def test_each_key_has_a_bucket_of_its_own() -> None:
    buckets = TokenBuckets(ONE, Clock())
    assert [bool(buckets.take(key)) for key in "abab"] == [False, False, True, True]


def test_buckets_that_are_full_again_are_dropped_when_others_come() -> None:
    clock = Clock()
    buckets = TokenBuckets(ONE, clock)
    for number in range(100):
        buckets.take(f"old-{number}")
    clock.now += 1
    buckets.take("new")
    assert len(buckets) == 1


def test_a_flood_of_keys_is_bounded_and_pushes_out_whoever_has_called_least_lately() -> None:
    buckets = TokenBuckets(ONE, Clock(), most=10)
    buckets.take("long ago")
    buckets.take("lately")
    for number in range(1000):
        buckets.take(f"flood-{number}")
        assert len(buckets) <= 10
        if number < 8:
            assert buckets.take("lately")  # it is still known
    assert not buckets.take("long ago")  # forgotten, in its favour


@pytest.mark.parametrize("rate", [(0, 1), (-1, 1), (math.inf, 1), (math.nan, 1), (1, 0)])
def test_a_rate_that_allows_nothing_or_everything_is_refused(rate: tuple[float, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Rate(*rate)


def test_a_kind_without_a_rate_is_not_limited() -> None:
    rates = RateLimiter(RateLimits(discover=None), Clock())
    assert not any(rates.take(Kind.DISCOVER, "k") for _ in range(10_000))


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_call_has_a_rate(kind: Kind) -> None:
    rate = RateLimits().of(kind)
    assert rate
    rates = RateLimiter(RateLimits(), Clock())
    assert [bool(rates.take(kind, "k")) for _ in range(rate.burst + 1)] == [False] * rate.burst + [True]


# Who a caller is


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("10.0.0.5", 1), ("10.0.0.5", 65535), True),
        (("10.0.0.5", 1), ("10.0.0.6", 1), False),
        (("::ffff:10.0.0.5", 1), ("10.0.0.5", 2), True),
        (("2001:db8:0:1::1", 1), ("2001:db8:0:1:ffff::9", 2), True),
        (("2001:db8:0:1::1", 1), ("2001:db8:0:2::1", 1), False),
        (None, None, True),
        (None, ("127.0.0.1", 1), False),
    ],
)
def test_an_address_is_a_caller_whatever_its_port_and_its_last_64_bits(
    one: tuple[str, int] | None,
    other: tuple[str, int] | None,
    same: bool,  # noqa: FBT001
) -> None:
    assert (Peer.of(one).key == Peer.of(other).key) is same


# The host

T = {"serviceType": "t"}
FORGED = {"X-Plugin-Runtime-ID": "p-0000", "Authorization": "Bearer forged"}


async def shake_hands(app: App, address: str, port: int) -> int:
    """Shake hands from an address and a port; return the status of the answer."""
    transport = AsgiTransport(app, (address, port))
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
        return (await WireCaller(http).post(HANDSHAKE, hello()))[0]


def hello(self_id: str = "p") -> dict[str, Any]:
    return {**COOKIE, **VERSIONS, "selfId": self_id}


def enveloped(message: dict[str, Any]) -> bytes:
    content = json.dumps(message).encode()
    return b"\0" + len(content).to_bytes(4, "big") + content


async def first_frame(host: WireCaller, path: str, headers: Headers) -> tuple[httpx.Headers, Any]:
    """Return the headers and the first message of a stream of a service type `t`, which is left then."""
    content = enveloped({"serviceType": "t"} if path == WATCH else {})
    stream = {**headers, "content-type": "application/connect+json"}
    async with host.http.stream("POST", path, content=content, headers=stream) as response:
        async for chunk in response.aiter_bytes():
            return response.headers, json.loads(chunk[5:])
    raise AssertionError("it ended before it began")


async def test_ten_handshakes_from_ten_ports_of_one_address_are_ten_handshakes_of_one_caller() -> None:
    async with Host(HostConfig(rates=RateLimits(handshake=ONCE))).application() as app:
        statuses = [await shake_hands(app, "10.0.0.5", port) for port in range(10)]
        assert statuses == [200] + [429] * 9
        assert await shake_hands(app, "10.0.0.6", 1) == 200


async def test_handshakes_are_limited_whatever_comes_of_them() -> None:
    async with running(HostConfig(rates=RateLimits(handshake=Rate(0.001, 3)))) as host:
        for _ in range(3):
            assert (await host.post(HANDSHAKE, {}))[0] == 400
        assert (await host.post(HANDSHAKE, hello()))[0] == 429


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Plugin-Runtime-ID"])
async def test_a_header_that_anybody_can_send_gains_no_handshakes_and_grows_no_memory(header: str) -> None:
    async with running(HostConfig(rates=RateLimits(handshake=ONCE))) as host:
        statuses = [
            (await host.post(HANDSHAKE, hello(), {header: f"10.0.1.{number}"}))[0] for number in range(10)
        ]
        assert statuses == [200] + [429] * 9
        assert len(host.host._access._limiter._buckets[Kind.HANDSHAKE]) == 1


async def test_a_runtime_id_that_is_not_proved_is_never_a_key() -> None:
    async with running(HostConfig(rates=RateLimits(failed_authentication=Rate(0.001, 5)))) as host:
        statuses = [
            (await host.post(DISCOVER, T, {**FORGED, "X-Plugin-Runtime-ID": f"p-{number}"}))[0]
            for number in range(20)
        ]
        assert statuses == [401] * 5 + [429] * 15
        assert [len(buckets) for buckets in host.host._access._limiter._buckets.values()].count(1) == 1
        assert len(host.host._access._limiter._buckets[Kind.FAILED_AUTHENTICATION]) == 1


async def test_who_fails_to_prove_an_identity_keeps_nobody_out_who_does() -> None:
    async with running(HostConfig(rates=RateLimits(failed_authentication=ONCE))) as host:
        plugin = await host.plugin("p")
        for _ in range(3):
            await host.post(DISCOVER, T, FORGED)
        assert (await host.post(DISCOVER, T, FORGED))[0] == 429
        assert (await host.post(REPORT, {"state": 1}, plugin))[0] == 200


async def test_a_flood_of_handshakes_keeps_no_plugin_at_the_same_address_from_renewing_its_token() -> None:
    async with running(HostConfig(rates=RateLimits(handshake=Rate(0.001, 2)))) as host:
        one, other = await host.plugin("p"), await host.plugin("p")
        assert (await host.post(HANDSHAKE, hello()))[0] == 429
        for plugin in (one, other):
            assert [(await host.post(HANDSHAKE, hello(), plugin))[0] for _ in range(3)] == [200, 200, 429]
        assert (await host.post(HANDSHAKE, hello("another"), one))[0] == 429  # which proves no such name


async def test_a_flood_of_handshakes_keeps_nobody_out_who_proves_its_name() -> None:
    tokens = {"p": "p" * 16, "q": "q" * 16}
    config = HostConfig(rates=RateLimits(handshake=Rate(0.001, 2)), enrolment=Enrolment(tokens))
    async with running(config) as host:

        async def status(self_id: str, token: str) -> int:
            return (await host.post(HANDSHAKE, hello(self_id), {"X-Plugin-Enrolment": token}))[0]

        assert [await status("p", "wrong" * 4) for _ in range(3)] == [403, 403, 429]
        assert (await host.post(HANDSHAKE, {}))[0] == 429
        assert [await status("p", "p" * 16) for _ in range(3)] == [200, 200, 429]
        assert await status("q", "q" * 16) == 200
        assert await status("q", "p" * 16) == 429  # another's


@pytest.mark.parametrize("path", [DISCOVER, REPORT])
async def test_a_plugin_hears_that_its_identity_has_ended_whatever_others_do_at_its_address(
    path: str,
) -> None:
    async with running(HostConfig(rates=RateLimits(failed_authentication=ONCE))) as host:
        plugin = await host.plugin("p")
        await host.host.revoke_identity(plugin["X-Plugin-Runtime-ID"])
        for _ in range(2):
            await host.post(DISCOVER, T, FORGED)
        status, answer = await host.post(path, T if path == DISCOVER else {"state": 1}, plugin)
        assert (status, "has ended" in answer["message"]) == (401, True)
        assert (await host.post(path, T, plugin))[0] == 429


async def test_a_watch_of_health_is_counted_for_the_identity_that_it_proves() -> None:
    async with running(HostConfig(rates=RateLimits(watch=ONCE))) as host:
        plugin = await host.plugin("p")
        for headers in ({}, plugin):
            _, first = await first_frame(host, HEALTH_WATCH, headers)
            assert "error" not in first
            _, refused = await first_frame(host, HEALTH_WATCH, headers)
            assert refused["error"]["code"] == "resource_exhausted"


SERVICE = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/t/"}


@pytest.mark.parametrize(
    ("kind", "path", "body"),
    [
        (Kind.REGISTER, REGISTER, SERVICE),
        (Kind.UNREGISTER, UNREGISTER, {"registrationId": "reg-x"}),
        (Kind.DISCOVER, DISCOVER, T),
        (Kind.HEALTH_REPORT, REPORT, {"state": 1}),
    ],
)
async def test_a_plugin_that_calls_too_often_is_told_when_to_try_again_and_then_may(
    kind: Kind, path: str, body: dict[str, Any], autojump_clock: MockClock
) -> None:
    rates = {kind.name.lower(): Rate(0.2, 2)}
    async with running(HostConfig(rates=RateLimits(**rates))) as host:
        plugin, other = await host.plugin("p"), await host.plugin("p")
        expected = (await host.post(path, body, plugin))[0]
        assert (await host.post(path, body, plugin))[0] == expected
        refused = await host.http.post(path, json=body, headers=plugin)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "5"
        assert refused.json() == {
            "code": "resource_exhausted",
            "message": f"rate limit exceeded for {kind}: try again in 5 s",
        }
        assert (await host.post(path, body, other))[0] == expected
        await trio.sleep(int(refused.headers["retry-after"]))
        assert (await host.post(path, body, plugin))[0] == expected
        assert (await host.post(path, body, plugin))[0] == 429


async def test_a_handshake_that_is_refused_says_when_to_try_again(autojump_clock: MockClock) -> None:
    async with running(HostConfig(rates=RateLimits(handshake=ONCE))) as host:
        await host.plugin("p")
        refused = await host.http.post(HANDSHAKE, json=hello())
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        await trio.sleep(5)
        await host.plugin("p")


async def test_a_refused_registration_changes_nothing() -> None:
    async with running(HostConfig(rates=RateLimits(register=ONCE))) as host:
        plugin = await host.plugin("p")
        await host.register(plugin, "t")
        assert (await host.post(REGISTER, {**SERVICE, "serviceType": "u"}, plugin))[0] == 429
        assert host.host.registry.service_types() == ["t"]


# Streams


@pytest.mark.parametrize("path", [WATCH, HEALTH_WATCH])
async def test_streams_are_limited_as_other_calls_are(path: str, autojump_clock: MockClock) -> None:
    async with running(HostConfig(rates=RateLimits(watch=ONCE))) as host:
        plugin = await host.plugin("p")
        _, first = await first_frame(host, path, plugin)
        assert "error" not in first
        headers, refused = await first_frame(host, path, plugin)
        assert refused["error"] == {
            "code": "resource_exhausted",
            "message": "rate limit exceeded for watch: try again in 5 s",
        }
        assert headers["retry-after"] == "5"
        await trio.sleep(5)
        _, again = await first_frame(host, path, plugin)
        assert "error" not in again


def grpc_watch(
    url: str, path: str, message: bytes, metadata: tuple[tuple[str, str], ...]
) -> tuple[grpc.StatusCode | None, str | None]:
    """Return the code of the first answer of a stream, None for a message; and when to try again."""
    with grpc.insecure_channel(url.removeprefix("http://")) as channel:
        watch: Callable[..., Any] = channel.unary_stream(
            path, request_serializer=bytes, response_deserializer=bytes
        )
        stream = watch(message, metadata=metadata, timeout=10)
        try:
            next(stream)
        except grpc.RpcError as error:
            call: Any = error
            told = dict(call.initial_metadata())
            return call.code(), told.get("retry-after")
        stream.cancel()
        return None, None


@pytest.mark.parametrize("path", [WATCH, HEALTH_WATCH])
async def test_streams_of_grpc_are_limited_as_well(path: str) -> None:
    async with hosting(HostConfig(rates=RateLimits(watch=Rate(0.001, 1)))) as (host, url):
        identity, token = host.identities.issue("p")
        metadata = (("x-plugin-runtime-id", identity.runtime_id), ("authorization", f"Bearer {token}"))
        asked = pb.WatchServiceRequest(service_type="t") if path == WATCH else health_pb2.HealthCheckRequest()
        message = asked.SerializeToString()
        assert await trio.to_thread.run_sync(grpc_watch, url, path, message, metadata) == (None, None)
        refused = await trio.to_thread.run_sync(grpc_watch, url, path, message, metadata)
        assert refused == (grpc.StatusCode.RESOURCE_EXHAUSTED, "1000")


def _trusting() -> ssl.SSLContext:
    return _wire.TRUST[-1]


async def test_the_handshake_of_a_websocket_is_limited_together_with_streams() -> None:
    async with hosting(HostConfig(rates=RateLimits(watch=Rate(0.001, 1)))) as (host, url):
        identity, token = host.identities.issue("p")
        headers = {"X-Plugin-Runtime-ID": identity.runtime_id, "Authorization": f"Bearer {token}"}
        async with open_websocket(url + "/watch", headers, [], ssl_context=_trusting):
            pass
        with pytest.raises(ConnectionRejected) as refused:
            async with open_websocket(url + "/watch", headers, [], ssl_context=_trusting):
                pass
        assert refused.value.status_code == 429
        assert (b"retry-after", b"1000") in refused.value.headers
        assert refused.value.body == b"rate limit exceeded for watch: try again in 1000 s\n"
        async with httpx.AsyncClient(base_url=url, verify=_wire.trusted()) as http:
            _, answer = await first_frame(WireCaller(http), WATCH, headers)
        assert answer["error"]["code"] == "resource_exhausted"


async def test_a_websocket_that_proves_nobody_is_counted_by_its_address() -> None:
    async with hosting(HostConfig(rates=RateLimits(failed_authentication=Rate(0.001, 1)))) as (_, url):
        statuses = []
        for _ in range(2):
            with pytest.raises(ConnectionRejected) as refused:
                async with open_websocket(url + "/watch", FORGED, [], ssl_context=_trusting):
                    pass
            statuses.append(refused.value.status_code)
        assert statuses == [401, 429]


# The router

LIMITED = HostConfig(rates=RateLimits(router=Rate(0.001, 2), failed_authentication=Rate(0.001, 1)))


def refused_by_router(response: Response) -> None:
    assert text(response) == (429, "Rate limit exceeded\n")
    assert 900 < int(response.header(b"retry-after") or b"0") <= 1000
    assert response.header(b"x-plugin-undelivered") == b"true"


async def test_routed_calls_are_limited_by_caller_and_refused_in_the_words_of_the_protocol() -> None:
    async with routing(config=LIMITED) as s:
        assert [(await s.call(s.head("GET"))).status for _ in range(2)] == [200, 200]
        refused_by_router(await s.call(s.head("GET")))
        other, token = s.host.identities.issue("caller")
        other_setting = attrs.evolve(s, caller=other.runtime_id, token=token)
        assert (await other_setting.call(other_setting.head("GET"))).status == 200


async def test_a_caller_hears_that_its_identity_has_ended_whatever_others_do_at_its_address() -> None:
    async with routing(config=LIMITED) as s:
        forged = attrs.evolve(s, token="forged")
        assert [(await forged.call(forged.head("GET"))).status for _ in range(2)] == [401, 429]
        await s.host.revoke_identity(s.caller)
        assert [(await s.call(s.head("GET"))).status for _ in range(2)] == [401, 429]


async def test_a_routed_call_with_a_body_that_is_not_read_is_refused_as_well() -> None:
    async with routing(config=LIMITED) as s:
        for _ in range(2):
            await s.call(s.head("GET"))
        refused_by_router(await s.call(s.head("POST", None, "content-length: 100000")))


async def test_routed_calls_of_http2_are_limited_together_with_the_others() -> None:
    async with routing(config=LIMITED) as s, dial_http2(s.url) as wire:
        credentials = [(name.lower(), value) for name, value in s.credentials.items()]
        for expected in (200, 200, 429):
            stream = await wire.request(s.path(), *credentials)
            assert await wire.status(stream) == expected
        refused_by_router(await s.call(s.head("GET")))


async def test_a_routed_call_is_counted_before_the_policy_is_asked() -> None:
    asked = []

    class Nobody(Policy):
        def may_call(self, _plugin: Identity, service_type: str, /) -> bool:
            asked.append(service_type)
            return False

    async with routing(config=attrs.evolve(LIMITED, policy=Nobody())) as s:
        assert [(await s.call(s.head("GET"))).status for _ in range(3)] == [403, 403, 429]
        assert len(asked) == 2


async def test_routed_calls_that_prove_nobody_are_limited_by_address_and_leave_no_line_beyond(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with routing(config=LIMITED) as s:
        forged = attrs.evolve(s, token="forged")
        assert (await forged.call(forged.head("GET"))).status == 401
        for number in range(3):
            rotating = attrs.evolve(forged, caller=f"p-{number}")
            refused_by_router(await rotating.call(rotating.head("GET")))
        assert (await s.call(s.head("GET"))).status == 200
        assert caplog.text.count("Invalid token") == 1
        assert s.host.statistics().router.refused == 4


async def test_what_plain_plugins_do_for_each_of_their_calls_is_limited_no_more_than_the_calls(
    mock_clock: MockClock,  # which stands still
) -> None:
    async with running() as host:
        caller = await host.plugin("caller")
        provider = await host.provider("echo")
        for _ in range(1000):
            assert await host.discover("echo", caller) == provider["X-Plugin-Runtime-ID"]
    limits = RateLimits()
    assert limits.discover == limits.capability_call == limits.router


async def test_what_is_not_for_a_plugin_it_may_ask_for_less_often(mock_clock: MockClock) -> None:
    nobody = Policy(Rules(plugins={"caller": PluginRules(calls=[])}))
    async with running(HostConfig(policy=nobody)) as host:
        caller = await host.plugin("caller")
        said = [await host.discover("echo", caller) for _ in range(250)]
        assert sum("may not call" in answer for answer in said) <= 200
        assert "rate limit exceeded" in said[-1]
