"""The URL shortener as people run it: how many durable Shortens a second, from end to end.

Four processes (a host, logger, storage and api) and wrk share the two cores. A Shorten is two calls between
plugins, through the host, and one commit to an SQLite file. That what was answered was kept is checked: the
rows are counted, and a sample is resolved.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import trio

from .bench import Bench, Report, median
from .comparison import Figure, figures
from .hosts import HostProgram
from .load import Call, Load, LoadError, ask, expect, wrk
from .peers import Peer
from .processes import cpu_seconds, free_port, server
from .report import table, with_ratios

CONNECTIONS = (1, 8, 64)
ROUTED, _SOCKETS, _DIRECT = "", "by Unix sockets", "calls not through the host"
_READY_S = 30.0
_POLL_S = 0.05


@attrs.frozen
class Shortener:
    """The four processes."""

    api: int
    """The port that people call."""
    database: Path | None
    """None if it keeps the URLs in memory."""
    pids: Sequence[int]

    def shorten(self) -> Call:
        return Call(self.api, "/api.v1.API/Shorten")

    def resolve(self, code: str) -> Call:
        return Call(self.api, f"/api.v1.API/Resolve?code={code}", method="GET")

    def rows(self) -> int:
        """Return how many URLs are in the file; 0 if there is none."""
        if self.database is None:
            return 0
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


@attrs.frozen(eq=False)
class Subject:
    """A host with its plugins, in one of the ways in which calls go."""

    peer: Peer
    host: HostProgram
    way: str = ROUTED

    @classmethod
    def of(cls, bench: Bench, peer: Peer, way: str) -> Subject:
        assert peer.host is not None
        folder = str(bench.subfolder("shortener", peer.name))
        env = {_SOCKETS: {"SOCKET_DIR": folder}, _DIRECT: {"DIRECT_CALLS": "true"}}.get(way, {})
        return cls(peer, attrs.evolve(peer.host, env={**peer.host.env, **env}), way)

    @property
    def title(self) -> str:
        return self.peer.title + (f", {self.way}" if self.way else "")

    @asynccontextmanager
    async def running(self, folder: Path, cores: Sequence[int]) -> AsyncIterator[Shortener]:
        database = folder / "urls.sqlite3"
        async with AsyncExitStack() as stack:
            port, pid = await stack.enter_async_context(self.host.running(folder, cores))
            shared = {"HOST_URL": f"http://127.0.0.1:{port}", "HOSTNAME": "127.0.0.1", **self.host.env}
            pids, plugin_port = [pid], 0
            for name, command in self.host.plugins.items():
                plugin_port = free_port()
                env = {**shared, "PORT": str(plugin_port), "STORAGE_PATH": str(database)}
                started = server(command, plugin_port, cores=cores, log=folder / f"{name}.log", env=env)
                pids.append(await stack.enter_async_context(started))
            shortener = Shortener(plugin_port, database if self.host.ours else None, pids)
            await _wait_ready(shortener)
            yield shortener


async def _wait_ready(shortener: Shortener) -> None:
    call = attrs.evolve(shortener.shorten(), path="/api.v1.API/Shorten?url=https://example.com/")
    deadline = trio.current_time() + _READY_S
    while (await ask(call))[0] != 200 and trio.current_time() < deadline:  # noqa: ASYNC110 - it is elsewhere
        await trio.sleep(_POLL_S)
    await expect(call, 200)


async def measure(bench: Bench) -> Report:
    """Measure all ways in turns."""
    subjects = [Subject.of(bench, peer, ROUTED) for peer in bench.hosts if peer.host and peer.host.plugins]
    subjects += [Subject.of(bench, peer, way) for way in (_SOCKETS, _DIRECT) for peer in bench.commits]
    async with AsyncExitStack() as stack:
        shorteners = {}
        for number, subject in enumerate(subjects):
            folder = bench.subfolder("shortener", str(number))
            shorteners[subject] = await stack.enter_async_context(subject.running(folder, bench.cores))
        samples = {
            connections: await bench.take_turns(subjects, partial(_sample, bench, shorteners, connections))
            for connections in CONNECTIONS
        }
    return Report("shortener", _table(samples), _figures(samples), compared=_compared(bench, samples))


async def _sample(
    bench: Bench, shorteners: Mapping[Subject, Shortener], connections: int, subject: Subject
) -> Sample:
    shortener = shorteners[subject]
    rows, cpu = shortener.rows(), shortener.cpu_seconds()
    load = await wrk(shortener.shorten(), connections, bench.seconds, bench.cores, script="shorten.lua")
    sample = Sample(load, 1e6 * (shortener.cpu_seconds() - cpu) / load.requests)
    await _check_kept(shortener, load, shortener.rows() - rows)
    return sample


async def _check_kept(shortener: Shortener, load: Load, rows: int) -> None:
    """Raise LoadError if anything that was answered is not there."""
    if shortener.database and rows < load.requests:
        raise LoadError(f"{load.requests} were answered, and {rows} kept")
    for pair in load.said["kept"]:
        await _check_resolves(shortener, pair)


async def _check_resolves(shortener: Shortener, pair: Mapping[str, str]) -> None:
    status, body = await ask(shortener.resolve(pair["short_code"]))
    if status != 200 or pair["url"].encode() not in body:
        raise LoadError(f"{pair} resolves to {status} {body!r}")


_Samples: TypeAlias = Mapping[int, Mapping[Subject, Sequence[Sample]]]


def _compared(bench: Bench, samples: _Samples) -> list[Figure]:
    """Compare this tree and the other commit in each way in which calls go."""
    return [
        figure
        for connections, of in samples.items()
        for way in (ROUTED, _SOCKETS, _DIRECT)
        for figure in figures(
            ", ".join(filter(None, [_connections(connections), way])),
            {subject.peer: samples for subject, samples in of.items() if subject.way == way},
            bench.pair,
            ("Shortens a second", lambda sample: sample.load.rate, True),
            ("p50, µs", lambda sample: sample.load.p50_us, False),
            ("CPU of all four, µs", _cpu, False),
        )
    ]


def _table(samples: _Samples) -> str:
    subjects = list(next(iter(samples.values())))
    rates = [with_ratios(of, lambda sample: sample.load.rate) for of in samples.values()]
    rows = []
    for it in subjects:
        rows.append([f"{it.title}: Shortens a second", *(column[it] for column in rates)])
        rows.append(["p50 / p99, ms", *(_p50_p99(of[it]) for of in samples.values())])
        rows.append(
            ["CPU of all four for one, µs", *(f"{median(of[it], _cpu):,.0f}" for of in samples.values())]
        )
    return table("", list(map(_connections, samples)), rows)


def _connections(number: int) -> str:
    return f"{number} connection{'s' * (number > 1)}"


def _p50_p99(samples: Sequence[Sample]) -> str:
    p50, p99 = median(samples, lambda s: s.load.p50_us), median(samples, lambda s: s.load.p99_us)
    return f"{p50 / 1000:.2f} / {p99 / 1000:.2f}"


def _cpu(sample: Sample) -> float:
    return sample.cpu_us


def _figures(samples: _Samples) -> dict[str, Any]:
    return {
        ", ".join(filter(None, [it.peer.name, it.way])): {
            connections: {
                "shortens_per_s": median(of[it], lambda sample: sample.load.rate),
                "p50_us": median(of[it], lambda sample: sample.load.p50_us),
                "p99_us": median(of[it], lambda sample: sample.load.p99_us),
                "cpu_us": median(of[it], _cpu),
            }
            for connections, of in samples.items()
        }
        for it in next(iter(samples.values()))
    }
