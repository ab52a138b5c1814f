"""A call that is not idempotent runs once at most, whatever becomes of provider, host and connection."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.plugin import Dependency, Plugin, PluginConfig
from cpg_trio.rpc import ConnectError
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.chaos.cutter import BEHIND, Cutter, cutting
from tests.chaos.trial import LEASE_S, RATES, START_S, tell
from tests.plugin.running import unused_port
from tests.shortener_processes import MODULES, System

CONSUMERS = 10
CALLS = 10_000
PAUSE_S = 0.01  # between two calls of a consumer
CALL_S = 5.0
WORKERS = ("first", "second", "third")
WHOLE_S = 150.0
MOST_BYTES, STEP_BYTES = 4000, 13


@attrs.define
class Caller:
    """Calls with a number, and notes how each call ended."""

    dependency: Dependency
    client: EchoServiceClient
    ended: dict[str, str] = attrs.field(factory=dict)

    async def call(self, number: int) -> None:
        text = str(number)
        try:
            answer = await self.client.echo(pb.EchoRequest(text=text), timeout_s=CALL_S)
        except ConnectError as error:
            self.ended[text] = error.code.value
        else:
            assert answer.text == text
            self.ended[text] = "ok"

    async def run(self, numbers: count[int], last: int) -> None:
        while (number := next(numbers)) < last:
            await self.call(number)
            await trio.sleep(PAUSE_S)


@attrs.define
class Stage:
    """A host and workers as processes, the first worker behind a cutter; and callers in this process."""

    system: System
    cutter: Cutter
    journal: Path
    ports: dict[str, int]
    callers: list[Caller] = attrs.field(factory=list)

    async def start(self, name: str) -> None:
        behind = {"BEHIND": BEHIND} if name == "first" else {}
        part = await self.system.start(name, JOURNAL=str(self.journal), PORT=str(self.ports[name]), **behind)
        with trio.fail_after(START_S):
            await part.url()

    async def start_host(self) -> None:
        part = await self.system.start("host", STATE_PATH=str(self.journal.with_name("host.sqlite3")))
        with trio.fail_after(START_S):
            await part.url()

    def send(self, name: str, number: signal.Signals) -> None:
        tell(f"{number.name} {name}")
        self.system.parts[name].process.send_signal(number)

    def executions(self) -> Counter[str]:
        return Counter(self.journal.read_text().split())

    def check(self) -> None:
        """Check each call against its executions."""
        ended: dict[str, str] = {}
        for caller in self.callers:
            ended |= caller.ended
        ran = self.executions()
        tell(f"{len(ended)} calls, {ran.total()} executions; {Counter(ended.values()).most_common()}")
        assert {text: times for text, times in ran.items() if times > 1} == {}
        assert {text for text, how in ended.items() if how == "ok"} <= ran.keys()


@asynccontextmanager
async def stage(
    folder: Path,
    workers: tuple[str, ...],
    callers: int,
    *,
    direct: bool,
    host: tuple[str, ...] = MODULES["host"],
    files: int | None = None,
    **requirement: Any,
) -> AsyncIterator[Stage]:
    """Run a stage for a block. `files`: the descriptors of the host. `requirement` is of the dependencies."""
    modules = {"host": host, **dict.fromkeys(WORKERS, ("tests.chaos.worker",))}
    environment = {"LEASE_S": str(LEASE_S), "RATE_LIMITS": RATES}
    if files is not None:
        environment["CONFINED_FILES"] = str(files)
    with trio.fail_after(WHOLE_S):
        async with cutting() as cutter, open_plain_nursery() as nursery:
            ports = {name: unused_port() for name in WORKERS} | {"first": cutter.port}
            system = System(nursery, folder, environment=environment, modules=modules)
            it = Stage(system, cutter, folder / "journal", ports)
            it.journal.touch()
            await it.start_host()
            for name in workers:
                await it.start(name)
            stop = trio.Event()
            for number in range(callers):
                plugin = Plugin(f"consumer-{number}", version="1.0.0")
                dependency = plugin.require("echo", **requirement)
                config = PluginConfig(host_url=system.host_url, hostname="127.0.0.1", direct_calls=direct)
                await nursery.start(partial(plugin.serve, stop, config=config))
                it.callers.append(Caller(dependency, dependency.client(EchoServiceClient)))
            with trio.fail_after(START_S):
                for caller in it.callers:
                    await caller.dependency.wait_available()
            yield it
            nursery.cancel_scope.cancel()


async def _kill(it: Stage) -> None:
    it.send("second", signal.SIGKILL)
    await it.start("second")


async def _restart(it: Stage) -> None:
    it.send("third", signal.SIGTERM)
    await it.system.parts["third"].end()
    await it.start("third")


async def _stall(it: Stage) -> None:
    it.send("second", signal.SIGSTOP)
    await trio.sleep(2 * LEASE_S)
    it.send("second", signal.SIGCONT)


async def _reset(it: Stage) -> None:
    for size in (0, 1, 100, 700):
        it.cutter.bound(requests=size or None, responses=None if size else 0)
        await trio.sleep(0.3)
    it.cutter.bound()
    tell(f"{it.cutter.cut_all()} connections are reset")


async def _kill_host(it: Stage) -> None:
    it.send("host", signal.SIGKILL)
    await it.system.parts["host"].end()
    await it.start_host()


async def _restart_host(it: Stage) -> None:
    it.send("host", signal.SIGTERM)
    await it.system.parts["host"].end()
    await it.start_host()


FAULTS = (_kill, _reset, _restart, _stall, _kill_host, _reset, _kill, _restart_host)


@pytest.mark.parametrize("way", ["routed", "direct"])
async def test_no_call_runs_twice_through_kills_resets_stalls_and_restarts(tmp_path: Path, way: str) -> None:
    async with stage(tmp_path, WORKERS, CONSUMERS, direct=way == "direct") as it:
        numbers = count()
        async with trio.open_nursery() as nursery:
            for caller in it.callers:
                nursery.start_soon(caller.run, numbers, CALLS // 2)
            for fault in FAULTS:
                await fault(it)
                await trio.sleep(0.5)
        it.check()
        assert sum(len(caller.ended) for caller in it.callers) == CALLS // 2


@pytest.mark.parametrize("way", ["routed", "direct"])
async def test_no_call_runs_twice_however_far_it_got(tmp_path: Path, way: str) -> None:
    """Cut a connection that has had a call at each few bytes of the next request, and of its response."""
    async with stage(tmp_path, ("first",), 1, direct=way == "direct") as it:
        (caller,), numbers = it.callers, count()
        for cut in ("requests", "responses"):
            for size in range(0, MOST_BYTES, STEP_BYTES):
                await _connect(it, caller, numbers)
                before = it.cutter.cuts
                it.cutter.bound(**{cut: size})
                await caller.call(next(numbers))
                it.cutter.bound()
                if it.cutter.cuts == before:
                    break
            tell(f"{cut} are cut at up to {size} bytes")
            assert 100 < size < MOST_BYTES - STEP_BYTES
        it.check()


async def _connect(it: Stage, caller: Caller, numbers: count[int]) -> None:
    """Call until a call is answered, so that there is a connection."""
    for _ in range(200):
        number = next(numbers)
        await caller.call(number)
        if caller.ended[str(number)] == "ok":
            return
        await trio.sleep(0.05)
    raise AssertionError("the provider does not answer any more")


async def test_a_connection_that_has_died_while_it_was_idle_is_no_failure_of_a_call_that_nobody_saw(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, ("first",), 4, direct=False) as it:
        numbers = count()
        for _ in range(50):
            async with trio.open_nursery() as nursery:
                for caller in it.callers:
                    nursery.start_soon(caller.call, next(numbers))
            it.cutter.cut_all()
            await trio.sleep(0.02)
        it.check()
        ended = Counter(how for caller in it.callers for how in caller.ended.values())
        assert set(ended) == {"ok"}
