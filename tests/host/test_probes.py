"""Probes: what a host asks a plugin that says nothing by itself, and what it makes of the answer."""

from __future__ import annotations

import re
import time

import pytest
import trio

from cpg_trio._cell import Cell
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.assertions import Purpose, read
from cpg_trio.host import Health, HostConfig, LeaseConfig
from cpg_trio.host.directory.leases import CannotAskError
from tests.descriptors import none_left
from tests.host.routed import hosting, routing
from tests.http.apps import served
from tests.http.peers import Peer
from tests.plugin.running import unused_port
from tests.rpc.echo import canned

PROBING = HostConfig(leases=LeaseConfig(heartbeat_s=0.02, lease_s=30.0))


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
        assert s.host.registry.health(s.provider) == Health(pb.HEALTH_STATE_DEGRADED, "asked")
        assert s.host._liveness._leases[s.provider].last_sign > started
    asked = [head.split()[1].rpartition(b"/")[2] for head in probes.value[:6]]
    assert asked == [b"GetPluginInfo", b"GetHealth"] * 3
    entry = s.host.identities.entry(s.provider)
    assert entry is not None
    for head, method in zip(
        probes.value[:6], ["PluginIdentity/GetPluginInfo", "PluginControl/GetHealth"] * 3, strict=True
    ):
        (shown,) = re.findall(rb"(?i)authorization: Bearer ([^\r]+)", head)
        said = read(shown.decode(), [entry.digest], Purpose.CONTROL, s.provider, time.time())
        assert said.path == f"/connectplugin.v1.{method}"


async def test_a_provider_that_does_not_know_probes_is_alive_to_say_so() -> None:
    async with (
        served(canned(404, b"404 page not found")) as url,
        hosting(PROBING) as (host, _),
    ):
        provider = host.identities.issue("p")[0].runtime_id
        host.registry.register(provider, "echo", "1.0.0", "/", {"base_url": url})
        assert await host._probe(provider)
        host.registry.register(
            provider, "echo", "1.0.0", "/", {"base_url": f"http://127.0.0.1:{unused_port()}"}
        )
        assert not await host._probe(provider)
        assert not await host._probe("nobody-0")
        host.registry.register(provider, "echo", "1.0.0", "/", {"base_url": "no url"})
        assert not await host._probe(provider)


async def test_a_probe_goes_to_the_address_that_was_checked() -> None:
    async with served(canned(404, b"404 page not found")) as url, hosting(PROBING) as (host, _):
        provider = host.identities.issue("p")[0].runtime_id
        base_url = url.replace("127.0.0.1", "rebound.invalid")
        host.registry.register(provider, "echo", "1.0.0", "/", {"base_url": base_url}, address="127.0.0.1")
        assert await host._probe(provider)


async def test_a_probe_that_the_host_cannot_make_is_no_answer_and_no_silence() -> None:
    async with served(canned(404, b"404 page not found")) as url, hosting(PROBING) as (host, _):
        provider = host.identities.issue("p")[0].runtime_id
        host.registry.register(provider, "echo", "1.0.0", "/", {"base_url": url})
        with none_left(), pytest.raises(CannotAskError, match="too many open files"):
            await host._probe(provider)
        assert await host._probe(provider)
