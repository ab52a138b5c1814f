"""How many calls a second a router passes on, how long one takes, and what it costs.

One proxy process on one core; wrk and the provider on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeAlias

import attrs

from .bench import Bench, Report, median
from .chart import Bar, chart
from .comparison import Figure, figures
from .load import Call, Load, expect, wrk
from .peers import Peer, Proxy
from .processes import cpu_seconds
from .report import table, with_ratios
from .upstream import LARGE, SMALL

_LARGE_CONNECTIONS = 4
_SCRIPTS = {"Fresh": "fresh.lua"}
_ENGINES = "ours", "hypercorn", "stock"  # peers with different engines for HTTP/1.1 in Python


@attrs.frozen
class Sample:
    """One run of wrk through a proxy."""

    load: Load
    cpu_us: float
    """What the proxy's process has run for each call, in microseconds."""


_Samples: TypeAlias = Mapping[int, Mapping[Peer, Sequence[Sample]]]


async def _sample(
    bench: Bench, proxies: dict[Peer, Proxy], call: str, connections: int, peer: Peer
) -> Sample:
    proxy = proxies[peer]
    before = cpu_seconds(proxy.pid)
    script = _SCRIPTS.get(call, "call.lua")
    load = await wrk(calls_of(proxy)[call], connections, bench.seconds, [bench.load_core], script)
    return Sample(load, 1e6 * (cpu_seconds(proxy.pid) - before) / load.requests)


def calls_of(proxy: Proxy) -> dict[str, Call]:
    """Return the calls that are measured, by their method."""
    return {
        "Small": proxy.call(),
        "Fresh": proxy.call("Fresh"),
        "Large": proxy.call("Large"),
        "Upload": proxy.call("Upload", body=LARGE),
    }


async def measure_fresh(bench: Bench) -> Report:
    """Measure small calls whose heads never repeat, of requests and of answers: the main table."""
    samples = await _samples(bench, "Fresh")
    excerpts = {"summary": _summary(bench, samples), "engines": _engines(bench, samples)}
    return _report(bench, "fresh", samples, excerpts, drawn(samples))


async def measure_repeated(bench: Bench) -> Report:
    """Measure the same with heads that repeat."""
    samples = await _samples(bench, "Small")
    return _report(bench, "router", samples, {"summary-repeated": _summary(bench, samples)})


async def _samples(bench: Bench, call: str) -> _Samples:
    """Measure a call at each number of connections."""
    async with bench.proxies() as proxies:
        return {
            connections: await bench.take_turns(
                list(proxies), partial(_sample, bench, proxies, call, connections)
            )
            for connections in bench.connections
        }


def _report(
    bench: Bench, name: str, samples: _Samples, excerpts: Mapping[str, str], drawing: str = ""
) -> Report:
    compared = [
        figure
        for connections, of in samples.items()
        for figure in _compared(bench, _connections(connections), of)
    ]
    return Report(name, _tables(bench, samples), _figures(samples), excerpts, drawing, compared)


def _compared(bench: Bench, case: str, samples: Mapping[Peer, Sequence[Sample]]) -> list[Figure]:
    return figures(
        case,
        samples,
        bench.pair,
        ("calls a second", lambda sample: sample.load.rate, True),
        ("CPU of a call, µs", _cpu, False),
        ("p50, µs", lambda sample: sample.load.p50_us, False),
        ("p99, µs", lambda sample: sample.load.p99_us, False),
    )


def _tables(bench: Bench, samples: _Samples) -> str:
    heads = list(map(_connections, bench.connections))
    rates = [with_ratios(samples[n], lambda sample: sample.load.rate) for n in bench.connections]
    latencies = [{p: _p50_p99(of) for p, of in samples[n].items()} for n in bench.connections]
    costs = [with_ratios(samples[n], _cpu) for n in bench.connections]
    return "\n\n".join(
        [
            "Calls a second (in parentheses: as a multiple of the first row's)",
            table("proxy", heads, _rows(bench.peers, rates)),
            "From request to answer, p50 / p99, µs",
            table("proxy", heads, _rows(bench.peers, latencies)),
            "CPU time of the proxy for one call, µs (as a multiple of the first row's)",
            table("proxy", heads, _rows(bench.peers, costs)),
        ]
    )


def _summary(bench: Bench, samples: _Samples) -> str:
    """Return one table: calls a second, and the CPU time of a call at the middle number of connections."""
    middle = bench.connections[len(bench.connections) // 2]
    heads = [*map(_connections, bench.connections), f"CPU for a call, {_connections(middle)}"]
    columns = [with_ratios(samples[n], lambda sample: sample.load.rate) for n in bench.connections]
    columns.append({peer: f"{median(of, _cpu):,.0f} µs" for peer, of in samples[middle].items()})
    return table("calls a second", heads, _rows(bench.peers, columns))


def _engines(bench: Bench, samples: _Samples) -> str:
    """Return the CPU time of a call with each engine for HTTP/1.1, at the middle number of connections."""
    middle = bench.connections[len(bench.connections) // 2]
    costs = {peer: f"{median(of, _cpu):,.0f} µs" for peer, of in samples[middle].items()}
    rows = [[peer.title, cost] for peer, cost in costs.items() if peer.name in _ENGINES]
    return table(f"CPU for a call, {_connections(middle)}", [""], rows)


def drawn(samples: _Samples) -> str:
    """Return the chart of the rates."""
    panels = {
        _connections(n): [
            Bar(peer.title, median(each, lambda sample: sample.load.rate), ours=peer.ours)
            for peer, each in of.items()
        ]
        for n, of in samples.items()
    }
    subtitle = (
        "One process on one core; POST of 128 bytes, no two heads alike;"
        " caller checked, path rewritten, every call logged."
    )
    return chart("Calls passed on a second", subtitle, panels)


def _connections(number: int) -> str:
    return f"{number} connection{'s' * (number > 1)}"


def _rows(peers: Sequence[Peer], columns: Sequence[dict[Peer, str]]) -> list[list[str]]:
    return [[peer.title, *(column[peer] for column in columns)] for peer in peers]


def _p50_p99(samples: Sequence[Sample]) -> str:
    return (
        f"{median(samples, lambda s: s.load.p50_us):,.0f} / {median(samples, lambda s: s.load.p99_us):,.0f}"
    )


def _cpu(sample: Sample) -> float:
    return sample.cpu_us


def _figures(samples: _Samples) -> dict[str, dict[int, dict[str, float]]]:
    peers = next(iter(samples.values()))
    return {
        peer.name: {connections: _figures_of(of[peer]) for connections, of in samples.items()}
        for peer in peers
    }


def _figures_of(samples: Sequence[Sample]) -> dict[str, float]:
    return {
        "calls_per_s": median(samples, lambda sample: sample.load.rate),
        "p50_us": median(samples, lambda sample: sample.load.p50_us),
        "p99_us": median(samples, lambda sample: sample.load.p99_us),
        "cpu_us": median(samples, _cpu),
    }


async def measure_large(bench: Bench) -> Report:
    """Measure calls of 1 MiB, one way and the other."""
    async with bench.proxies() as proxies:
        for proxy in proxies.values():
            await expect(calls_of(proxy)["Large"], 200, LARGE)
            await expect(calls_of(proxy)["Upload"], 200, SMALL)
        samples = {
            call: await bench.take_turns(
                list(proxies), partial(_sample, bench, proxies, call, _LARGE_CONNECTIONS)
            )
            for call in ("Large", "Upload")
        }
    rates = [with_ratios(of, lambda sample: sample.load.rate) for of in samples.values()]
    costs = [{p: f"{median(s, _cpu):,.0f}" for p, s in of.items()} for of in samples.values()]
    columns = [rates[0], costs[0], rates[1], costs[1]]
    heads = ["answers, MiB/s", "CPU per MiB, µs", "requests, MiB/s", "CPU per MiB, µs"]
    found = {peer.name: {call: _figures_of(of[peer]) for call, of in samples.items()} for peer in bench.peers}
    compared = [
        figure
        for call, what in (("Large", "answers of 1 MiB"), ("Upload", "requests of 1 MiB"))
        for figure in _compared(bench, what, samples[call])
    ]
    return Report("large", table("proxy", heads, _rows(bench.peers, columns)), found, compared=compared)
