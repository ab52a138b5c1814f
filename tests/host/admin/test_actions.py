"""What an operator does, over the admin service: it happens, and the audit trail has it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import trio

from cpg_trio.host import Action, AuditEvent, HostConfig, Policy
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError
from tests.host.admin.operating import HEALTHY, Operator, operating


def audited(operator: Operator) -> list[AuditEvent]:
    events: list[AuditEvent] = []
    operator.host.audit.subscribe(events.append)
    return events


async def test_a_drained_plugin_gets_no_new_calls_until_that_is_undone() -> None:
    async with operating() as operator:
        events = audited(operator)
        runtime_id = operator.plugin("logger")
        answer = await operator.client.drain_plugin(pb.DrainPluginRequest(plugin="logger", reason="update"))
        assert answer.plugin.state == pb.PLUGIN_STATE_DRAINING
        assert answer.plugin.reason == "drained by an operator: update"
        assert not operator.host.registry.available("logger")
        assert events[-1].action is Action.DRAIN
        assert (events[-1].subject, events[-1].reason) == (runtime_id, "update")
        answer = await operator.client.drain_plugin(pb.DrainPluginRequest(plugin="logger", undo=True))
        assert answer.plugin.state == pb.PLUGIN_STATE_HEALTHY
        assert operator.host.registry.available("logger")


async def test_a_drain_outlasts_what_the_plugin_registers_and_reports() -> None:
    async with operating() as operator:
        runtime_id = operator.plugin("logger")
        await operator.client.drain_plugin(pb.DrainPluginRequest(plugin=runtime_id))
        operator.host.registry.register(runtime_id, "logger", "1.0.1", "/", {})
        operator.report(runtime_id, HEALTHY)
        assert not operator.host.registry.available("logger")
        assert operator.get(runtime_id).plugin.state == pb.PLUGIN_STATE_DRAINING


async def test_a_drain_ends_with_the_identity(autojump_clock: trio.abc.Clock) -> None:
    async with operating() as operator:
        runtime_id = operator.plugin("logger")
        await operator.client.drain_plugin(pb.DrainPluginRequest(plugin=runtime_id))
        await operator.wait(2.2)
        assert operator.get(runtime_id).plugin.state == pb.PLUGIN_STATE_GONE
        assert not operator.host.registry.is_drained(runtime_id)


async def test_a_watcher_is_told_of_a_drain() -> None:
    async with operating() as operator:
        runtime_id = operator.plugin("logger")
        with operator.host.watches.watch("w") as watch:
            watch.subscribe("logger")
            assert (await anext(watch)).statuses["logger"].provider is not None
            await operator.client.drain_plugin(pb.DrainPluginRequest(plugin=runtime_id))
            assert (await anext(watch)).statuses["logger"].provider is None


async def test_a_revoked_plugin_is_gone_with_the_reason() -> None:
    async with operating() as operator:
        events = audited(operator)
        runtime_id = operator.plugin("logger")
        await operator.client.revoke_plugin(pb.RevokePluginRequest(plugin="logger", reason="leaked"))
        assert operator.get("logger-plugin").plugin.reason == "revoked by an operator: leaked"
        assert (Action.REVOKE, runtime_id) in [(event.action, event.subject) for event in events]
        assert operator.texts(pb.EVENT_KIND_REVOKED) == ["revoked: leaked"]
        assert not operator.status().problems  # somebody wanted it


async def test_what_is_not_there_is_said_in_one_line() -> None:
    async with operating() as operator:
        runtime_id = operator.plugin("logger")
        await operator.client.revoke_plugin(pb.RevokePluginRequest(plugin=runtime_id))
        for call, code, text in (
            (operator.client.drain_plugin(pb.DrainPluginRequest()), Code.INVALID_ARGUMENT, "name a plugin"),
            (operator.client.drain_plugin(pb.DrainPluginRequest(plugin="x")), Code.NOT_FOUND, "'x'"),
            (
                operator.client.drain_plugin(pb.DrainPluginRequest(plugin=runtime_id)),
                Code.FAILED_PRECONDITION,
                "gone already: revoked",
            ),
            (operator.client.revoke_grant(pb.RevokeGrantRequest(grant_id="g")), Code.NOT_FOUND, "no grant"),
        ):
            with pytest.raises(ConnectError, match=text) as caught:
                await call
            assert caught.value.code == code


async def test_a_reload_names_each_file_and_what_is_wrong_in_it(tmp_path: Path) -> None:
    rules = tmp_path / "policy.toml"
    rules.write_text('[services.logger]\nproviders = ["logger-plugin"]\n')
    async with operating(HostConfig(policy=Policy.from_file(rules))) as operator:
        events = audited(operator)
        (file,) = (await operator.client.reload(pb.ReloadRequest())).files
        assert (file.name, file.path, file.error) == ("POLICY_FILE", str(rules), "")
        assert events[-1].action is Action.RELOAD
        operator.plugin("logger")
        rules.write_text('[services.logger]\nproviders = ["logger2-plugin"]\n')
        await operator.client.reload(pb.ReloadRequest())
        assert not operator.host.registry.provides("logger")
        rules.write_text("nothing")
        (file,) = (await operator.client.reload(pb.ReloadRequest())).files
        assert file.error
        (problem,) = operator.status().problems
        assert f"{rules} (POLICY_FILE) cannot be used" in problem.summary
        anew, failed = operator.texts(pb.EVENT_KIND_RELOADED)
        assert anew.endswith("was read anew")
        assert "cannot be used, and what was there before goes on" in failed


async def test_a_level_of_the_log_holds_for_a_while(autojump_clock: trio.abc.Clock) -> None:
    router = logging.getLogger("cpg_trio.router")
    before = router.level
    async with operating() as operator:
        events = audited(operator)
        request = pb.SetLogLevelRequest(logger="cpg_trio.router", level="debug")
        request.duration.FromSeconds(60)
        answer = await operator.client.set_log_level(request)
        assert 0 < answer.until.seconds - time.time() < 70
        assert router.level == logging.DEBUG
        assert (events[-1].action, events[-1].target) == (Action.LOG_LEVEL, "cpg_trio.router")
        await trio.sleep(61)
        assert router.level == before
        await operator.client.set_log_level(request)
        await operator.client.set_log_level(pb.SetLogLevelRequest(logger="cpg_trio.router"))
        assert router.level == before
        await operator.client.set_log_level(request)
        with pytest.raises(ConnectError, match="a level is one of"):
            await operator.client.set_log_level(pb.SetLogLevelRequest(level="loud"))
    assert router.level == before  # also when the host ends
    assert operator.texts(pb.EVENT_KIND_ACTION)[0] == "cpg_trio.router logs at debug for 1 min"


async def test_what_cannot_be_done_is_refused_with_the_reason() -> None:
    async with operating() as operator:
        operator.host.identities.issue("api-plugin")
        logger = operator.plugin("logger")
        too_long = pb.ShutDownPluginRequest(plugin=logger)
        too_long.grace.FromSeconds(10**6)
        for call, code, text in (
            (
                operator.client.shut_down_plugin(pb.ShutDownPluginRequest(plugin="api-plugin")),
                Code.FAILED_PRECONDITION,
                "registered nothing",
            ),
            (operator.client.shut_down_plugin(too_long), Code.INVALID_ARGUMENT, "grace must be"),
            (
                operator.client.drain_plugin(pb.DrainPluginRequest(plugin=logger, undo=True)),
                Code.FAILED_PRECONDITION,
                "is not drained",
            ),
            (
                operator.client.drain_plugin(pb.DrainPluginRequest(plugin=logger, reason="x" * 1000)),
                Code.INVALID_ARGUMENT,
                "too long",
            ),
        ):
            with pytest.raises(ConnectError, match=text) as caught:
                await call
            assert caught.value.code == code
        assert operator.host.registry.available("logger")
