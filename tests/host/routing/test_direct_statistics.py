"""Statistics of direct calls, which their callers report."""

from __future__ import annotations

import attrs
import pytest

from cpg_trio.host.routing.direct_statistics import DirectCounter
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from tests.host.routing.asking import Asking, asking


def calls(provider: str, series: int, *numbers: int, service_type: str = "echo") -> pb.DirectCalls:
    begun, failed, in_flight = numbers
    return pb.DirectCalls(
        service_type=service_type,
        provider_id=provider,
        series=series,
        calls=begun,
        failed=failed,
        in_flight=in_flight,
    )


def test_a_report_that_is_lost_or_repeated_or_late_counts_once() -> None:
    counter = DirectCounter()
    for numbers in ((5, 1, 2), (5, 1, 2), (20, 3, 1), (9, 1, 4), (20, 3, 0)):
        counter.report("app-1", [calls("echo-1", 7, *numbers)])
    assert attrs.astuple(counter.statistics()) == (20, 0, 3)
    counter.report("app-1", [calls("echo-1", 8, 2, 0, 1)])
    assert attrs.astuple(counter.statistics()) == (22, 1, 3)
    assert counter.in_flight("echo-1") == 1
    counter.forget("app-1")
    assert attrs.astuple(counter.statistics()) == (22, 0, 3)


def test_a_report_of_many_services_is_a_few_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cpg_trio.router")
    counter = DirectCounter()
    counter.report("caller", [calls(f"echo-{number}", 7, 1, 0, 0) for number in range(100)])
    assert counter.statistics().calls == 100
    assert len(caplog.messages) == 11
    assert caplog.messages[-1] == "[DIRECT] caller → 90 more providers of services"


def test_what_is_kept_of_reports_is_bounded_and_goes_with_either_plugin() -> None:
    counter = DirectCounter(most=2)
    for provider in ("echo-1", "echo-2", "echo-3"):
        counter.report("app-1", [calls(provider, 7, 5, 0, 1)])
    assert [counter.in_flight(provider) for provider in ("echo-1", "echo-2", "echo-3")] == [1, 1, 0]
    assert attrs.astuple(counter.statistics()) == (10, 2, 0)
    counter.forget("echo-1")
    counter.report("app-2", [calls("echo-2", 7, 5, 0, 2)])
    assert attrs.astuple(counter.statistics()) == (15, 3, 0)
    for gone in ("echo-2", "app-1", "app-2"):
        counter.forget(gone)
    assert attrs.astuple(counter.statistics()) == (15, 0, 0)
    assert (counter._reported, counter._callers, counter._in_flight, counter._pairs) == ({}, {}, {}, 0)


def test_no_caller_has_all_that_is_kept_of_reports() -> None:
    counter = DirectCounter(most=5000)
    for number in range(1500):
        counter.report("app-1", [calls(f"echo-{number}", 7, 5, 0, 1)])
    assert attrs.astuple(counter.statistics()) == (5000, 1000, 0)
    counter.report("app-2", [calls("echo-1", 7, 5, 0, 1)])
    assert counter.in_flight("echo-1") == 2


async def report(setting: Asking, headers: dict[str, str], *entries: pb.DirectCalls) -> int:
    request = pb.ReportHealthRequest(state=pb.HEALTH_STATE_HEALTHY, direct_calls=entries)
    response = await setting.http.post(
        "/connectplugin.v1.PluginLifecycle/ReportHealth",
        content=request.SerializeToString(),
        headers={**headers, "Content-Type": "application/proto"},
    )
    return response.status_code


async def test_no_plugin_turns_callers_away_from_a_provider_by_what_it_reports() -> None:
    async with asking() as setting:
        provider = setting.host.registry.status("echo").provider
        assert provider is not None
        stranger = await setting.declared("stranger", requires="storage")
        app = await setting.declared("app", requires="echo")
        lie = calls(provider.runtime_id, 1, 2**60, 0, 2**60)
        assert await report(setting, stranger, lie) == 200
        assert setting.host.registry.calls.count(provider.runtime_id) == 0
        for nobody in (calls("echo-0", 1, 5, 0, 5), calls(provider.runtime_id, 1, 5, 0, 5, service_type="x")):
            assert await report(setting, app, nobody) == 200
        assert setting.host.statistics().direct.calls == 0
        assert await report(setting, app, lie) == 200
        assert setting.host.registry.calls.count(provider.runtime_id) == 1000
        await setting.host.revoke_identity(app["X-Plugin-Runtime-ID"])
        assert setting.host.registry.calls.count(provider.runtime_id) == 0


async def test_a_report_that_makes_no_sense_is_refused_and_changes_nothing() -> None:
    async with asking() as setting:
        provider = setting.host.registry.status("echo").provider
        assert provider is not None
        app = await setting.plugin("app")
        more_ended_than_begun = calls(provider.runtime_id, 1, 2, 2, 1)
        assert (
            await report(setting, app, calls(provider.runtime_id, 1, 1, 0, 0), more_ended_than_begun) == 400
        )
        assert await report(setting, app, *[calls("echo-0", 1, 1, 0, 0)] * 101) == 400
        assert setting.host.statistics().direct.calls == 0
