"""What a proxy adds to a call at a constant rate that all of them can bear: 1,000 a second, of 1 KiB.

Beside the proxies stands the provider without any; the difference is what a proxy adds.
"""

from __future__ import annotations

from functools import partial

from .bench import Bench, Report, median
from .comparison import figures
from .load import Steady, steady
from .peers import DIRECT, Peer, Proxy
from .report import table

RATE = 1000
_KEPT_UP = 0.98  # of the rate
_BODY = b"x" * 1024
_SECONDS = 2  # for each of `bench.seconds`: of the slowest hundredth, there have to be some


async def measure(bench: Bench) -> Report:
    """Measure all in turns."""
    async with bench.proxies(DIRECT) as proxies:
        samples = await bench.take_turns(list(proxies), partial(_sample, bench, proxies))
    compared = figures(
        f"{RATE:,} calls a second",
        samples,
        bench.pair,
        ("p50, µs", lambda sample: sample.p50_us, False),
        ("p99, µs", lambda sample: sample.p99_us, False),
    )
    found = {peer.name: _figures(of) for peer, of in samples.items()}
    return Report("latency", _tables(samples), found, compared=compared)


async def _sample(bench: Bench, proxies: dict[Peer, Proxy], peer: Peer) -> Steady:
    call = proxies[peer].call(body=_BODY)
    return await steady(call, RATE, _SECONDS * bench.seconds, bench.load_core)


def _figures(samples: list[Steady]) -> dict[str, float]:
    return {
        "p50_us": median(samples, lambda sample: sample.p50_us),
        "p99_us": median(samples, lambda sample: sample.p99_us),
        "late_p99_us": median(samples, lambda sample: sample.late_p99_us),
        "rate": median(samples, lambda sample: sample.rate),
    }


def _tables(samples: dict[Peer, list[Steady]]) -> str:
    figures = {peer: _figures(of) for peer, of in samples.items()}
    base = figures[DIRECT]
    rows = [[peer.title, *_cells(of, base)] for peer, of in figures.items()]
    heads = ["p50, µs", "p99, µs", "added to p50", "added to p99"]
    late = (
        f"The load itself sent 99 of 100 requests within {base['late_p99_us']:,.0f} µs of when they were due."
    )
    return f"{table('proxy', heads, rows)}\n\n{late}"


def _cells(figures: dict[str, float], base: dict[str, float]) -> list[str]:
    if figures["rate"] < _KEPT_UP * RATE:  # then calls wait the longer the longer it goes on
        return [f"answers {figures['rate']:,.0f} a second", "", "", ""]
    times = [figures["p50_us"], figures["p99_us"]]
    added = [figures[name] - base[name] for name in ("p50_us", "p99_us")]
    return [f"{time:,.0f}" for time in times] + [
        f"{more:+,.0f}" if figures is not base else "" for more in added
    ]
