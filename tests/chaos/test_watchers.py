"""A watcher that never reads: it holds up nobody, it costs the host nothing, and it misses no last word."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import trio

from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._session import Introduction, Session, handshake
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from tests._wire import Wire, dial, request
from tests.chaos.glass_host import GLASS_HOST
from tests.chaos.trial import SLACK_S, Trial, tell, trial

CHANGES = 2000
WARM_UP = 200
BALLAST = {"ballast": "x" * 4000}  # so that the system's buffers fill soon
MEBIBYTE = 1024 * 1024


async def test_a_watcher_that_never_reads_holds_up_nobody_and_hears_the_last_state_when_it_does(
    tmp_path: Path,
) -> None:
    environment = {"SERVE": json.dumps({"send_timeout_s": 600.0})}  # it is not to be thrown out
    async with trial(tmp_path, lease_s=60.0, modules=GLASS_HOST, environment=environment, writers=0) as t:
        provider = await handshake(
            Hosts([t.system.host_url], t.observer.pool), Introduction("watched-plugin", "1.0.0")
        )
        usual_s = await _latency_during_changes(t, provider, range(-WARM_UP, 0))
        async with dial(t.system.host_url, receive_buffer=2048) as wire:
            await wire.send(_watch(provider))
            before = t.system.parts["host"].memory_bytes()
            latency_s = await _latency_during_changes(t, provider, range(CHANGES))
            growth = t.system.parts["host"].memory_bytes() - before
            tell(f"the host grew by {growth} B; others wait {latency_s:.4f} s instead of {usual_s:.4f} s")
            assert growth < 2 * MEBIBYTE
            assert latency_s < 3 * usual_s + 0.02
            events = await _events_up_to(wire, CHANGES - 1)
            tell(f"the watcher missed {CHANGES - len(events)} changes")
            assert len(events) < CHANGES / 2, "the system's buffers took it all: nothing was held up"
            assert events == sorted(events)


async def _latency_during_changes(t: Trial, provider: Session, revisions: range) -> float:
    """Register what is watched once for each revision; return the median of what others wait meanwhile."""
    seconds: list[float] = []

    async def call() -> None:
        while True:
            began = trio.current_time()
            await t.observer.offered("logger")
            seconds.append(trio.current_time() - began)
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        for revision in revisions:
            metadata = {"revision": str(revision), **BALLAST}
            await provider.registry.register_service(
                pb.RegisterServiceRequest(
                    service_type="watched", version="1.0.0", endpoint_path="/", metadata=metadata
                )
            )
            if revision % 100 == 0:  # it lives, which its host has to hear
                await provider.lifecycle.report_health(pb.ReportHealthRequest(state=pb.HEALTH_STATE_HEALTHY))
        nursery.cancel_scope.cancel()
    assert max(seconds) < SLACK_S
    return statistics.median(seconds)


def _watch(session: Session) -> bytes:
    body = json.dumps({"serviceType": "watched"}).encode()
    headers = {"content-type": "application/connect+json", **session.headers}
    path = "/connectplugin.v1.ServiceRegistry/WatchService"
    return request("POST", path, headers, b"\0" + len(body).to_bytes(4, "big") + body)


async def _events_up_to(wire: Wire, last: int) -> list[int]:
    """Read the revisions that the watcher is told of, up to the last one."""
    assert (await wire.head()).status == 200
    revisions: list[int] = []
    received = b""
    while last not in revisions:
        size = int(await wire.until(b"\r\n"), 16)
        assert size, f"the watch ended with revision {revisions[-1]}"
        received += (await wire.exactly(size + 2))[:-2]
        while len(received) >= 5 and len(received) >= (end := 5 + int.from_bytes(received[1:5], "big")):
            revisions.append(int(json.loads(received[5:end])["endpoint"]["metadata"]["revision"]))
            received = received[end:]
    return revisions
