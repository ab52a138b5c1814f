"""What it costs a host to be watched: routed calls with and without it, side by side in one run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import attrs
import httpx
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import Receive, Scope, Send, send_response
from cpg_trio.http import ServeConfig, serve

from .bench import Bench, Report, median
from .load import Load, wrk
from .peers import Peer, Proxy
from .processes import cpu_seconds, free_port
from .report import table, with_ratios

_CONNECTIONS = (1, 16, 64)
_SCRAPE_S = 1.0


@asynccontextmanager
async def _nothing(_env: Mapping[str, str]) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _scraping(env: Mapping[str, str]) -> AsyncIterator[None]:
    """Scrape the metrics once a second, as Prometheus does."""
    url = f"http://{env['METRICS_BIND']}/metrics"

    async def scrape() -> None:
        async with httpx.AsyncClient() as client:
            while True:
                (await client.get(url)).raise_for_status()
                await trio.sleep(_SCRAPE_S)

    async with open_plain_nursery() as nursery:
        nursery.start_soon(scrape)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _collecting(env: Mapping[str, str]) -> AsyncIterator[None]:
    """Take the spans that are exported, as a collector does."""
    bind = env["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("http://")

    async def take(_scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send_response(send, 200)

    async with open_plain_nursery() as nursery:
        await nursery.start(partial(serve, take, bind=bind, config=ServeConfig(), stop=trio.Event()))
        yield
        nursery.cancel_scope.cancel()


@attrs.frozen(eq=False)
class Subject:
    """A host that is watched in some way."""

    peer: Peer
    env: Mapping[str, str]
    watching: Callable[[Mapping[str, str]], AbstractAsyncContextManager[None]]
    """Runs while the host is measured, with the host's environment."""

    @classmethod
    def of(
        cls,
        name: str,
        title: str,
        env: Mapping[str, str],
        watching: Callable[[Mapping[str, str]], AbstractAsyncContextManager[None]] = _nothing,
    ) -> Subject:
        """Return a host with these environment variables."""
        return cls(Peer.with_settings(name, title, env), env, watching)


def subjects() -> list[Subject]:
    """Return what is compared; the first is what the others are compared with."""
    return [
        Subject.of("unwatched", "no metrics, no traces", {}),
        Subject.of(
            "metrics",
            "metrics, scraped once a second",
            {"METRICS_BIND": f"127.0.0.1:{free_port()}"},
            _scraping,
        ),
        Subject.of(
            "traces",
            "traces of 1 % of the calls",
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "0.01",
                "OTEL_BSP_SCHEDULE_DELAY": "500",  # so that a run has its own spans exported
            },
            _collecting,
        ),
    ]


@attrs.frozen
class Sample:
    """One run of wrk through a host."""

    load: Load
    cpu_us: float
    """What the host's process has run for each call, in microseconds."""


async def measure(bench: Bench) -> Report:
    """Measure small calls to hosts that are watched in different ways."""
    compared = subjects()
    alone = attrs.evolve(bench, peers=[subject.peer for subject in compared])
    async with alone.proxies() as proxies:
        samples = {
            connections: await bench.take_turns(compared, partial(_sample, bench, proxies, connections))
            for connections in _CONNECTIONS
        }
    return Report("observability", _tables(samples), _figures(samples))


async def _sample(bench: Bench, proxies: dict[Peer, Proxy], connections: int, subject: Subject) -> Sample:
    proxy = proxies[subject.peer]
    async with subject.watching(subject.env):
        before = cpu_seconds(proxy.pid)
        load = await wrk(proxy.call(), connections, bench.seconds, [bench.load_core], "call.lua")
        return Sample(load, 1e6 * (cpu_seconds(proxy.pid) - before) / load.requests)


_Samples = dict[int, dict[Subject, list[Sample]]]


def _tables(samples: _Samples) -> str:
    heads = [f"{connections} connection{'s' * (connections > 1)}" for connections in samples]
    rates = [with_ratios(of, lambda sample: sample.load.rate) for of in samples.values()]
    costs = [
        {subject: f"{median(each, lambda sample: sample.cpu_us):.1f}" for subject, each in of.items()}
        for of in samples.values()
    ]
    compared = next(iter(samples.values()))
    return "\n\n".join(
        [
            "Calls a second (in parentheses: as a multiple of the first row's)",
            table("host", heads, [[s.peer.title, *(column[s] for column in rates)] for s in compared]),
            "CPU time of the host for one call, µs",
            table("host", heads, [[s.peer.title, *(column[s] for column in costs)] for s in compared]),
        ]
    )


def _figures(samples: _Samples) -> dict[str, dict[int, dict[str, float]]]:
    return {
        subject.peer.name: {
            connections: {
                "calls_per_s": median(of[subject], lambda sample: sample.load.rate),
                "cpu_us": median(of[subject], lambda sample: sample.cpu_us),
            }
            for connections, of in samples.items()
        }
        for subject in next(iter(samples.values()))
    }
