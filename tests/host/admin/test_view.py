"""What an operator is told: which plugin is down, since when, why, and what waits for it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from cpg_trio import HealthState
from cpg_trio._loop_lag import LoopLag
from cpg_trio.host import Health, HostConfig, host_logger
from cpg_trio.host.admin import host_state
from cpg_trio.host.directory import Journal
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as wire_pb
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.settings import Setting
from tests.host.admin.operating import HEALTHY, Operator, operating

WAITING = Health(HealthState.DEGRADED, "waiting for logger", ("logger",))


def names(operator: Operator, request: pb.ListPluginsRequest) -> list[str]:
    return [plugin.name for plugin in operator.host.admin.view.plugins(request).plugins]


async def test_a_host_without_trouble_is_healthy() -> None:
    async with operating() as operator:
        operator.plugin("logger")
        operator.plugin("storage", "logger")
        status = operator.status()
        assert status.state == pb.PLUGIN_STATE_HEALTHY
        assert not status.problems
        assert [(count.state, count.count) for count in status.plugins] == [(pb.PLUGIN_STATE_HEALTHY, 2)]
        assert status.services == 2


async def test_a_plugin_that_lapses_is_named_with_who_waits_for_it(autojump_clock: trio.abc.Clock) -> None:
    async with operating() as operator:
        logger = operator.plugin("logger")
        storage = operator.plugin("storage", "logger")
        await operator.wait(1.1, storage)
        operator.report(storage, WAITING)
        waiting, lapsed = operator.status().problems
        assert waiting.state == pb.PLUGIN_STATE_DEGRADED
        assert waiting.summary.startswith(
            "storage-plugin waits for logger (its only provider, logger-plugin, is lapsed"
        )
        assert waiting.runtime_id == storage
        assert logger in waiting.what_to_do
        assert (lapsed.state, lapsed.runtime_id) == (pb.PLUGIN_STATE_LAPSED, logger)
        assert operator.get(logger).plugin.reason == "no sign of life"


async def test_a_plugin_that_is_gone_can_be_asked_for_by_name(autojump_clock: trio.abc.Clock) -> None:
    async with operating() as operator:
        operator.plugin("logger")
        storage = operator.plugin("storage", "logger")
        await operator.wait(2.2, storage)
        operator.report(storage, WAITING)
        story = operator.get("logger-plugin")
        assert story.plugin.state == pb.PLUGIN_STATE_GONE
        assert "no sign of life" in story.plugin.reason
        assert [change.state for change in story.history][-2:] == [
            pb.PLUGIN_STATE_LAPSED,
            pb.PLUGIN_STATE_GONE,
        ]
        waiting, gone = operator.status().problems
        assert "nobody provides it; the last one, logger-plugin, lapsed" in waiting.summary
        assert gone.summary.startswith("logger-plugin (no sign of life")
        assert names(operator, pb.ListPluginsRequest()) == ["storage-plugin"]
        assert names(operator, pb.ListPluginsRequest(include_gone=True)) == [
            "logger-plugin",
            "storage-plugin",
        ]


async def test_a_plugin_that_comes_back_is_no_problem_any_more(autojump_clock: trio.abc.Clock) -> None:
    async with operating() as operator:
        operator.plugin("logger")
        await operator.wait(2.2)
        assert operator.status().state == pb.PLUGIN_STATE_GONE
        operator.plugin("logger")
        assert operator.status().state == pb.PLUGIN_STATE_HEALTHY


async def test_what_a_degraded_plugin_lacks_is_told_with_the_reason() -> None:
    async with operating() as operator:
        storage = operator.plugin("storage")
        operator.report(storage, Health(HealthState.DEGRADED, "no cache", ("cache",)))
        (problem,) = operator.status().problems
        assert (
            problem.summary
            == "storage-plugin waits for cache (nobody provides it, and nobody has since the host began)"
        )
        (required,) = operator.get(storage).plugin.requires
        assert (required.service_type, required.available, required.reported_missing) == (
            "cache",
            False,
            True,
        )


async def test_a_plugin_is_found_by_id_by_a_beginning_and_by_name() -> None:
    async with operating() as operator:
        first, second = operator.plugin("logger"), operator.plugin("logger")
        api = operator.plugin("api")
        for name in (api, api[:6], "api-plugin"):
            assert operator.get(name).plugin.runtime_id == api
        with pytest.raises(ConnectError, match=f"{min(first, second)}, {max(first, second)}") as ambiguous:
            operator.get("logger-plugin")
        assert ambiguous.value.code == Code.INVALID_ARGUMENT
        with pytest.raises(ConnectError) as nobody:
            operator.get("thumbs")
        assert nobody.value.code == Code.NOT_FOUND


async def test_the_graph_has_who_requires_whom_and_what_is_missing() -> None:
    async with operating() as operator:
        operator.plugin("storage", "logger")
        operator.plugin("api", "storage")
        graph = operator.host.admin.view.graph(pb.GetGraphRequest())
        assert [(node.name, node.missing) for node in graph.nodes] == [
            ("api-plugin", False),
            ("storage-plugin", False),
            ("logger", True),
        ]
        assert [(edge.caller, edge.provider, edge.service_type, edge.available) for edge in graph.edges] == [
            ("api-plugin", "storage-plugin", "storage", True),
            ("storage-plugin", "", "logger", False),
        ]


async def test_services_have_their_providers_and_who_requires_them() -> None:
    async with operating() as operator:
        operator.plugin("storage", "logger")
        logger, storage = operator.host.admin.view.services(pb.ListServicesRequest()).services
        assert (logger.service_type, logger.state) == ("logger", pb.PLUGIN_STATE_GONE)
        assert list(logger.required_by) == ["storage-plugin"]
        assert (storage.service_type, storage.state) == ("storage", pb.PLUGIN_STATE_HEALTHY)
        assert [provider.name for provider in storage.providers] == ["storage-plugin"]


async def test_why_a_plugin_has_lapsed_is_told() -> None:
    async with operating() as operator:
        storage = operator.plugin("storage")
        operator.host._liveness.suspect(storage)
        assert operator.get(storage).plugin.reason == "it could not be reached"
        operator.report(storage, HEALTHY)
        assert operator.get(storage).plugin.state == pb.PLUGIN_STATE_HEALTHY
        kinds = [event.kind for event in operator.get(storage).events]
        assert kinds[-2:] == [pb.EVENT_KIND_LAPSED, pb.EVENT_KIND_RETURNED]


async def test_direct_calls_are_edges_with_what_their_callers_report() -> None:
    async with operating() as operator:
        storage, api = operator.plugin("storage"), operator.plugin("api", "storage")
        report = wire_pb.DirectCalls(
            provider_id=storage, service_type="storage", series=1, calls=5, failed=1, in_flight=2
        )
        operator.host._direct.report(api, [report])
        (edge,) = operator.host.admin.view.graph(pb.GetGraphRequest()).edges
        assert (edge.direct.calls, edge.direct.failed, edge.direct.in_flight) == (5, 1, 2)


async def test_a_plugin_that_does_without_a_service_is_no_problem() -> None:
    async with operating() as operator:
        storage = operator.plugin("storage", "logger")  # and reports that it is healthy
        assert operator.status().state == pb.PLUGIN_STATE_HEALTHY
        (required,) = operator.get(storage).plugin.requires
        assert (required.available, required.reported_missing) == (False, False)


async def test_a_plugin_that_reports_nothing_waits_for_what_it_has_declared() -> None:
    async with operating() as operator:
        identity, _ = operator.host.identities.issue("plain", provides=("plain",), requires=("logger",))
        operator.host.registry.register(identity.runtime_id, "plain", "1.0.0", "/", {})
        (problem,) = operator.status().problems
        assert problem.summary.startswith("plain waits for logger (nobody provides it")


async def test_those_that_wait_for_one_service_are_one_problem() -> None:
    async with operating() as operator:
        for i in range(500):
            operator.report(operator.plugin(f"s{i}", "logger"), WAITING)
        (problem,) = operator.status().problems
        assert problem.summary.startswith("s0-plugin and 499 more wait for logger (nobody provides it")


async def test_why_nobody_provides_a_service_is_told_of_each_case(autojump_clock: trio.abc.Clock) -> None:
    async with operating() as operator:
        operator.report(operator.plugin("storage", "logger"), WAITING)

        def why() -> str:
            (service,) = operator.host.admin.view.services(pb.ListServicesRequest(filter="logger")).services
            return service.reason

        first, second = operator.plugin("logger"), operator.plugin("logger")
        assert why() == ""
        operator.report(first, Health(HealthState.UNHEALTHY, "the disk is full"))
        operator.host.registry.drain(second, "update")
        assert why() == "none of its 2 providers gets calls: 1 unhealthy, 1 draining"
        await operator.host.revoke_identity(second)
        assert why() == "its only provider, logger-plugin, is unhealthy for 0 s: the disk is full"
        operator.report(first, HEALTHY)
        (registration,) = operator.host.registry.registrations(first)
        operator.host.registry.unregister(first, registration.id)
        assert why() == "nobody provides it; the last one, logger-plugin, stopped providing it 0 s ago"
        await operator.host.revoke_identity(first)
        assert why() == "nobody provides it; the last one, logger-plugin, left 0 s ago"


async def test_capabilities_and_grants_are_listed_with_their_owner() -> None:
    async with operating() as operator:
        runtime_id = operator.plugin("storage")
        entry = operator.host.identities.entry(runtime_id)
        assert entry
        operator.host._grants.issue(entry.identity, host_logger())
        answer = operator.host.admin.view.capabilities(pb.ListCapabilitiesRequest())
        assert [capability.capability_type for capability in answer.capabilities] == ["logger"]
        (grant,) = answer.grants
        assert (grant.runtime_id, grant.capability_type) == (runtime_id, "logger")
        assert [each.grant_id for each in operator.get(runtime_id).grants] == [grant.grant_id]
        assert operator.get(runtime_id).plugin.grants == 1
        await operator.client.revoke_grant(pb.RevokeGrantRequest(grant_id=grant.grant_id, reason="leaked"))
        assert not operator.get(runtime_id).grants
        assert operator.texts(pb.EVENT_KIND_ACTION) == [f"the grant {grant.grant_id} is revoked: leaked"]


async def test_the_configuration_is_told_with_its_sources() -> None:
    setting = Setting("LEASE_S", "15", "default", "seconds")
    async with operating(HostConfig(settings=[setting])) as operator:
        (told,) = (await operator.client.get_configuration(pb.GetConfigurationRequest())).settings
        assert (told.name, told.value, told.source) == ("LEASE_S", "15", "default")


async def test_what_is_wrong_with_the_host_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with operating() as operator:
        monkeypatch.setattr(host_state, "_most_descriptors", lambda: 10)
        monkeypatch.setattr(LoopLag, "median_s", 0.5)
        monkeypatch.setattr(Journal, "why_unsaved", "the disk is full")
        summaries = [problem.summary for problem in operator.status().problems]
        assert len(summaries) == 3
        assert "the host is not ready: the disk is full" in summaries
        assert any("of 10 file descriptors" in summary for summary in summaries)
        assert any("runs 500 ms late" in summary for summary in summaries)


async def test_the_lag_of_the_loop_is_measured(mock_clock: trio.testing.MockClock) -> None:
    lag = LoopLag()
    told: list[float] = []
    lag.measured.add(told.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        for passes_s in (0.5, 2.5, 0.5):  # two seconds of which a task did not yield
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(passes_s)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert told == pytest.approx([0, 2, 0])
    assert (lag.median_s, lag.most_s) == pytest.approx((0, 2))
