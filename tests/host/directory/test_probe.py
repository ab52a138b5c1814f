"""Probes: what a host asks a plugin that says nothing by itself, and what it makes of the answer."""

from __future__ import annotations

import re
import time
from pathlib import Path

import attrs
import pytest
import trio

from cpg_trio import HealthState
from cpg_trio._cell import Cell
from cpg_trio.assertions import Purpose, verify
from cpg_trio.host import Health, HostConfig, LeaseConfig
from cpg_trio.host.directory.leases import CannotAskError
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.store import SqliteStore
from tests.descriptors import none_left
from tests.host.calls import Provider, in_proto
from tests.host.routed import hosting, routing
from tests.http.apps import served
from tests.http.peers import Peer, serving, url_of
from tests.plugin import running
from tests.plugin.running import unused_port
from tests.rpc.echo import canned

PROBING = HostConfig(leases=LeaseConfig(heartbeat_s=0.02, lease_s=30.0, probe_timeout_s=5.0))


async def test_a_provider_that_speaks_only_the_wire_protocol_is_probed_and_kept() -> None:
    probes = Cell[tuple[bytes, ...]](())

    async def control(peer: Peer) -> None:
        """Answer as a plugin does that reports nothing by itself: DEGRADED, when it is asked."""
        while head := await peer.receive_head():
            probes.set((*probes.value, head))
            said = pb.GetHealthResponse(state=pb.HEALTH_STATE_DEGRADED, reason="asked").SerializeToString()
            await peer.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\n"
                b"content-length: %d\r\n\r\n" % len(said) + said
            )

    started = trio.current_time()
    async with routing(control, config=PROBING) as s:
        async for heads in probes.reader():
            if len(heads) == 6:
                break
        assert s.host.registry.health(s.provider) == Health(HealthState.DEGRADED, "asked")
        assert s.host._liveness._leases[s.provider].last_sign > started
    asked = [head.split()[1].rpartition(b"/")[2] for head in probes.value[:6]]
    assert asked == [b"GetPluginInfo", b"GetHealth"] * 3
    entry = s.host.identities.entry(s.provider)
    assert entry is not None
    for head, method in zip(
        probes.value[:6], ["PluginIdentity/GetPluginInfo", "PluginControl/GetHealth"] * 3, strict=True
    ):
        (shown,) = re.findall(rb"(?i)authorization: Bearer ([^\r]+)", head)
        said = verify(shown.decode(), [entry.digest], Purpose.CONTROL, s.provider, time.time())
        assert said.path == f"/connectplugin.v1.{method}"


async def test_a_provider_that_does_not_know_probes_is_alive_to_say_so() -> None:
    async with (
        served(canned(404, b"404 page not found")) as url,
        hosting(PROBING) as (host, _),
    ):
        provider = host.identities.issue("p")[0].runtime_id
        host.registry.register(provider, "echo", "1.0.0", "/", {"base_url": url})
        assert await host._prober.probe(provider)
        host.registry.register(
            provider, "echo", "1.0.0", "/", {"base_url": f"http://127.0.0.1:{unused_port()}"}
        )
        assert not await host._prober.probe(provider)
        assert not await host._prober.probe("nobody-0")
        host.registry.register(provider, "echo", "1.0.0", "/", {"base_url": "no url"})
        assert not await host._prober.probe(provider)


NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


async def unknown_to(peer: Peer) -> None:
    """Answer as a stranger does: 404 to everything."""
    while await peer.receive_head():
        await peer.send(NOT_FOUND)


async def test_one_that_only_says_who_it_is_is_alive_for_as_long_as_it_says_so() -> None:
    connections = 0

    async def identify_once(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            assert b"/GetPluginInfo " in await peer.receive_head()
            await peer.send(in_proto(pb.GetPluginInfoResponse(self_id="p")))
            await peer.receive_head()
            await peer.send(NOT_FOUND)
        else:
            await unknown_to(peer)

    async with serving(identify_once) as origin, hosting(PROBING) as (host, _):
        provider = host.identities.issue("p")[0].runtime_id
        host.registry.register(provider, "echo", "1.0.0", "/", {"base_url": url_of(origin)})
        assert await host._prober.probe(provider)
        assert not await host._prober.probe(provider)


@pytest.fixture
def kept(tmp_path: Path) -> HostConfig:
    return attrs.evolve(PROBING, store=SqliteStore(tmp_path / "state"), leases=LeaseConfig(lease_s=0.3))


async def assert_goes(config: HostConfig, port: int) -> None:
    """Check that a host which is started again takes out who was at an address where a stranger is now."""
    async with serving(unknown_to, port=port), running.hosting(config) as (host, _):
        assert host.registry.provides("echo")
        assert not host.registry.available("echo")
        await running.until(host, lambda: not host.registry.service_types())


async def test_a_dead_plugin_on_the_sdk_goes_though_a_stranger_at_its_address_answers_404(
    kept: HostConfig,
) -> None:
    port = unused_port()

    async def provide_until_killed(host_url: str) -> None:
        async with running.plugged(running.echo_plugin(), host_url, bind=f"127.0.0.1:{port}"):
            await trio.sleep_forever()

    async with trio.open_nursery() as living:
        async with running.hosting(kept) as (host, url):
            living.start_soon(provide_until_killed, url)
            await running.until(host, lambda: running.is_healthy(host, "echo"))
        living.cancel_scope.cancel()  # without a host to take leave of
    await assert_goes(kept, port)


async def test_a_dead_plugin_that_has_answered_a_probe_goes_though_a_stranger_at_its_address_answers_404(
    kept: HostConfig,
) -> None:
    async with serving(Provider("p")) as origin, running.hosting(kept) as (host, _):
        provider = host.identities.issue("p")[0].runtime_id
        host.registry.register(provider, "echo", "1.0.0", "/", {"base_url": url_of(origin)})
        assert await host._prober.probe(provider)
    await assert_goes(kept, origin.port)


async def test_one_that_has_never_answered_is_kept_by_404_over_a_restart(kept: HostConfig) -> None:
    async with serving(unknown_to) as origin:
        async with running.hosting(kept) as (host, _):
            provider = host.identities.issue("p")[0].runtime_id
            host.registry.register(provider, "echo", "1.0.0", "/", {"base_url": url_of(origin)})
        async with running.hosting(kept) as (host, _):
            assert host.registry.available("echo")


async def test_a_probe_goes_to_the_address_that_was_checked() -> None:
    async with served(canned(404, b"404 page not found")) as url, hosting(PROBING) as (host, _):
        provider = host.identities.issue("p")[0].runtime_id
        base_url = url.replace("127.0.0.1", "rebound.invalid")
        host.registry.register(
            provider, "echo", "1.0.0", "/", {"base_url": base_url}, addresses=("127.0.0.1",)
        )
        assert await host._prober.probe(provider)


async def test_a_probe_that_the_host_cannot_make_is_no_answer_and_no_silence() -> None:
    async with served(canned(404, b"404 page not found")) as url, hosting(PROBING) as (host, _):
        provider = host.identities.issue("p")[0].runtime_id
        host.registry.register(provider, "echo", "1.0.0", "/", {"base_url": url})
        with none_left(), pytest.raises(CannotAskError, match="too many open files"):
            await host._prober.probe(provider)
        assert await host._prober.probe(provider)
