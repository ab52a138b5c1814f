"""`PluginLifecycle`: a plugin reports its own health, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.host.calls import (
    DISCOVER,
    REPORT,
    UNREGISTER,
    running,
    runtime_id,
)


async def test_nobody_makes_another_plugin_unhealthy_or_unregisters_its_service() -> None:
    async with running() as host:
        victim = await host.plugin("victim")
        registration = await host.register(victim, "logger")
        attacker = await host.plugin("attacker")
        stolen = {**attacker, "X-Plugin-Runtime-ID": runtime_id(victim)}
        assert (await host.post(REPORT, {"state": 3}, stolen))[0] == 401
        assert await host.post(UNREGISTER, {"registrationId": registration}, attacker) == (
            404,
            {"code": "not_found", "message": f"registration not found: {registration}"},
        )
        assert (await host.post(DISCOVER, {"serviceType": "logger"}, attacker))[0] == 200


@pytest.mark.parametrize("state", [4, 77, -1])
async def test_a_health_state_that_there_is_not_is_refused_and_changes_nothing(state: int) -> None:
    async with running() as host:
        provider = await host.provider("logger")
        await host.post(REPORT, {"state": 3}, provider)
        status, answer = await host.post(REPORT, {"state": state}, provider)
        assert (status, answer["code"]) == (400, "invalid_argument")
        assert not host.host.registry.available("logger")


@pytest.mark.parametrize(
    "body",
    [
        {"reason": "x" * 4097},
        {"unavailableDependencies": ["t"] * 101},
        {"unavailableDependencies": ["a/b"]},
    ],
)
async def test_a_health_report_cannot_be_without_bounds(body: dict[str, Any]) -> None:
    async with running() as host:
        status, answer = await host.post(REPORT, body, await host.plugin("p"))
        assert (status, answer["code"]) == (400, "invalid_argument")


async def test_no_plugin_forges_a_line_of_the_log_by_what_it_says_of_its_health(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with running() as host:
        me = await host.provider("t")
        report = {"state": 2, "reason": "a\r\n[AUDIT] {}\x1b[2K\u2028" + "b" * 4000}
        assert (await host.post(REPORT, report, me))[0] == 200
        assert host.host.registry.health(runtime_id(me)).reason == report["reason"]
    (said,) = [r.getMessage() for r in caplog.records if "reports DEGRADED" in r.getMessage()]
    assert said.isprintable()
    assert "a\\r\\n[AUDIT]" in said
    assert len(said) < 1000


async def test_the_identity_of_a_plugin_that_provides_nothing_ends_when_it_leaves() -> None:
    async with running() as host:
        caller = await host.plugin("caller")
        assert (await host.post(REPORT, {"state": 3, "leaving": True}, caller))[0] == 200
        assert host.host.identities.entry(runtime_id(caller)) is None


async def test_a_plugin_that_provides_something_leaves_by_taking_that_back() -> None:
    async with running() as host:
        provider = await host.provider("logger")
        assert (await host.post(REPORT, {"state": 1, "leaving": True}, provider))[0] == 200
        assert host.host.registry.available("logger")
        assert host.host.identities.entry(runtime_id(provider)) is not None
