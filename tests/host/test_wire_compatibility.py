"""The host answers as the other implementations of the protocol do: the same statuses, in the same words.

The expectations were observed on the Go implementation.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cpg_trio import __version__
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
    running,
    runtime_id,
)

# All but the first are ours; a plugin that does not know them takes no notice.
LOGGER = {"type": "logger", "version": "1.0.0", "endpoint": "http://host/broker"}
SERVER_METADATA = {"server_version": __version__, "heartbeat_interval_ms": "5000", "lease_ms": "15000"}
NAME_RULE = r"contains invalid characters (must match: ^[a-zA-Z][a-zA-Z0-9_.\-]*$)"


async def test_a_handshake_with_a_self_id_gives_an_identity() -> None:
    async with running() as host:
        status, answer = await host.post(
            HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": "My_Probe", "selfVersion": "1.0.0"}
        )
    assert status == 200
    assert re.fullmatch(r"my_probe-[0-9a-f]{16}", answer.pop("runtimeId"))
    assert re.fullmatch(r"[A-Za-z0-9._-]+", answer.pop("runtimeToken"))
    assert len(answer["serverMetadata"].pop("host_id")) == 16
    assert answer.pop("hostCapabilities") == [LOGGER]
    assert answer == {**VERSIONS, "serverMetadata": {**SERVER_METADATA, "token_ttl_ms": "86400000"}}


@pytest.mark.parametrize("more", [{}, {"requestedPlugins": ["nope"]}, {"bogus": 1}])
async def test_a_handshake_without_a_self_id_gives_none(more: dict[str, Any]) -> None:
    async with running() as host:
        status, answer = await host.post(HANDSHAKE, {**COOKIE, **VERSIONS, **more})
    assert answer["serverMetadata"].pop("host_id")
    announced = {"hostCapabilities": [LOGGER], "serverMetadata": SERVER_METADATA}
    assert (status, answer) == (200, {**VERSIONS, **announced})


async def test_proto_names_are_understood_in_json() -> None:
    body = {
        "core_protocol_version": 1,
        "app_protocol_version": 1,
        "magic_cookie_key": COOKIE["magicCookieKey"],
        "magic_cookie_value": COOKIE["magicCookieValue"],
        "self_id": "snake",
    }
    async with running() as host:
        status, answer = await host.post(HANDSHAKE, body)
    assert status == 200
    assert answer["runtimeId"].startswith("snake-")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (
            {**VERSIONS, "magicCookieKey": "CONNECT_PLUGIN", "magicCookieValue": "x"},
            "invalid_argument",
            "invalid magic cookie - this may not be a connect-plugin server",
        ),
        ({}, "invalid_argument", "invalid magic cookie - this may not be a connect-plugin server"),
        (
            {**COOKIE, "coreProtocolVersion": 2, "appProtocolVersion": 1},
            "invalid_argument",
            "unsupported core protocol version: 2 (server supports: 1)",
        ),
        (
            {**COOKIE, "coreProtocolVersion": 1, "appProtocolVersion": 2},
            "failed_precondition",
            "version mismatch: client=2, server=1",
        ),
        (
            {**COOKIE, **VERSIONS, "selfId": "my plugin"},
            "invalid_argument",
            f'self_id "my plugin" {NAME_RULE}',
        ),
        (
            {**COOKIE, **VERSIONS, "selfId": "a" * 129},
            "invalid_argument",
            "self_id too long: 129 bytes (max: 128)",
        ),
    ],
)
async def test_a_handshake_that_cannot_be_is_refused(body: dict[str, Any], code: str, message: str) -> None:
    async with running() as host:
        assert await host.post(HANDSHAKE, body) == (400, {"code": code, "message": message})
        assert len(host.host.identities) == 0


@pytest.mark.parametrize("path", [REGISTER, REPORT])
async def test_a_call_without_a_runtime_id_is_refused(path: str) -> None:
    async with running() as host:
        assert await host.post(
            path,
            {"serviceType": "demo", "version": "1.0.0", "endpointPath": "/d/"} if path == REGISTER else {},
        ) == (
            400,
            {"code": "invalid_argument", "message": "X-Plugin-Runtime-ID header required"},
        )


GOOD = {"serviceType": "demo", "version": "1.0.0", "endpointPath": "/demo.v1.D/"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"serviceType": ""}, "service type cannot be empty"),
        ({"serviceType": "a/b"}, f'service type "a/b" {NAME_RULE}'),
        ({"serviceType": "a" * 129}, "service type too long: 129 bytes (max: 128)"),
        ({"serviceType": "a..b"}, "service type contains path traversal characters: a..b"),
        ({"version": ""}, "version cannot be empty"),
        ({"version": "v1"}, 'version "v1" must be semantic version (e.g., 1.0.0, 2.1.3-beta)'),
        ({"version": "1" * 65}, "version too long: 65 bytes (max: 64)"),
        ({"endpointPath": ""}, "endpoint path cannot be empty"),
        ({"endpointPath": "demo"}, "endpoint path must start with /: demo"),
        ({"endpointPath": "/" * 257}, "endpoint path too long: 257 bytes (max: 256)"),
        ({"endpointPath": "/\0"}, "endpoint path contains null bytes"),
        ({"metadata": {f"k{i}": "" for i in range(101)}}, "too many metadata entries: 101 (max: 100)"),
        ({"metadata": {"": ""}}, "metadata key cannot be empty"),
        ({"metadata": {"k" * 257: ""}}, "metadata key too long: 257 bytes (max: 256)"),
        ({"metadata": {"1x": "y"}}, f'metadata key "1x" {NAME_RULE}'),
        ({"metadata": {"k": "v" * 4097}}, 'metadata value for key "k" too long: 4097 bytes (max: 4096)'),
        ({"metadata": {"k": "\0"}}, "metadata contains null bytes (potential injection)"),
    ],
)
async def test_a_bad_registration_is_refused_and_changes_nothing(
    change: dict[str, Any], message: str
) -> None:
    async with running() as host:
        headers = await host.plugin("wire-probe")
        answer = await host.post(REGISTER, {**GOOD, **change}, headers)
        assert answer == (400, {"code": "invalid_argument", "message": message})
        assert host.host.registry.service_types() == []


async def test_a_good_registration_is_answered_with_its_id() -> None:
    async with running() as host:
        status, answer = await host.post(REGISTER, GOOD, await host.plugin("wire-probe"))
    assert status == 200
    assert re.fullmatch(r"reg-[0-9a-f]{16}", answer.pop("registrationId"))
    assert answer == {}


async def test_discovery_gives_id_version_and_url_and_not_where_the_provider_is() -> None:
    async with running() as host:
        caller = await host.plugin("wire-probe")
        provider = runtime_id(await host.provider("logger", "http://localhost:28081"))
        assert await host.post(DISCOVER, {"serviceType": "logger", "minVersion": "1.0.0"}, caller) == (
            200,
            {
                "endpoint": {
                    "providerId": provider,
                    "version": "1.0.0",
                    "endpointUrl": f"/services/logger/{provider}",
                },
                "singleProvider": True,
            },
        )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"serviceType": "nope"}, 'no providers for service "nope"'),
        (
            {"serviceType": "logger", "minVersion": "9.0.0"},
            'no compatible providers for service "logger" (min version: 9.0.0)',
        ),
        ({"serviceType": "sick"}, 'no available providers for service "sick" (all unhealthy)'),
    ],
)
async def test_discovery_that_finds_nobody_says_why(body: dict[str, Any], message: str) -> None:
    async with running() as host:
        caller = await host.plugin("wire-probe")
        await host.provider("logger")
        sick = await host.provider("sick")
        await host.post(REPORT, {"state": "HEALTH_STATE_UNHEALTHY"}, sick)
        assert await host.post(DISCOVER, body, caller) == (404, {"code": "not_found", "message": message})


async def test_unregistering_answers_with_nothing_and_what_is_not_there_is_not_found() -> None:
    async with running() as host:
        headers = await host.plugin("wire-probe")
        registration = await host.register(headers, "demo")
        assert await host.post(UNREGISTER, {"registrationId": registration}, headers) == (200, {})
        assert await host.post(UNREGISTER, {"registrationId": "reg-x"}, headers) == (
            404,
            {"code": "not_found", "message": "registration not found: reg-x"},
        )


@pytest.mark.parametrize(
    "body",
    [
        {"state": 2, "reason": "x", "unavailableDependencies": ["logger"]},
        {"state": "HEALTH_STATE_HEALTHY"},
        {"state": "NOPE"},
        {},
    ],
)
async def test_a_health_report_is_answered_with_nothing(body: dict[str, Any]) -> None:
    async with running() as host:
        assert await host.post(REPORT, body, await host.plugin("wire-probe")) == (200, {})


async def test_a_watch_gives_the_state_in_the_shape_of_the_protocol() -> None:
    async with running() as host:
        caller = await host.plugin("wire-probe")
        stream = {**caller, "content-type": "application/connect+json", "connect-protocol-version": "1"}
        request = json.dumps({"serviceType": "wz"}).encode()
        body = b"\0" + len(request).to_bytes(4, "big") + request
        async with host.http.stream("POST", WATCH, content=body, headers=stream) as response:
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/connect+json"
            chunks = response.aiter_raw()
            assert _message(await anext(chunks)) == {
                "serviceType": "wz",
                "state": "SERVICE_STATE_UNAVAILABLE",
            }
            provider = await host.provider("wz")
            name = runtime_id(provider)
            assert _message(await anext(chunks)) == {
                "serviceType": "wz",
                "state": "SERVICE_STATE_AVAILABLE",
                "endpoint": {"providerId": name, "version": "1.0.0", "endpointUrl": f"/services/wz/{name}"},
            }
            await host.post(REPORT, {"state": "HEALTH_STATE_DEGRADED"}, provider)
            assert _message(await anext(chunks))["state"] == "SERVICE_STATE_DEGRADED"
            await host.post(REPORT, {"state": "HEALTH_STATE_UNHEALTHY"}, provider)
            assert _message(await anext(chunks)) == {
                "serviceType": "wz",
                "state": "SERVICE_STATE_UNAVAILABLE",
            }


async def test_a_watch_asked_for_as_a_unary_call_is_415() -> None:
    async with running() as host:
        response = await host.http.post(WATCH, json={"serviceType": "logger"}, headers=await host.plugin("p"))
    assert (response.status_code, response.content) == (415, b"")
    assert "accept-post" in response.headers


@pytest.mark.parametrize(
    "path", ["/connectplugin.v1.HandshakeService/Nope", "/nope.v1.Nope/Nope", "/", "/services"]
)
async def test_what_is_not_there_is_404_in_text(path: str) -> None:
    async with running() as host:
        response = await host.http.post(path, json={})
    assert (response.status_code, response.text) == (404, "404 page not found\n")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_get_on_a_method_is_405() -> None:
    async with running() as host:
        response = await host.http.get(HANDSHAKE)
    assert (response.status_code, response.headers["allow"], response.content) == (405, "POST", b"")


async def test_health_of_the_host_of_a_service_and_of_one_that_is_unknown() -> None:
    async with running() as host:
        serving = (200, {"status": "SERVING_STATUS_SERVING"})
        assert await host.post(CHECK, {}) == serving
        assert await host.post(CHECK, {"service": "zz"}) == (
            404,
            {"code": "not_found", "message": "unknown service: zz"},
        )
        provider = await host.provider("zz")
        assert await host.post(CHECK, {"service": "zz"}) == serving
        await host.post(REPORT, {"state": 3}, provider)
        assert await host.post(CHECK, {"service": "zz"}) == (200, {"status": "SERVING_STATUS_NOT_SERVING"})


async def test_a_health_watch_gives_each_status_once_and_ends_with_the_host() -> None:
    async with running() as host:
        request = b'{"service": "zz"}'
        async with host.http.stream(
            "POST",
            HEALTH_WATCH,
            content=b"\0" + len(request).to_bytes(4, "big") + request,
            headers={"content-type": "application/connect+json"},
        ) as response:
            chunks = response.aiter_raw()
            assert _message(await anext(chunks)) == {"status": "SERVING_STATUS_SERVICE_UNKNOWN"}
            provider = await host.provider("zz")
            assert _message(await anext(chunks)) == {"status": "SERVING_STATUS_SERVING"}
            await host.provider("other")
            await host.post(REPORT, {"state": 3}, provider)
            assert _message(await anext(chunks)) == {"status": "SERVING_STATUS_NOT_SERVING"}
            host.host.health.stop()
            assert await anext(chunks) == b"\x02\0\0\0\x02{}"
        assert (await host.post(CHECK, {}))[1] == {"status": "SERVING_STATUS_NOT_SERVING"}


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
async def test_the_probes_answer_any_method_and_follow_the_hosts_state(method: str) -> None:
    async with running() as host:

        async def probe(path: str) -> tuple[int, str]:
            response = await host.http.request(method, path)
            return response.status_code, response.text

        assert [await probe(p) for p in ("/health", "/healthz", "/readyz")] == [
            (200, "OK"),
            (200, "ok"),
            (200, "ready"),
        ]
        host.host.health.stop()
        assert [await probe(p) for p in ("/health", "/healthz", "/readyz")] == [
            (503, "not ready: stopping"),
            (200, "ok"),
            (503, "not ready: stopping"),
        ]


def _message(frame: bytes) -> Any:
    assert frame[0] == 0
    assert int.from_bytes(frame[1:5], "big") == len(frame) - 5
    return json.loads(frame[5:])
