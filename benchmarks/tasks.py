"""What a call between plugins costs that are tasks of one process, beside the same plugins as processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from .bench import Bench, Report, median
from .load import Call, ask
from .processes import cpu_seconds, free_port, server
from .report import table, with_ratios

CALLERS = (1, 16)
_MANY = 50
_READY_S = 30.0
_POLL_S = 0.1
_FILE = """
[host]
port = {host}

[plugins.called]
plugin = "benchmarks.task_plugins:called_plugin"

[plugins.caller]
plugin = "benchmarks.task_plugins:caller_plugin"
{port}
"""


@attrs.frozen
class Setup:
    """How the two plugins and their host run."""

    name: str
    title: str
    processes: bool
    cores: int


_SETUPS = (
    Setup("processes", "processes, on two cores", processes=True, cores=2),
    Setup("one_core", "processes, on one core", processes=True, cores=1),
    Setup("tasks", "tasks, on one core", processes=False, cores=1),
)


@attrs.frozen
class Running:
    """A setup that runs."""

    port: int
    """The port of the plugin that calls."""
    pid: int

    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, _tree(self.pid)))


@attrs.frozen
class Sample:
    """One round."""

    rate: float
    p50_us: float
    cpu_us: float
    """What all processes have run for a call, in microseconds."""


def _tree(root: int) -> list[int]:
    """Return a process and all that it has started."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(stat.parent.name)] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


@asynccontextmanager
async def _running(bench: Bench, setup: Setup) -> AsyncIterator[Running]:
    folder, host, port = bench.subfolder("tasks", setup.name), free_port(), free_port()
    file = folder / "platform.toml"
    # A process has its port by its environment, a task by the file.
    text = _FILE.format(host=host, port=f"port = {port}" if not setup.processes else "")
    if setup.processes:
        text += f'environment = {{ PORT = "{port}", HOSTNAME = "127.0.0.1" }}\n'
    file.write_text(text)
    command = [sys.executable, "-m", "cpg_trio", "up", str(file)]
    if setup.processes:
        command.append("--processes")
    cores = bench.cores[: setup.cores]
    async with server(command, host, cores=cores, log=folder / "log", env={"LOG_LEVEL": "info"}) as pid:
        running = Running(port, pid)
        await _wait_ready(running)
        yield running


async def _wait_ready(running: Running) -> None:
    with trio.fail_after(_READY_S):
        while True:
            try:
                await _load(running, 1, 0)
            except (OSError, RuntimeError, ValueError):
                await trio.sleep(_POLL_S)
            else:
                return


async def _load(running: Running, callers: int, seconds: int) -> Mapping[str, float]:
    """Have calls made; return their figures. Raises: RuntimeError if the plugin does not answer so."""
    body = json.dumps({"url": f"{callers},{max(seconds, 1)}"}).encode()
    call = Call(running.port, "/api.v1.API/Shorten", {"content-type": "application/json"}, body)
    status, answer = await ask(call)
    if status != 200:
        raise RuntimeError(f"{status}: {answer!r}")
    figures: Mapping[str, float] = json.loads(json.loads(answer)["shortCode"])
    return figures


async def _sample(bench: Bench, setups: Mapping[Setup, Running], callers: int, setup: Setup) -> Sample:
    running = setups[setup]
    cpu = running.cpu_seconds()
    figures = await _load(running, callers, bench.seconds)
    spent = running.cpu_seconds() - cpu
    return Sample(figures["calls"] / bench.seconds, figures["p50_us"], 1e6 * spent / figures["calls"])


async def measure(bench: Bench) -> Report:
    """Measure all setups in turns, and then how many tasks one process has room for."""
    async with AsyncExitStack() as stack:
        setups = {setup: await stack.enter_async_context(_running(bench, setup)) for setup in _SETUPS}
        samples = {
            callers: await bench.take_turns(_SETUPS, partial(_sample, bench, setups, callers))
            for callers in CALLERS
        }
    many = await _many()
    figures = {
        setup.name: {str(n): [attrs.asdict(each) for each in of[setup]] for n, of in samples.items()}
        for setup in _SETUPS
    }
    return Report("tasks", f"{_table(samples)}\n\n{_many_in_words(many)}", {**figures, "many": many})


async def _many() -> Mapping[str, float]:
    done = await trio.run_process(
        [sys.executable, "-m", "benchmarks.task_plugins", str(_MANY)],
        stdin=subprocess.DEVNULL,
        capture_stdout=True,
        capture_stderr=True,
    )
    figures: Mapping[str, float] = json.loads(done.stdout)
    return figures


def _many_in_words(many: Mapping[str, float]) -> str:
    each = many["bytes_each"] / 1024
    return f"{_MANY} tasks have started after {many['started_s']:.2f} s, and take {each:,.0f} KiB each."


def _table(samples: Mapping[int, Mapping[Setup, Sequence[Sample]]]) -> str:
    heads = [f"{n} caller{'s' * (n > 1)}" for n in samples]
    rates = [with_ratios(of, lambda sample: sample.rate) for of in samples.values()]
    rows = []
    for setup in _SETUPS:
        rows.append([f"{setup.title}: calls a second", *(column[setup] for column in rates)])
        rows.append(
            ["p50, µs", *(f"{median(of[setup], lambda s: s.p50_us):,.0f}" for of in samples.values())]
        )
        cpu = [f"{median(of[setup], lambda s: s.cpu_us):,.0f}" for of in samples.values()]
        rows.append(["CPU of all processes for one, µs", *cpu])
    return table("", heads, rows)
