"""One trial: the URL shortener, somebody who looks, somebody who writes, and the check at the end."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import attrs
import httpx
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.http import Pool
from cpg_trio.rpc import ConnectError
from tests.chaos.observer import Observer
from tests.chaos.writer import Writer
from tests.processes import Running, assert_no_traceback
from tests.shortener_processes import MODULES, System

Question: TypeAlias = Callable[..., Awaitable[object]]

LEASE_S = 1.5
# All is on one address, comes back sooner than it ever would, and is looked at all the time.
RATES = ",".join(f"{kind}=off" for kind in ("handshake", "register", "discover", "watch", "health-report"))
SLACK_S = 1.0  # what a process of a busy machine may take to do what is due
GRACE_S = 10.0  # what a process may take to end, once it is told to
START_S = 20.0  # what processes may take to start, of which nothing is promised
WHOLE_S = 120.0  # after which a trial is given up

AVAILABLE, DEGRADED, UNAVAILABLE = "AVAILABLE", "DEGRADED", "UNAVAILABLE"
PLUGINS = ("logger", "storage", "api")
ALL_WELL = dict.fromkeys(PLUGINS, AVAILABLE)

_POLL_S = 0.05
_LOG_LINES = 60
_CHATTER = re.compile(
    r"\[LOG\] |\[ROUTER\] .*(\(service: .*\)| 200 \(duration: .*\))$|watched-plugin-\w+ provides"
)


ITSELF = "itself"


@attrs.define
class Trial:
    """What a test of the fault suite works with. The plugins are healthy when it begins."""

    system: System
    observer: Observer
    writer: Writer
    lease_s: float

    @property
    def bound_s(self) -> float:
        """Seconds from a fault to where the registry is right about it."""
        return self.lease_s + SLACK_S

    def runtime_id(self, name: str) -> str:
        """Return who a plugin's process has said last that it is; its log may be a moment late."""
        said = re.findall(rf"({name}-plugin-[0-9a-f]+) on http", self.system.parts[name].output)
        return str(said[-1]) if said else "unknown yet"

    async def offered(self, name: str) -> str:
        """Return who is offered for a plugin: ITSELF if that is who its process says that it is."""
        found = await self.observer.offered(name)
        return ITSELF if found == self.runtime_id(name) else found

    async def kill(self, name: str) -> None:
        tell(f"SIGKILL {name}")
        await self.system.parts[name].end(signal.SIGKILL)

    def send(self, name: str, number: signal.Signals) -> None:
        tell(f"{number.name} {name}")
        self.system.parts[name].process.send_signal(number)

    async def start(self, name: str, **environment: str) -> Running:
        """Start a process, and wait until it listens."""
        tell(f"start {name}")
        part = await self.system.start(name, **environment)
        with trio.fail_after(START_S):
            await part.url()
        tell(f"{name} listens")
        return part

    async def stop(self, name: str) -> None:
        """Have a process end in order, within its grace."""
        tell(f"SIGTERM {name}")
        with trio.fail_after(GRACE_S):
            status = await self.system.parts[name].end(signal.SIGTERM)
        assert status == 0, f"{name} ended with status {status}"

    async def restart(self, name: str, **environment: str) -> None:
        await self.stop(name)
        await self.start(name, **environment)

    async def becomes(
        self, expected: object, ask: Question, *arguments: object, within_s: float | None = None
    ) -> None:
        """Ask until the answer is as expected, within the bound unless another is given."""
        within_s = self.bound_s if within_s is None else within_s
        said: object = None
        with trio.move_on_after(max(within_s, 0.0)) as patience:
            while (said := await _answer(ask, *arguments)) != expected:  # noqa: ASYNC110 - no process tells
                await trio.sleep(_POLL_S)
        asked = f"{ask.__name__}({', '.join(a for a in arguments if isinstance(a, str))})"
        assert not patience.cancelled_caught, f"after {within_s:.1f} s {asked} is {said}, not {expected}"
        tell(f"{asked} is {said}")

    async def all_is_well(self, *, within_s: float | None = None) -> None:
        """Wait until each plugin's process is offered, and no other, and a URL is shortened."""
        within_s = self.bound_s if within_s is None else within_s
        deadline = trio.current_time() + within_s
        await self.becomes(ALL_WELL, self.observer.picture, *PLUGINS, within_s=within_s)
        for name in PLUGINS:
            await self.becomes(ITSELF, self.offered, name, within_s=deadline - trio.current_time())
        await self.becomes(200, self.writer.shorten, within_s=deadline - trio.current_time())

    async def end(self) -> None:
        """Check what must hold after every fault, and end all processes in order."""
        await self.all_is_well()
        lost = await self.writer.lost()
        assert not lost, f"codes that were acknowledged do not resolve: {lost}"
        tell(f"{len(self.writer.acknowledged)} acknowledged codes resolve")
        for name in [*(name for name in self.system.parts if name != "host"), "host"]:
            await self.stop(name)
        for name, part in self.system.started:
            assert_no_traceback(await part.whole_output(), name)


async def _answer(ask: Question, *arguments: object) -> object:
    try:
        return await ask(*arguments)
    except ConnectError as error:
        return f"no answer: {error.message}"


@asynccontextmanager
async def trial(
    folder: Path,
    *,
    lease_s: float = LEASE_S,
    modules: Mapping[str, tuple[str, ...]] | None = None,
    environment: Mapping[str, str] | None = None,
    writers: int = 1,
) -> AsyncIterator[Trial]:
    """Run the URL shortener and a writer for a block, and check after it what must hold after every fault.

    Its story and the ends of its logs go to stdout, which is shown if the test fails.
    """
    async with Pool() as pool, httpx.AsyncClient(trust_env=False) as http, open_plain_nursery() as nursery:
        system = System(
            nursery,
            folder,
            environment={"LEASE_S": str(lease_s), "RATE_LIMITS": RATES} | dict(environment or {}),
            modules=MODULES | dict(modules or {}),
        )
        observer = Observer(system.host_url, pool, http)
        try:
            with trio.fail_after(WHOLE_S):
                t = Trial(system, observer, Writer(system, http), lease_s)
                await _begin(t)
                async with _writing(t, writers):
                    yield t
                await t.end()
        finally:
            _tell_logs(system)
        nursery.cancel_scope.cancel()


async def _begin(t: Trial) -> None:
    for name in ("host", *PLUGINS):
        await t.system.start(name)
    with trio.fail_after(START_S):
        for part in t.system.parts.values():
            await part.url()
    await t.all_is_well(within_s=START_S)


@asynccontextmanager
async def _writing(t: Trial, writers: int) -> AsyncIterator[None]:
    async with open_plain_nursery() as nursery:
        for _ in range(writers):
            nursery.start_soon(t.writer.run)
        yield
        nursery.cancel_scope.cancel()


def tell(line: str) -> None:
    """Add a line to the story of a trial."""
    sys.stdout.write(f"{trio.current_time() % 1000:8.2f} s  {line}\n")


def _tell_logs(system: System) -> None:
    for name, part in system.started:
        status = part.process.returncode
        lines = [line for line in part.output.splitlines() if not _CHATTER.search(line)]
        sys.stdout.write(f"\n=== {name}, {'running' if status is None else f'ended with status {status}'}\n")
        sys.stdout.writelines(f"{line}\n" for line in lines[-_LOG_LINES:])
