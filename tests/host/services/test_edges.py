"""Each RPC of a host is refused to callers that prove nothing, in the same words."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from cpg_trio.host import HostConfig
from tests.host.calls import (
    DISCOVER,
    REGISTER,
    REPORT,
    UNREGISTER,
    WATCH,
    Headers,
    running,
    runtime_id,
)
from tests.host.rpcs import ENDED, refused

CALLS: list[tuple[str, dict[str, Any]]] = [
    (REGISTER, {"serviceType": "forged", "version": "1.0.0", "endpointPath": "/f/"}),
    (UNREGISTER, {"registrationId": "reg-x"}),
    (DISCOVER, {"serviceType": "logger"}),
    (WATCH, {"serviceType": "logger"}),
    (REPORT, {"state": "HEALTH_STATE_UNHEALTHY"}),
]


EVERY_CALL = pytest.mark.parametrize(
    ("path", "body"), CALLS, ids=[path.rpartition("/")[2] for path, _ in CALLS]
)


async def refusal(http: httpx.AsyncClient, path: str, body: dict[str, Any], headers: Headers) -> str:
    """Return the code that a call is refused with."""
    return (await refused(http, path, body, headers))["code"]


@EVERY_CALL
async def test_no_call_works_without_a_token_that_proves_the_caller(path: str, body: dict[str, Any]) -> None:
    async with running() as host:
        await host.provider("logger")
        mine, other = await host.plugin("mine"), await host.plugin("other")
        attempts: list[tuple[Headers, str]] = [
            ({}, "invalid_argument"),
            ({"Authorization": mine["Authorization"]}, "invalid_argument"),
            ({"X-Plugin-Runtime-ID": runtime_id(mine)}, "unauthenticated"),
            ({**mine, "Authorization": "Bearer test-token"}, "unauthenticated"),
            ({**mine, "Authorization": mine["Authorization"][:-1]}, "unauthenticated"),
            ({**mine, "Authorization": mine["Authorization"].replace("Bearer", "bearer")}, "unauthenticated"),
            ({**mine, "Authorization": other["Authorization"]}, "unauthenticated"),
            ({**mine, "X-Plugin-Runtime-ID": "forged-0000"}, "unauthenticated"),
        ]
        for headers, code in attempts:
            assert await refusal(host.http, path, body, headers) == code
        assert host.host.registry.service_types() == ["logger"]
        assert host.host.registry.available("logger")


@EVERY_CALL
async def test_who_comes_back_with_an_identity_that_has_ended_is_told_so_and_nobody_else_is(
    path: str, body: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with running(HostConfig(unrenewed_token_ttl_s=60)) as host:
        silent, other = await host.provider("t"), await host.plugin("other")
        lapsed = ENDED.format(runtime_id(silent), "no sign of life for 30 s")
        await trio.sleep(31)
        stolen = {**other, "X-Plugin-Runtime-ID": runtime_id(silent)}
        unknown = {**silent, "X-Plugin-Runtime-ID": "t-plugin-0000000000000000"}
        for headers, message in [(silent, lapsed), (stolen, "invalid token"), (unknown, "invalid token")]:
            error = {"code": "unauthenticated", "message": message}
            assert await refused(host.http, path, body, headers) == error
        await trio.sleep(60)
        expired = ENDED.format(runtime_id(other), "it has expired")
        assert (await refused(host.http, path, body, other))["message"] == expired


async def test_no_token_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with running() as host:
        headers = await host.provider("t")
        await host.post(REPORT, {"state": 3}, {**headers, "Authorization": "Bearer planted-secret"})
    assert "t-plugin" in caplog.text
    assert headers["Authorization"].removeprefix("Bearer ") not in caplog.text
    assert "planted-secret" not in caplog.text
