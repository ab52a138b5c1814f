"""How many DiscoverService calls a second a host answers, as Connect unary calls, in either encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

import attrs
from google.protobuf.json_format import MessageToJson

from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb

from .bench import Bench, Report, median
from .comparison import figures
from .hosts import SERVICE_TYPE, introduce
from .load import Call, Load, expect, wrk
from .peers import Peer
from .processes import cpu_seconds, free_port
from .report import table, with_ratios

CONNECTIONS = (1, 8, 16)
_PATH = "/connectplugin.v1.ServiceRegistry/DiscoverService"
_REQUEST = pb.DiscoverServiceRequest(service_type=SERVICE_TYPE)
_BODIES = {
    "application/proto": _REQUEST.SerializeToString(),
    "application/json": MessageToJson(_REQUEST, indent=None).encode(),
}


@attrs.frozen
class _Subject:
    """A running host, and the call in each encoding."""

    pid: int
    calls: Mapping[str, Call]


@attrs.frozen
class Sample:
    """One run of wrk."""

    load: Load
    cpu_us: float
    """What the host has run for each call, in microseconds."""


@attrs.frozen
class _Case:
    encoding: str
    connections: int

    def __str__(self) -> str:
        return f"{self.encoding}, {self.connections} connection{'s' * (self.connections > 1)}"


async def measure(bench: Bench) -> Report:
    """Measure hosts in turns."""
    async with AsyncExitStack() as stack:
        subjects = {}
        for peer in bench.hosts:
            assert peer.host is not None
            folder = bench.subfolder("discovery", peer.name)
            port, pid = await stack.enter_async_context(peer.host.running(folder, [bench.proxy_core]))
            subjects[peer] = _Subject(pid, await _calls(port))
        cases = [_Case(encoding, connections) for encoding in _BODIES for connections in CONNECTIONS]
        samples = {
            case: await bench.take_turns(bench.hosts, partial(_sample, bench, subjects, case))
            for case in cases
        }
    compared = [
        figure
        for case, of in samples.items()
        for figure in figures(
            str(case),
            of,
            bench.pair,
            ("calls a second", lambda sample: sample.load.rate, True),
            ("CPU of a call, µs", lambda sample: sample.cpu_us, False),
        )
    ]
    return Report("discovery", _tables(bench, samples), _figures(bench, samples), compared=compared)


async def _calls(port: int) -> dict[str, Call]:
    """Return the call in each encoding, which has been tried once."""
    identity = await introduce(port, f"http://127.0.0.1:{free_port()}")
    calls = {
        encoding: Call(port, _PATH, {"Content-Type": encoding, **identity.headers}, body)
        for encoding, body in _BODIES.items()
    }
    for call in calls.values():
        await expect(call, 200)
    return calls


async def _sample(bench: Bench, subjects: Mapping[Peer, _Subject], case: _Case, peer: Peer) -> Sample:
    subject = subjects[peer]
    before = cpu_seconds(subject.pid)
    load = await wrk(subject.calls[case.encoding], case.connections, bench.seconds, [bench.load_core])
    return Sample(load, 1e6 * (cpu_seconds(subject.pid) - before) / load.requests)


_Samples = Mapping[_Case, Mapping[Peer, Sequence[Sample]]]


def _tables(bench: Bench, samples: _Samples) -> str:
    rates = [with_ratios(of, lambda sample: sample.load.rate) for of in samples.values()]
    rows = []
    for peer in bench.hosts:
        rows.append([f"{peer.title}: calls a second", *(column[peer] for column in rates)])
        costs = (median(of[peer], lambda sample: sample.cpu_us) for of in samples.values())
        rows.append(["CPU of the host for one, µs", *(f"{cost:,.0f}" for cost in costs)])
    return table("", list(map(str, samples)), rows)


def _figures(bench: Bench, samples: _Samples) -> dict[str, dict[str, dict[str, float]]]:
    return {
        peer.name: {
            str(case): {
                "calls_per_s": median(of[peer], lambda sample: sample.load.rate),
                "cpu_us": median(of[peer], lambda sample: sample.cpu_us),
            }
            for case, of in samples.items()
        }
        for peer in bench.hosts
    }
