"""Calls as an operator sees them: who calls whom, what fails, what is slow, what is in flight."""

from __future__ import annotations

import trio
import trio.testing

from cpg_trio.host.admin.recent import RecentCount
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from tests._wire import dial
from tests.host.routed import Setting, routing
from tests.http.peers import OK, Peer


async def answer_or_fail(peer: Peer) -> None:
    while head := await peer.receive_head():
        await peer.send(b"HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n" if b"/Broken" in head else OK)


async def call(setting: Setting, method: str) -> None:
    await setting.call(setting.head("GET", setting.path(method)))


def calls_of(setting: Setting, **wanted: str) -> pb.ListCallsResponse:
    return setting.host.admin.view.calls(pb.ListCallsRequest(**wanted))


async def test_calls_are_counted_by_names_method_and_code() -> None:
    async with routing(answer_or_fail) as setting:
        for method in ("Echo", "Echo", "Broken"):
            await call(setting, method)
        answer = calls_of(setting)
        echo, broken = answer.series
        assert (echo.caller, echo.provider, echo.service_type) == ("caller", "echo-plugin", "echo")
        assert (echo.method, echo.code, echo.calls.calls, echo.calls.failed) == ("Echo", "ok", 2, 0)
        assert (broken.code, broken.calls.calls, broken.calls.failed) == ("unknown", 1, 1)
        assert echo.calls.HasField("p95")
        (failure,) = answer.failures
        assert (failure.caller_id, failure.provider_id) == (setting.caller, setting.provider)
        assert (failure.code, failure.refused) == ("unknown", False)
        assert {slow.method for slow in answer.slowest} == {"Echo", "Broken"}


async def test_only_the_calls_that_are_asked_for_are_listed() -> None:
    async with routing(answer_or_fail) as setting:
        await call(setting, "Echo")
        for wanted in ("echo", "caller", "echo-plugin", setting.provider[:14]):
            assert len(calls_of(setting, filter=wanted).series) == 1
        assert not calls_of(setting, filter="storage").series


async def test_plugins_services_edges_and_the_host_have_the_same_figures() -> None:
    async with routing(answer_or_fail) as setting:
        for _ in range(3):
            await call(setting, "Echo")
        view = setting.host.admin.view
        provider = view.plugin(pb.GetPluginRequest(plugin=setting.provider))
        caller = view.plugin(pb.GetPluginRequest(plugin=setting.caller))
        (service,) = view.services(pb.ListServicesRequest()).services
        (edge,) = view.graph(pb.GetGraphRequest()).edges
        for figures in (
            provider.plugin.calls_in,
            caller.plugin.calls_out,
            service.calls,
            service.providers[0].calls,
            edge.calls,
            view.status(pb.GetStatusRequest()).calls,
        ):
            assert (figures.calls, figures.failed, figures.in_flight) == (3, 0, 0)
        assert not provider.plugin.calls_out.calls
        assert service.providers[0].share_of_calls == 1.0
        assert (edge.caller, edge.provider, edge.required) == ("caller", "echo-plugin", False)
        assert provider.plugin.connections == 1
        assert [series.method for series in provider.calls] == ["Echo"]


async def test_a_call_in_flight_is_shown_with_its_stage() -> None:
    arrived = trio.Event()

    async def silent(peer: Peer) -> None:
        await peer.receive_head()
        arrived.set()
        await trio.sleep_forever()

    async with routing(silent) as setting, dial(setting.url) as wire:
        await wire.send(setting.head("GET"))
        await arrived.wait()
        await trio.testing.wait_all_tasks_blocked()
        (in_flight,) = calls_of(setting).in_flight
        assert (in_flight.caller_id, in_flight.stage) == (setting.caller, "request")
        (listed,) = setting.host.admin.view.plugins(pb.ListPluginsRequest(filter="echo")).plugins
        assert listed.calls_in.in_flight == 1


async def test_who_was_refused_is_told_with_the_code() -> None:
    async with routing(answer_or_fail) as setting:
        setting.host.registry.drain(setting.provider, "update")
        await call(setting, "Echo")
        (refused,) = calls_of(setting).failures
        assert (refused.caller_id, refused.code, refused.refused) == (setting.caller, "unavailable", True)
        assert setting.host.admin.view.status(pb.GetStatusRequest()).refused == 1


async def test_the_host_counts_its_connections() -> None:
    async with routing(answer_or_fail) as setting, dial(setting.url) as wire:
        await wire.send(setting.head("GET"))
        await wire.response()
        host = setting.host.admin.view.status(pb.GetStatusRequest()).host
        assert (host.connections, host.pool_connections) == (1, 1)
        assert host.memory_bytes > 10 * 2**20
        assert host.file_descriptors > 3


def test_what_is_more_than_a_minute_old_is_not_recent() -> None:
    now = [0.0]
    recent = RecentCount(lambda: now[0])
    for _ in range(100):
        recent.add()
        now[0] += 1
    assert 55 <= recent.total() <= 60
    now[0] += 61
    assert recent.total() == 0


async def test_a_caller_that_proves_nothing_is_refused_once() -> None:
    async with routing(answer_or_fail) as setting:
        await setting.call(setting.head("GET").replace(setting.token.encode(), b"x"))
        assert setting.host.admin.view.status(pb.GetStatusRequest()).refused == 1
