"""More than one core is more than one host: calls of one host and of two, on one machine.

Two hosts share a directory in etcd, each on a core of its own; so do callers and the provider, on the other
cores if there are any, and else on the same two. Then the hosts have what is left of these, so the sum of the
rates says less than the CPU time of a call: that is what a host needs of a core, wherever the load is.

The load is the same for all: two runs of wrk, both at the one host, one at each of two, or both at HAProxy,
which spreads their connections over two. Both hosts take calls to a provider that has joined at the first.
"""

from __future__ import annotations

import resource
import statistics
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from .bench import Bench, NotMeasurableError, Report, median
from .etcd import environment, etcd, until_ready
from .hosts import HostProgram, Identity, introduce
from .load import Call, Load, expect, wrk
from .peers import Proxy
from .processes import cpu_seconds, free_port, installed, server, which
from .report import table, with_ratios
from .upstream import SMALL, provider

_CONNECTIONS = 16  # of each run of wrk
_BALANCER = """
defaults
  mode tcp
  timeout connect 1s
  timeout client 1h
  timeout server 1h
frontend plugins
  bind 127.0.0.1:%d
  default_backend hosts
backend hosts
  balance roundrobin
  server host-0 127.0.0.1:%d
  server host-1 127.0.0.1:%d
"""


@attrs.frozen(eq=False)
class Subject:
    """One host or two."""

    title: str
    calls: Sequence[Call]
    """What each run of wrk repeats."""
    hosts: Sequence[int]
    """Process ids."""
    others: Sequence[int]
    """Of the provider, and the balancer if there is one."""
    each_has_its_own: bool = False
    """Whether each host has the calls of one run of wrk."""


@attrs.frozen
class Sample:
    """Both runs of wrk."""

    loads: Sequence[Load]
    host_us: Sequence[float]
    """What a host has run for a call: of each one where its calls are known, else of both together."""
    other_us: float
    """What wrk, the provider and the balancer have run for a call."""

    @property
    def rate(self) -> float:
        return sum(load.rate for load in self.loads)


async def measure(bench: Bench) -> Report:
    """Measure in turns. Raises: NotMeasurableError if there is no etcd."""
    if not installed("etcd"):
        raise NotMeasurableError("etcd is not installed (apt install etcd-server)")
    cores = bench.more_cores or bench.cores
    async with AsyncExitStack() as stack:
        subjects = await _subjects(stack, bench, cores)
        for call in (call for subject in subjects for call in subject.calls):
            await expect(call, 200, SMALL)
        samples = await bench.take_turns(subjects, partial(_sample, bench, cores))
    return Report("hosts", _written(bench, samples), _figures(samples))


async def _subjects(stack: AsyncExitStack, bench: Bench, cores: Sequence[int]) -> list[Subject]:
    folder = bench.subfolder("hosts")
    port, serving = await stack.enter_async_context(provider(bench.subfolder("provider"), cores))
    store = await stack.enter_async_context(etcd(folder, cores))
    shared = environment(store, "hosts")
    alone, *both = [
        await stack.enter_async_context(
            HostProgram.python(env).running(bench.subfolder("hosts", str(number)), [core])
        )
        for number, (env, core) in enumerate(
            [({}, bench.cores[0]), (shared, bench.cores[0]), (shared, bench.cores[1])]
        )
    ]
    for host, _ in both:
        await until_ready(host)
    known_alone = await introduce(alone[0], f"http://127.0.0.1:{port}")
    known = await introduce(both[0][0], f"http://127.0.0.1:{port}")
    calls, pids = [_call(known, host) for host, _ in both], [pid for _, pid in both]
    subjects = [
        Subject("one host, no shared directory", [_call(known_alone, alone[0])] * 2, [alone[1]], [serving]),
        Subject("one host of the directory", [calls[0]] * 2, pids[:1], [serving]),
        Subject("two hosts", calls, pids, [serving], each_has_its_own=True),
    ]
    if installed("haproxy"):
        balancer, pid = await stack.enter_async_context(_balancer(folder, both[0][0], both[1][0], cores))
        behind = [_call(known, balancer)] * 2
        subjects.append(Subject("two hosts behind HAProxy, by connection", behind, pids, [serving, pid]))
    return subjects


def _call(identity: Identity, port: int) -> Call:
    return Proxy(port, 0, identity.path, identity.headers).call("Fresh")


@asynccontextmanager
async def _balancer(
    folder: Path, first: int, second: int, cores: Sequence[int]
) -> AsyncIterator[tuple[int, int]]:
    port, config = free_port(), folder / "haproxy.cfg"
    config.write_text(_BALANCER % (port, first, second))
    command = [which("haproxy"), "-db", "-f", str(config)]
    async with server(command, port, cores=cores, log=folder / "haproxy.log") as pid:
        yield port, pid


async def _sample(bench: Bench, cores: Sequence[int], subject: Subject) -> Sample:
    loads = dict[int, Load]()
    hosts, others = [cpu_seconds(pid) for pid in subject.hosts], _others(subject)

    async def run(number: int) -> None:
        loads[number] = await wrk(subject.calls[number], _CONNECTIONS, bench.seconds, cores, "fresh.lua")

    async with trio.open_nursery() as nursery:
        for number in range(len(subject.calls)):
            nursery.start_soon(run, number)
    calls = sum(load.requests for load in loads.values())
    used = [cpu_seconds(pid) - before for pid, before in zip(subject.hosts, hosts, strict=True)]
    if subject.each_has_its_own:
        of_each = [1e6 * cpu / loads[number].requests for number, cpu in enumerate(used)]
    else:
        of_each = [1e6 * sum(used) / calls]
    return Sample(list(loads.values()), of_each, 1e6 * (_others(subject) - others) / calls)


def _others(subject: Subject) -> float:
    """Return what all but the hosts have run, in seconds: wrk as well, once it has ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + sum(map(cpu_seconds, subject.others))


def _written(bench: Bench, samples: Mapping[Subject, Sequence[Sample]]) -> str:
    rates = with_ratios(samples, lambda sample: sample.rate)
    rows = [
        [
            subject.title,
            rates[subject],
            " / ".join(f"{cost:,.0f}" for cost in _host_us(of)),
            f"{median(of, lambda sample: sample.other_us):,.0f}",
        ]
        for subject, of in samples.items()
    ]
    heads = ["calls a second, in all", "CPU of a host for one, µs", "CPU of load and provider for one, µs"]
    return f"{table('', heads, rows)}\n\n{_where(bench)}"


def _host_us(samples: Sequence[Sample]) -> list[float]:
    return [statistics.median(costs) for costs in zip(*(sample.host_us for sample in samples), strict=True)]


def _where(bench: Bench) -> str:
    if bench.more_cores:
        return f"Load and provider had {len(bench.more_cores)} cores without a host."
    return "Load, provider and balancer ran on the same two cores as the hosts."


def _figures(samples: Mapping[Subject, Sequence[Sample]]) -> dict[str, dict[str, object]]:
    return {
        subject.title: {
            "calls_per_s": median(of, lambda sample: sample.rate),
            "host_us": _host_us(of),
            "other_us": median(of, lambda sample: sample.other_us),
        }
        for subject, of in samples.items()
    }
