"""How many DiscoverService calls a second a host answers, as Connect unary calls, in either encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

import attrs
from google.protobuf.json_format import MessageToJson

from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb

from .bench import Bench, Report, median
from .load import Call, Load, expect, wrk
from .peers import SERVICE_TYPE, Peer, host, introduce
from .processes import free_port
from .report import table, with_ratios

CONNECTIONS = (1, 16)
_PATH = "/connectplugin.v1.ServiceRegistry/DiscoverService"
_REQUEST = pb.DiscoverServiceRequest(service_type=SERVICE_TYPE)
_BODIES = {
    "application/proto": _REQUEST.SerializeToString(),
    "application/json": MessageToJson(_REQUEST, indent=None).encode(),
}


@attrs.frozen
class _Case:
    encoding: str
    connections: int

    def __str__(self) -> str:
        return f"{self.encoding}, {self.connections} connection{'s' * (self.connections > 1)}"


async def measure(bench: Bench) -> Report:
    """Measure our own ways to serve HTTP in turns."""
    async with AsyncExitStack() as stack:
        calls = {}
        for peer in bench.hosts:
            folder = bench.subfolder("discovery", peer.name)
            port, _ = await stack.enter_async_context(host(folder, [bench.proxy_core], peer.env or {}))
            calls[peer] = await _calls(port)
        cases = [_Case(encoding, connections) for encoding in _BODIES for connections in CONNECTIONS]
        samples = {
            case: await bench.take_turns(bench.hosts, partial(_sample, bench, calls, case)) for case in cases
        }
    return Report("discovery", _tables(bench, samples), _figures(bench, samples))


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


async def _sample(bench: Bench, calls: Mapping[Peer, Mapping[str, Call]], case: _Case, peer: Peer) -> Load:
    return await wrk(calls[peer][case.encoding], case.connections, bench.seconds, [bench.load_core])


def _tables(bench: Bench, samples: Mapping[_Case, Mapping[Peer, Sequence[Load]]]) -> str:
    rates = [with_ratios(of, lambda load: load.rate) for of in samples.values()]
    rows = [[peer.title, *(column[peer] for column in rates)] for peer in bench.hosts]
    return table("calls a second", list(map(str, samples)), rows)


def _figures(
    bench: Bench, samples: Mapping[_Case, Mapping[Peer, Sequence[Load]]]
) -> dict[str, dict[str, float]]:
    return {
        peer.name: {str(case): median(of[peer], lambda load: load.rate) for case, of in samples.items()}
        for peer in bench.hosts
    }
