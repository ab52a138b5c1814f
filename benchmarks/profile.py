"""Where the CPU time of the main cases goes, by groups of functions.

py-spy samples all threads of the processes, with the C functions where it can, while they serve a load. It
looks at a process from outside, so that what runs is what users run. Its samples are of time, also of time
in which a thread waits; the kernel says how long each thread has run, and samples of waiting beyond that are
left out. The time of a sample is that of the first function, from the innermost outwards, that a rule
knows: so what the standard library needs counts for who has called it.
"""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery

from .bench import Bench, NotMeasurableError, Report
from .certificates import Certificate
from .hosts import PLUGINS
from .load import LoadError, wrk
from .peers import OURS, started, with_tls
from .processes import cpu_seconds, installed, pinned, which
from .report import table
from .router import calls_of
from .shortener import ROUTED, Subject as ShortenerSubject
from .upstream import upstream
from .watchers import watched_host

OTHER = "other"
GROUPS: Sequence[tuple[str, str]] = (
    # System calls, by the function of the C library.
    ("system call: send", r"^(send|sendto|sendmsg|sendfile64|splice) \(lib"),
    ("system call: receive", r"^(recv|recvfrom|recvmsg) \(lib"),
    ("system call: wait for sockets", r"^(epoll_\w+|poll|ppoll|select) \(lib"),
    ("system call: write to a file", r"^(fsync|fdatasync|p?write(64)?|pwritev2?) \(lib"),
    ("locks of threads", r"^(sem_|pthread_|PyThread_)|\(threading\.py"),
    # Modules. Those of a row above may be in a folder of a row below.
    ("TLS", r"\((libssl|_?ssl\b|cpg_trio/http/(tls|server/tls_handshake)\.py)"),
    (
        "log, statistics",
        r"\((cpg_trio/(host/routing/(call_log|statistics)|call_record|statistics|logs)\.py|logging/)",
    ),
    ("log, statistics", r"\(cpg_trio/(_log_\w+\.py|metrics/|tracing/)"),
    ("websockets", r"\((wsproto|hypercorn)/|\(cpg_trio/(http/server|host/services)/websocket\.py"),
    ("heads: read, judge, look up", r"\(cpg_trio/http/(heads|messages|differing|schemes)\.py|llhttp"),
    ("admission: caller, rate, policy", r"\(cpg_trio/(host/access/|wire\.py|assertions\.py|_throttle\.py)"),
    (
        "route, rewritten head",
        r"\(cpg_trio/(host/routing/|http/(relay|outgoing|passing)\.py|call_context\.py)",
    ),
    ("directory", r"\(cpg_trio/host/directory/"),
    ("RPC", r"\((cpg_trio/(rpc|plugin|protos|host|calls|asgi)\b|google/|connectrpc/|json/)|upb"),
    ("the example, SQLite", r"\((cpg_trio/demo/|sqlite3/|libsqlite3)"),
    ("connections of callers", r"\(cpg_trio/http/server/"),
    ("connections to providers", r"\(cpg_trio/http/client/"),
    ("event loop, reactor", r"\((trio/|outcome/|cpg_trio/(http/|_nursery|_clock|_loop_lag))"),
)
"""The name of a group, and what its functions look like: `function (file:line)`, as py-spy writes them."""
_RULES = [(name, re.compile(pattern)) for name, pattern in GROUPS]
_WAITING = re.compile(
    r"^(epoll_wait|poll|select|sem_\w*wait|pthread_cond_\w*wait|PyThread_acquire_lock\w*) \("
)
_PYTHON = re.compile(r"\([^)]*:\d+\)$")
_THREAD = re.compile(r"^thread \((\d+)\)")
_RATE = 400  # samples a second, of all processes together
_SECONDS = 4  # for each of `bench.seconds`
_LONGER_S = 60  # than the samples the load goes on, until it is ended
_CONNECTIONS = 16
_LARGE_CONNECTIONS = 4


@attrs.frozen
class Subject:
    """Processes that serve a load."""

    pids: Mapping[str, int]
    load: Callable[[int], Awaitable[int]]
    """Runs it for so many seconds; returns how many have been served."""


@attrs.frozen
class Case:
    """A load whose profile is taken."""

    title: str
    """With what one is."""
    running: Callable[[Bench], AbstractAsyncContextManager[Subject]]


@attrs.frozen
class Profile:
    """Where the time goes."""

    cpu_us: float
    """All processes, for one: measured without py-spy."""
    shares: Mapping[str, float]
    """Of each group."""
    functions: Mapping[str, float]
    """The share of each innermost function that a rule knows, or of its module's caller."""
    by_process: Mapping[str, float]


@asynccontextmanager
async def _routed(
    call: str, script: str, connections: int, bench: Bench, *, encrypted: bool = False
) -> AsyncIterator[Subject]:
    folder = bench.subfolder("profile", call)
    certificate = Certificate.made(bench.subfolder("profile", "tls")) if encrypted else None
    peer = with_tls(OURS, certificate) if certificate else OURS
    assert peer is not None
    async with (
        upstream(bench.subfolder("provider"), bench.load_core, certificate) as provider,
        started(peer, provider, folder, bench.proxy_core) as proxy,
    ):

        async def load(seconds: int) -> int:
            sent = await wrk(calls_of(proxy)[call], connections, seconds, [bench.load_core], script)
            return sent.requests

        yield Subject({"host": proxy.pid}, load)


@asynccontextmanager
async def _shortener(bench: Bench) -> AsyncIterator[Subject]:
    subject = ShortenerSubject.of(bench, OURS, ROUTED)
    async with subject.running(bench.subfolder("profile", "shortener"), bench.cores) as it:

        async def load(seconds: int) -> int:
            return (await wrk(it.shorten(), 1, seconds, bench.cores, "shorten.lua")).requests

        yield Subject(dict(zip(("host", *PLUGINS), it.pids, strict=True)), load)


@asynccontextmanager
async def _fan_out(bench: Bench) -> AsyncIterator[Subject]:
    async with watched_host(bench, OURS) as server:

        async def load(seconds: int) -> int:
            changes, end = 0, trio.current_time() + seconds
            while trio.current_time() < end:
                await server.tell()
                changes += 1
            return changes * server.count

        yield Subject({"host": server.pid}, load)


CASES = (
    Case("a call, no two heads alike", partial(_routed, "Fresh", "fresh.lua", _CONNECTIONS)),
    Case("a call, heads repeat", partial(_routed, "Small", "call.lua", _CONNECTIONS)),
    Case(
        "a call, heads repeat, TLS on both sides",
        partial(_routed, "Small", "call.lua", _CONNECTIONS, encrypted=True),
    ),
    Case("an answer of 1 MiB", partial(_routed, "Large", "call.lua", _LARGE_CONNECTIONS)),
    Case("a Shorten, 1 connection, all four processes", _shortener),
    Case("a change, of each watcher that is told", _fan_out),
)


async def measure(bench: Bench) -> Report:
    """Take the profile of each case. Raises: NotMeasurableError, with what is needed."""
    if reason := why_not():
        raise NotMeasurableError(reason)
    found = {}
    for number, case in enumerate(CASES):
        async with case.running(bench) as subject:
            found[case.title] = await _of(bench, subject, bench.subfolder("profile", str(number)))
    return Report("profile", _written(found), {title: attrs.asdict(it) for title, it in found.items()})


def why_not() -> str:
    """Return what is needed to look at other processes here, or nothing."""
    if not installed("py-spy"):
        return "py-spy is not installed (pip install py-spy)"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return ptrace_refused(os.geteuid(), scope.read_text() if scope.exists() else "0")


def ptrace_refused(user: int, scope: str) -> str:
    """Return what a user needs to look at processes that are not its children, or nothing.

    The scope is that of the kernel's Yama: 0 lets users look at all of their processes.
    """
    if user == 0 or scope.strip() == "0":
        return ""
    return (
        "py-spy may look at processes that it has not started only as root, or after"
        f" `sysctl kernel.yama.ptrace_scope=0` (it is {scope.strip()})"
    )


async def _of(bench: Bench, subject: Subject, folder: Path) -> Profile:
    seconds = _SECONDS * bench.seconds if bench.rounds > 1 else bench.seconds
    before = _cpu(subject)
    served = await subject.load(seconds)
    cpu_us = 1e6 * (_cpu(subject) - before) / served
    groups, functions, processes = Counter[str](), Counter[str](), Counter[str]()
    for name, samples in (await _sampled(bench, subject, folder, seconds)).items():
        processes[name] = sum(samples.values())
        functions += samples
    for function, count in functions.items():
        groups[group_of(function)] += count
    total = sum(groups.values())
    return Profile(
        cpu_us, *({key: n / total for key, n in of.most_common()} for of in (groups, functions, processes))
    )


def _cpu(subject: Subject) -> float:
    return sum(map(cpu_seconds, subject.pids.values()))


async def _sampled(bench: Bench, subject: Subject, folder: Path, seconds: int) -> dict[str, Counter[str]]:
    """Return the samples of each process while it serves its load."""
    found: dict[str, Counter[str]] = {}
    rate = _RATE // len(subject.pids)

    async def sample(name: str, pid: int) -> None:
        file = folder / f"{name}.samples"
        began, before = trio.current_time(), thread_seconds(pid)
        await _py_spy(bench, pid, rate, seconds, file)
        took, after = trio.current_time() - began, thread_seconds(pid)
        shares = {tid: (used - before.get(tid, 0.0)) / took for tid, used in after.items()}
        found[name] = counted((await trio.Path(file).read_text()).splitlines(), shares)

    async with open_plain_nursery() as loading:
        loading.start_soon(subject.load, seconds + _LONGER_S)
        async with open_plain_nursery() as sampling:
            for name, pid in subject.pids.items():
                sampling.start_soon(sample, name, pid)
        loading.cancel_scope.cancel()
    return found


async def _py_spy(bench: Bench, pid: int, rate: int, seconds: int, file: Path) -> None:
    command = [which("py-spy"), "record", "--pid", str(pid), "--rate", str(rate), "--duration", str(seconds)]
    command += ["--format", "raw", "--output", str(file), "--threads", "--idle"]
    command += ["--native"] if platform.machine() == "x86_64" else []  # nowhere else can it do that
    done = await trio.run_process(
        pinned(command, [bench.load_core]), capture_stdout=True, capture_stderr=True, check=False
    )
    if done.returncode or not await trio.Path(file).exists():
        raise LoadError(f"py-spy failed:\n{(done.stdout + done.stderr).decode(errors='replace')}")


def thread_seconds(pid: int) -> dict[int, float]:
    """Return how long each thread of a process has run."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        except FileNotFoundError:  # it has ended
            continue
    return found


def counted(lines: Iterable[str], shares: Mapping[int, float]) -> Counter[str]:
    """Return how many samples of CPU time there are of each function that a rule knows.

    A line is what py-spy writes: the thread and its functions, outermost first, and how often it was seen
    there. The shares are of a core, by thread. Samples of a thread beyond its share are waiting.
    """
    running, waiting = dict[int, Counter[str]](), dict[int, Counter[str]]()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        thread, *functions = stack.split(";")
        match = _THREAD.match(thread)
        tid = int(match[1]) if match else 0
        kind = waiting if waits(functions) else running
        kind.setdefault(tid, Counter())[known(functions)] += int(count)
    total = Counter[str]()
    for tid in running.keys() | waiting.keys():
        ran, waited = running.get(tid, Counter[str]()), waiting.get(tid, Counter[str]())
        expected = shares.get(tid, 0.0) * (ran.total() + waited.total())
        _add(total, ran, min(expected, ran.total()))
        _add(total, waited, max(0.0, expected - ran.total()))
    return total


def _add(total: Counter[str], samples: Counter[str], count: float) -> None:
    """Add samples, scaled to so many."""
    for function, n in samples.items():
        total[function] += n * count / samples.total()  # type: ignore[assignment] # a share of a sample


def waits(functions: Sequence[str]) -> bool:
    """Return whether a thread is in a C function that waits."""
    for function in reversed(functions):
        if _PYTHON.search(function):
            return False
        if _WAITING.match(function):
            return True
    return False


def known(functions: Sequence[str]) -> str:
    """Return the innermost function that a rule knows, without its line."""
    for function in reversed(functions):
        if group_of(function) != OTHER:
            return re.sub(r":\d+\)$", ")", function)
    return OTHER


def group_of(function: str) -> str:
    """Return the group of a function; `OTHER` if no rule knows it."""
    return next((name for name, pattern in _RULES if pattern.search(function)), OTHER)


def _written(found: Mapping[str, Profile]) -> str:
    heads = list(found)
    rows = [["all", *(f"{profile.cpu_us:,.1f} µs" for profile in found.values())]]
    names = [*dict.fromkeys(name for name, _ in GROUPS), OTHER]
    for name in sorted(names, key=lambda name: -max(of.shares.get(name, 0.0) for of in found.values())):
        shares = [of.shares.get(name, 0.0) for of in found.values()]
        if max(shares) >= 0.005:
            rows.append([name, *(_cell(of, share) for of, share in zip(found.values(), shares, strict=True))])
    processes = next((of.by_process for of in found.values() if len(of.by_process) > 1), {})
    split = ", ".join(f"{name} {share:.0%}" for name, share in processes.items())
    return f"{table('CPU time of', heads, rows)}\n\nA Shorten, by process: {split}."


def _cell(profile: Profile, share: float) -> str:
    return f"{profile.cpu_us * share:,.1f} ({share:.0%})" if share >= 0.005 else ""
