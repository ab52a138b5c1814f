"""A host that begins anew on its state file: it believes in those that answer, and gives the others time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from google.protobuf import json_format
from google.protobuf.message import Message
from trio.testing import MockClock, wait_all_tasks_blocked

from cpg_trio import HealthState, wire
from cpg_trio._cell import Cell
from cpg_trio._health_states import health_number
from cpg_trio.host import Host, HostConfig, LeaseConfig
from cpg_trio.host.directory.registration import Health
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.store import SqliteStore
from tests.host.calls import REGISTER, REPORT, Provider, in_proto, running, runtime_id
from tests.http.peers import Peer, serving
from tests.plugin.running import (
    echo_plugin,
    hosting,
    is_healthy,
    plugged,
    until,
    unused_port,
)

LEASES = LeaseConfig(lease_s=15.0, heartbeat_s=5.0, probe_timeout_s=2.0)
NOT_HEARD_OF = Health(HealthState.UNHEALTHY, "not heard of since the host began")


@pytest.fixture
def config(tmp_path: Path) -> HostConfig:
    return HostConfig(store=SqliteStore(tmp_path / "host.sqlite3"), leases=LEASES)


async def test_a_plugin_that_answers_is_offered_from_the_first_moment_on_and_its_token_still_works(
    config: HostConfig,
) -> None:
    async with serving(Provider("t-plugin")) as origin:
        async with running(config) as host:
            plugin = await host.provider("t", f"http://127.0.0.1:{origin.port}")
        async with running(config) as host:
            assert await host.first_of_watch("t", plugin) == "SERVICE_STATE_AVAILABLE"
            assert await host.discover("t", plugin) == runtime_id(plugin)
            assert host.host.registry.health(runtime_id(plugin)) == Health(HealthState.HEALTHY, "asked")


async def test_one_that_does_not_answer_is_known_and_not_offered_until_it_is_heard_of(
    config: HostConfig, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(config) as host:
        plugin = await host.provider("t", f"http://127.0.0.1:{unused_port()}")
    async with running(config) as host:
        assert await host.discover("t", plugin) == 'no available providers for service "t" (all unhealthy)'
        assert host.host.registry.health(runtime_id(plugin)) == NOT_HEARD_OF
        assert f"{runtime_id(plugin)} is registered, but not heard of since the host began" in caplog.text
        assert (await host.post(REPORT, {"state": 1}, plugin))[0] == 200
        await wait_all_tasks_blocked()
        assert await host.discover("t", plugin) == runtime_id(plugin)


async def pass_time(clock: MockClock, seconds: float) -> None:
    """Let time pass, and the host run meanwhile."""
    for _ in range(round(seconds / 0.5)):
        clock.jump(0.5)
        await wait_all_tasks_blocked()


async def test_one_that_answers_later_is_back_when_it_does(config: HostConfig, mock_clock: MockClock) -> None:
    provider = Provider("t-plugin")
    async with serving(provider) as origin:
        async with running(config) as host:
            plugin = await host.provider("t", f"http://127.0.0.1:{origin.port}")
        provider.answers = False
        async with running(config) as host:
            assert not host.host.registry.available("t")
            provider.answers = True
            await pass_time(mock_clock, 8)
            await until(host.host, lambda: host.host.registry.available("t"))
            assert await host.discover("t", plugin) == runtime_id(plugin)


async def test_one_that_is_not_heard_of_for_two_leases_is_gone_for_good_and_told_so(
    config: HostConfig, mock_clock: MockClock
) -> None:
    async with running(config) as host:
        plugin = await host.provider("t", f"http://127.0.0.1:{unused_port()}")
    async with running(config) as host:
        await pass_time(mock_clock, 29)
        assert host.host.registry.service_types() == ["t"]
        await pass_time(mock_clock, 1.5)
        await until(host.host, lambda: not host.host.registry.service_types())
        status, answer = await host.post(REPORT, {"state": 1}, plugin)
        assert (status, answer["code"]) == (401, "unauthenticated")
        ended = f"the identity {runtime_id(plugin)} has ended (no sign of life for 30 s): shake hands again"
        assert answer["message"] == ended
    async with running(config) as host:
        assert host.host.registry.service_types() == []
        assert len(host.host.identities) == 0


async def test_all_are_asked_at_once_and_none_takes_longer_than_a_probe_may(
    config: HostConfig, mock_clock: MockClock
) -> None:
    asked, listening = Cell(0), trio.Event()

    async def hang(peer: Peer) -> None:
        await peer.receive_head()
        asked.set(asked.value + 1)
        await peer.receive_to_end()

    async def begin() -> None:
        async with running(config) as host:
            assert len(host.host.registry.providers("t")) == 20
            assert not host.host.registry.available("t")
            listening.set()

    async with serving(hang) as origin:
        async with running(config) as host:
            for number in range(20):  # one at the place of another would take that
                await host.provider("t", f"http://127.0.0.1:{origin.port}/{number}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin)
            async for count in asked.reader():
                if count == 20:
                    break
            mock_clock.jump(LEASES.probe_timeout_s - 0.1)
            await wait_all_tasks_blocked()
            assert not listening.is_set()
            mock_clock.jump(0.1)
            await listening.wait()


async def test_both_questions_of_a_probe_share_its_time(config: HostConfig, mock_clock: MockClock) -> None:
    class Slow(Provider):
        async def __call__(self, peer: Peer) -> None:
            while head := await peer.receive_head():
                self.asked.set(self.asked.value + 1)
                await trio.sleep(1.5)
                await peer.send(self.answer(head))

    provider, listening = Slow("t-plugin"), trio.Event()

    async def begin() -> None:
        async with running(config) as host:
            assert not host.host.registry.available("t")
            listening.set()

    async with serving(provider) as origin:
        async with running(config) as host:
            await host.provider("t", f"http://127.0.0.1:{origin.port}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin)
            async for asked in provider.asked.reader():
                mock_clock.jump(1.5 * asked)
                if asked == 2:
                    break
            await listening.wait()


@pytest.mark.parametrize(
    ("self_id", "is_taken_for_it"), [("t-plugin", True), ("", True), ("other", False), ("T-plugin", False)]
)
async def test_another_plugin_that_listens_on_its_port_now_is_not_taken_for_it(
    config: HostConfig, caplog: pytest.LogCaptureFixture, self_id: str, *, is_taken_for_it: bool
) -> None:
    async with serving(Provider(self_id)) as origin:
        async with running(config) as host:
            await host.provider("t", f"http://127.0.0.1:{origin.port}")
        async with running(config) as host:
            assert host.host.registry.available("t") == is_taken_for_it
    assert (f"there is another plugin: '{self_id}'" in caplog.text) != is_taken_for_it


async def test_an_identity_without_registrations_is_known_as_well(config: HostConfig) -> None:
    async with running(config) as host:
        consumer = await host.plugin("consumer")
    async with running(config) as host:
        assert await host.discover("t", consumer) == 'no providers for service "t"'


async def test_without_a_state_file_nothing_is_kept() -> None:
    async with running() as host:
        plugin = await host.provider("t")
    async with running() as host:
        assert await host.discover("t", plugin) == "invalid token"


async def test_a_plugin_on_the_sdk_goes_on_as_if_nothing_had_happened(config: HostConfig) -> None:
    needy = echo_plugin("needy", "needs")
    echo = needy.require("echo")
    bind = f"127.0.0.1:{unused_port()}"
    url = f"http://{bind}"
    seen: list[set[str]] = []

    def registered(host: Host) -> set[str]:
        return {r.id for plugin in host.registry.plugins() for r in host.registry.registrations(plugin)}

    async with plugged(echo_plugin(), url, heartbeat_s=0.05), plugged(needy, url, heartbeat_s=0.05):
        for _ in range(2):
            async with hosting(config, bind) as (host, _):
                if seen:
                    assert host.registry.available("echo")
                await until(host, lambda: is_healthy(host, "echo") and is_healthy(host, "needs"))
                provider = await echo.wait_available()
                assert host.registry.discover("echo")[0].runtime_id == provider.id
                seen.append(registered(host))
                assert len(host.identities) == 2
    assert len(seen[0]) == 2
    assert seen[0] == seen[1]


class Asked(Provider):
    """Holds its answer about its health until something has happened."""

    def __init__(self) -> None:
        super().__init__("t-plugin")
        self.said = pb.GetHealthResponse(state=pb.HEALTH_STATE_DEGRADED, reason="asked")
        self.is_asked, self.happened = trio.Event(), trio.Event()

    async def __call__(self, peer: Peer) -> None:
        while head := await peer.receive_head():
            said: Message = self.said
            if b"/GetPluginInfo " in head:
                said = pb.GetPluginInfoResponse(self_id=self.self_id)
            else:
                self.is_asked.set()
                await self.happened.wait()
            await peer.send(in_proto(said))


@pytest.mark.parametrize("report", [{"state": 1, "reason": "reported"}, {"state": 1}, {"state": 3}])
@pytest.mark.parametrize("before", [None, {"state": 1}])
async def test_an_answer_does_not_take_the_place_of_a_report_that_came_while_it_was_asked_for(
    report: dict[str, Any], before: dict[str, Any] | None
) -> None:
    plugin = Asked()
    async with serving(plugin) as origin, running() as host:
        headers = await host.provider("t", f"http://127.0.0.1:{origin.port}")
        if before is not None:
            await host.post(REPORT, before, headers)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.host._prober.probe, runtime_id(headers))
            await plugin.is_asked.wait()
            await host.post(REPORT, report, headers)
            plugin.happened.set()
        health = host.host.registry.health(runtime_id(headers))
        assert (health_number(health.state), health.reason) == (report["state"], report.get("reason", ""))


async def test_an_answer_of_a_plugin_that_is_gone_by_then_leaves_nothing_behind() -> None:
    plugin = Asked()
    async with serving(plugin) as origin, running() as host:
        headers = await host.provider("t", f"http://127.0.0.1:{origin.port}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.host._prober.probe, runtime_id(headers))
            await plugin.is_asked.wait()
            await host.host.revoke_identity(runtime_id(headers))
            plugin.happened.set()
        assert host.host.registry.last_report(runtime_id(headers)) is None


@pytest.mark.parametrize(
    "said",
    [
        pb.GetHealthResponse(state=99),  # type: ignore[arg-type]
        pb.GetHealthResponse(state=pb.HEALTH_STATE_DEGRADED, reason="x" * 5000),
        pb.GetHealthResponse(unavailable_dependencies=["t"] * 101),
        pb.GetHealthResponse(unavailable_dependencies=["../t"]),
    ],
    ids=lambda said: str(said)[:40],
)
async def test_an_answer_is_held_to_the_limits_of_a_report(
    said: pb.GetHealthResponse, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = Asked()
    plugin.said = said
    plugin.happened.set()
    async with serving(plugin) as origin, running() as host:
        headers = await host.provider("t", f"http://127.0.0.1:{origin.port}")
        body = json_format.MessageToDict(said)
        assert (await host.post(REPORT, body, headers))[0] == 400
        assert await host.host._prober.probe(runtime_id(headers))
        assert host.host.registry.health(runtime_id(headers)) == Health()
    (warning,) = [r for r in caplog.records if "what makes no sense" in r.getMessage()]
    assert len(warning.getMessage()) < 500


async def test_an_answer_that_is_far_too_long_is_none() -> None:
    plugin = Asked()
    plugin.said = pb.GetHealthResponse(state=pb.HEALTH_STATE_DEGRADED, reason="x" * 1024 * 1024)
    plugin.happened.set()
    async with serving(plugin) as origin, running() as host:
        headers = await host.provider("t", f"http://127.0.0.1:{origin.port}")
        assert not await host.host._prober.probe(runtime_id(headers))
        assert host.host.registry.health(runtime_id(headers)) == Health()


@pytest.mark.parametrize(
    "url",
    ["nonsense", "http://[::1", "http://", "//x", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://a b"],
)
@pytest.mark.parametrize("key", [wire.BASE_URL_KEY, wire.CONTROL_URL_KEY])
async def test_a_url_that_is_none_is_a_plugin_that_does_not_answer(url: str, key: str) -> None:
    async with running() as host:
        plugin = await host.plugin("p")
        metadata = {wire.BASE_URL_KEY: "http://127.0.0.1:1", key: url}
        body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/", "metadata": metadata}
        if (await host.post(REGISTER, body, plugin))[0] == 200:
            assert not await host.host._prober.probe(runtime_id(plugin))
