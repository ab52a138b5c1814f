"""The URL shortener as people run it: how many durable Shortens a second, from end to end.

Four processes (a host, logger, storage and api) and wrk share the two cores. A Shorten is two calls between
plugins, through the host, and one commit to an SQLite file. That what was answered was kept is checked: the
rows are counted, and a sample is resolved.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from .bench import Bench, Report, median
from .load import Call, Load, LoadError, ask, expect, wrk
from .peers import Peer, host
from .processes import cpu_seconds, free_port, server
from .report import table, with_ratios

CONNECTIONS = (1, 8, 64)
_SOCKETS = Peer.host("sockets", "the same, by Unix sockets", {})
_DIRECT = Peer.host("direct", "the same, calls not through the host", {"DIRECT_CALLS": "true"})
_PLUGINS = ("logger", "storage", "api")
_READY_S = 30.0
_POLL_S = 0.05


@attrs.frozen
class Shortener:
    """The four processes."""

    api: int
    """The port that people call."""
    database: Path
    pids: Sequence[int]

    def shorten(self) -> Call:
        return Call(self.api, "/api.v1.API/Shorten")

    def resolve(self, code: str) -> Call:
        return Call(self.api, f"/api.v1.API/Resolve?code={code}", method="GET")

    def rows(self) -> int:
        """Return how many URLs are in the file."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM urls").fetchone()[0])

    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, self.pids))


@attrs.frozen
class Sample:
    """One run of wrk."""

    load: Load
    cpu_us: float
    """What all four have run for each Shorten, in microseconds."""


@asynccontextmanager
async def _running(folder: Path, cores: Sequence[int], env: Mapping[str, str]) -> AsyncIterator[Shortener]:
    database = folder / "urls.sqlite3"
    async with AsyncExitStack() as stack:
        port, pid = await stack.enter_async_context(host(folder, cores, env))
        shared = {"HOST_URL": f"http://127.0.0.1:{port}", "HOSTNAME": "127.0.0.1", **env}
        pids, plugin_port = [pid], 0
        for name in _PLUGINS:
            plugin_port = free_port()
            command = [sys.executable, "-m", f"cpg_trio.demo.{name}"]
            variables = {**shared, "PORT": str(plugin_port), "STORAGE_PATH": str(database)}
            started = server(command, plugin_port, cores=cores, log=folder / f"{name}.log", env=variables)
            pids.append(await stack.enter_async_context(started))
        shortener = Shortener(plugin_port, database, pids)
        await _wait_ready(shortener)
        yield shortener


async def _wait_ready(shortener: Shortener) -> None:
    call = attrs.evolve(shortener.shorten(), path="/api.v1.API/Shorten?url=https://example.com/")
    deadline = trio.current_time() + _READY_S
    while (await ask(call))[0] != 200 and trio.current_time() < deadline:  # noqa: ASYNC110 - it is elsewhere
        await trio.sleep(_POLL_S)
    await expect(call, 200)


async def measure(bench: Bench) -> Report:
    """Measure our own ways to serve HTTP, and to connect, in turns."""
    async with AsyncExitStack() as stack:
        shorteners = {}
        for peer in [*bench.hosts, _SOCKETS, _DIRECT]:
            folder = bench.subfolder("shortener", peer.name)
            env = {"SOCKET_DIR": str(folder)} if peer is _SOCKETS else peer.env or {}
            shorteners[peer] = await stack.enter_async_context(_running(folder, bench.cores, env))
        samples = {
            connections: await bench.take_turns(
                list(shorteners), partial(_sample, bench, shorteners, connections)
            )
            for connections in CONNECTIONS
        }
    return Report("shortener", _table(samples), _figures(samples))


async def _sample(bench: Bench, shorteners: Mapping[Peer, Shortener], connections: int, peer: Peer) -> Sample:
    shortener = shorteners[peer]
    rows, cpu = shortener.rows(), shortener.cpu_seconds()
    load = await wrk(shortener.shorten(), connections, bench.seconds, bench.cores, script="shorten.lua")
    sample = Sample(load, 1e6 * (shortener.cpu_seconds() - cpu) / load.requests)
    await _check_kept(shortener, load, shortener.rows() - rows)
    return sample


async def _check_kept(shortener: Shortener, load: Load, rows: int) -> None:
    """Raise LoadError if anything that was answered is not there."""
    if rows < load.requests:
        raise LoadError(f"{load.requests} were answered, and {rows} kept")
    for pair in load.said["kept"]:
        await _check_resolves(shortener, pair)


async def _check_resolves(shortener: Shortener, pair: Mapping[str, str]) -> None:
    status, body = await ask(shortener.resolve(pair["short_code"]))
    if status != 200 or pair["url"].encode() not in body:
        raise LoadError(f"{pair} resolves to {status} {body!r}")


def _table(samples: Mapping[int, Mapping[Peer, Sequence[Sample]]]) -> str:
    heads = [f"{n} connection{'s' * (n > 1)}" for n in samples]
    peers = list(next(iter(samples.values())))
    rates = [with_ratios(of, lambda sample: sample.load.rate) for of in samples.values()]
    rows = []
    for peer in peers:
        rows.append([f"{peer.title}: Shortens a second", *(column[peer] for column in rates)])
        rows.append(["p50 / p99, ms", *(_p50_p99(of[peer]) for of in samples.values())])
        rows.append(
            ["CPU of all four for one, µs", *(f"{median(of[peer], _cpu):,.0f}" for of in samples.values())]
        )
    return table("", heads, rows)


def _p50_p99(samples: Sequence[Sample]) -> str:
    p50, p99 = median(samples, lambda s: s.load.p50_us), median(samples, lambda s: s.load.p99_us)
    return f"{p50 / 1000:.2f} / {p99 / 1000:.2f}"


def _cpu(sample: Sample) -> float:
    return sample.cpu_us


def _figures(samples: Mapping[int, Mapping[Peer, Sequence[Sample]]]) -> dict[str, Any]:
    peers = next(iter(samples.values()))
    return {
        peer.name: {
            connections: {
                "shortens_per_s": median(of[peer], lambda sample: sample.load.rate),
                "p50_us": median(of[peer], lambda sample: sample.load.p50_us),
                "p99_us": median(of[peer], lambda sample: sample.load.p99_us),
                "cpu_us": median(of[peer], _cpu),
            }
            for connections, of in samples.items()
        }
        for peer in peers
    }
