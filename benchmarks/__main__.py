"""Measure, and print the results. `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio._terminal import tolerant
from cpg_trio.variables import KNOWN

from . import (
    directory,
    discovery,
    latency,
    machine,
    memory,
    observability,
    profile,
    router,
    scale,
    shortener,
    tasks,
    tls,
    two_hosts,
    watchers,
)
from .bench import Bench, NotMeasurableError, Report
from .comparison import compared, summary
from .hosts import HostProgram
from .load import LoadError
from .peers import OURS, PEERS, Peer
from .processes import installed, raise_file_limit
from .report import place
from .revision import ROOT, Revision, RevisionError, built

PARTS: dict[str, Callable[[Bench], Awaitable[Report]]] = {
    "machine": machine.measure,
    "fresh": router.measure_fresh,
    "router": router.measure_repeated,
    "large": router.measure_large,
    "tls": tls.measure,
    "latency": latency.measure,
    "memory": memory.measure,
    "shortener": shortener.measure,
    "discovery": discovery.measure,
    "directory": directory.measure,
    "watchers": watchers.measure,
    "observability": observability.measure,
    "tasks": tasks.measure,
    "hosts": two_hosts.measure,
    "profile": profile.measure,
    "scale": scale.measure,
}
_BY_NAME = {"scale"}
"""The parts that are measured only if they are named: they take many minutes."""
_OF_COMMITS = ("fresh", "router", "large", "tls", "latency", "memory", "shortener", "discovery", "watchers")
"""The parts that compare this tree with another commit, if one is named."""
_ROUNDS, _ROUNDS_OF_COMMITS = 5, 20
DOCS = ROOT / "docs"
CHART = DOCS / "images" / "router.svg"
_ENDED = 130  # by a signal, as a shell would say it
_OF_HOSTS = {"shortener", "discovery"}
"""The parts that measure hosts only."""
_NEEDED = {"wrk": "apt install wrk", "nginx": "apt install nginx", "taskset": "apt install util-linux"}


def main(words: Sequence[str] | None = None) -> int:
    """Measure the parts that the command line names; return the exit status."""
    tolerant(sys.stdout)
    options = _options(words)
    if lacking := [f"{name} ({how})" for name, how in _NEEDED.items() if not installed(name)]:
        sys.stderr.write(f"not installed: {', '.join(lacking)}\n")
        return 1
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.stderr.write("two cores are needed: one for what is measured, and one for the load\n")
        return 1
    os.sched_setaffinity(0, cores[1:2])
    for name in KNOWN:  # what hosts and plugins are set to is said here
        os.environ.pop(name, None)
    raise_file_limit()
    # /tmp may be in memory; logs and the database have to be on a disk.
    with nullcontext(options.folder) if options.folder else TemporaryDirectory(dir="/var/tmp") as folder:
        bench = _bench(options, Path(folder).resolve(), cores)
        try:
            return trio.run(_run, bench, options)
        except (LoadError, NotMeasurableError, RevisionError) as error:
            sys.stderr.write(f"{error}\n")
            return 1


async def _run(bench: Bench, options: argparse.Namespace) -> int:
    """Measure until the end or a signal; leave no process behind."""
    status = _ENDED
    async with open_plain_nursery() as nursery:
        nursery.start_soon(_end_on_signals, nursery.cancel_scope)
        revision = None
        if options.against:
            revision = await built(options.against, bench.folder)
            peer = revision.peer()
            bench = attrs.evolve(bench, peers=[*bench.peers[:1], peer, *bench.peers[1:]], against=peer)
        reports = await _measured(bench, _parts(options), options.parts)
        _keep(reports, options, revision)
        if revision:
            await _say_compared(reports, revision)
        status = 0
        nursery.cancel_scope.cancel()
    return status


def _parts(options: argparse.Namespace) -> Sequence[str]:
    if options.parts:
        return list(options.parts)
    return _OF_COMMITS if options.against else [part for part in PARTS if part not in _BY_NAME]


async def _say_compared(reports: Sequence[Report], revision: Revision) -> None:
    """Print what differs between this tree and the other commit."""
    print(f"\n## Beside {revision.name}\n")
    for report in reports:
        if report.compared:
            print(f"{compared(report.name, report.compared, revision.name)}\n")
    parts = {report.name: report.compared for report in reports}
    print(summary(parts, await revision.differing()), flush=True)


async def _end_on_signals(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


async def _measured(bench: Bench, parts: Sequence[str], named: Sequence[str]) -> list[Report]:
    """Measure the parts. Raises: NotMeasurableError for one that was named; others are left out."""
    reports = []
    for part in parts:
        if part in _OF_HOSTS and not bench.hosts:
            print(f"\n## {part}\n\nnot measured: none of the chosen peers is our host")
            continue
        try:
            report = await PARTS[part](bench)
        except NotMeasurableError as error:
            if part in named:
                raise NotMeasurableError(f"{part} is not measured: {error}") from error
            print(f"\n## {part}\n\nnot measured: {error}", flush=True)
            continue
        print(f"\n## {report.name}\n\n{report.tables}", flush=True)
        reports.append(report)
    return reports


def _keep(reports: Sequence[Report], options: argparse.Namespace, revision: Revision | None) -> None:
    if options.json:
        found: dict[str, object] = {report.name: report.figures for report in reports}
        if revision:
            pairs = {report.name: [attrs.asdict(of) for of in report.compared] for report in reports}
            found["against"] = {"commit": revision.name, "figures": pairs}
        options.json.write_text(json.dumps(found, indent=2))
    if options.write:
        _write(reports)


def _write(reports: Sequence[Report]) -> None:
    """Write the tables between their markers in the documentation."""
    documents = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    for report in reports:
        for name, block in {report.name: report.tables, **report.excerpts}.items():
            place(documents, name, block)
        if report.chart:
            CHART.parent.mkdir(exist_ok=True)
            CHART.write_text(report.chart)
            place(documents, "chart", f"![Calls passed on a second]({CHART.relative_to(DOCS)})")


def _bench(options: argparse.Namespace, folder: Path, cores: Sequence[int]) -> Bench:
    usual = _ROUNDS_OF_COMMITS if options.against else _ROUNDS
    return Bench(
        folder=folder,
        cores=(cores[0], cores[1]),
        more_cores=cores[2:],
        peers=_peers(options),
        rounds=options.rounds or (1 if options.quick else usual),
        seconds=options.seconds,
        connections=options.connections or ([1, 16] if options.quick else [1, 8, 16, 64]),
        idle_connections=1_000 if options.quick else 10_000,
        idle_s=1 if options.quick else 10,
        watchers=options.watchers or (100 if options.quick else 1_000),
        plugins=options.plugins,
        changes=(500 if options.quick else 10_000) if options.changes is None else options.changes,
    )


def _peers(options: argparse.Namespace) -> list[Peer]:
    """Return what is measured, without another commit: that has to be built first."""
    named = options.peers or ([OURS.name] if options.against else list(PEERS))
    peers = [PEERS[name] for name in named]
    if options.against:  # it is compared with this tree, which is the first
        peers = [OURS, *(peer for peer in peers if peer is not OURS)]
    for peer in peers:
        if not peer.installed:
            print(f"{peer.title}: not installed, and left out ({peer.package})", flush=True)
    found = [peer for peer in peers if peer.installed]
    if options.go:
        found.append(Peer.of("go", "Go host", options.go))
    return found


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(words)
    if options.against and options.write:
        parser.error("--write: the documentation does not compare commits")
    if options.go_shortener and not options.go_host:
        parser.error("--go-shortener: name its host with --go-host")
    try:
        options.go = HostProgram.go(options.go_host, options.go_shortener) if options.go_host else None
    except ValueError as error:
        parser.error(str(error))
    return options


def _list(kind: Callable[[str], object]) -> Callable[[str], list[object]]:
    return lambda text: [kind(word.strip()) for word in text.split(",")]


def _one_of(known: Collection[str]) -> Callable[[str], str]:
    def check(word: str) -> str:
        if word not in known:
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(known)}")
        return word

    return check


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    what = f"what to measure (default: everything): {', '.join(PARTS)}"
    add("parts", nargs="*", metavar="PART", type=_one_of(PARTS), help=what)
    add("--peers", type=_list(_one_of(PEERS)), help=f"of {','.join(PEERS)} (default: all)")
    add(
        "--against", metavar="REV", help="another commit to compare this tree with; only these two by default"
    )
    add("--go-host", type=Path, metavar="PATH", help="the host of the Go implementation, as one more peer")
    what = "the folder of its `logger-plugin`, `storage-plugin` and `api-plugin`"
    add("--go-shortener", type=Path, metavar="FOLDER", help=what)
    add(
        "--connections",
        type=_list(_positive),
        help="of the load on the router (default: 1,8,16,64)",
    )
    rounds = f"rounds in which all take turns (default: {_ROUNDS}, and {_ROUNDS_OF_COMMITS} with --against)"
    add("--rounds", type=_positive, help=rounds)
    add("--seconds", type=_positive, default=1, help="seconds of each load (default: 1)")
    add("--watchers", type=_positive, help="number of watchers (default: 1000)")
    add("--changes", type=int, help="changes during the measurement of memory (default: 10000)")
    add("--plugins", type=_positive, default=0, help="plugins at several hosts at most (default: 3000)")
    add("--quick", action="store_true", help="one round of everything: a smoke test")
    add("--write", action="store_true", help="write tables and chart into the documentation")
    add("--folder", type=Path, help="folder for logs and databases (default: a temporary one)")
    add("--json", type=Path, help="file for all figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
