"""The supervision of a host without the host: plugins come, report and go by calls of functions, at once."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from cpg_trio import HealthState
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import Audit
from cpg_trio.host.access import Identities, Identity, StartedRuns
from cpg_trio.host.directory import SILENT, Health, Registry, WatchHub
from cpg_trio.host.supervision import (
    Assignment,
    Ended,
    LaunchError,
    ManagedPlugins,
    Surroundings,
)
from cpg_trio.rpc import ConnectError, LocalHost

HEALTHY = Health(HealthState.HEALTHY)


class Memory:
    """The parts of a host that supervision works on."""

    def __init__(self, seed: int = 1) -> None:
        self.identities = Identities()
        self.registry = Registry(name_of=self.identities.name_of)
        self.started = StartedRuns()
        self.audit = Audit()
        self.is_up_to_date = True
        self.adoptions = list[ConnectError | None]()
        """What becomes of the calls to plugins that wait for their host: an error, or None."""
        self.shut_down: Callable[[str, int], None] = lambda _, __: None
        self.plugins = ManagedPlugins(
            Surroundings(
                identities=self.identities,
                registry=self.registry,
                watches=WatchHub(self.registry),
                started=self.started,
                audit=self.audit,
                lease_s=15.0,
                is_up_to_date=lambda: self.is_up_to_date,
                end=self.end,
                probe=self._probe,
                shut_down=self._shut_down,
                adopt=self._adopt,
                local=_no_local_host,
                rng=random.Random(seed),
            )
        )

    def end(self, runtime_id: str, why: str) -> None:
        """End an identity, as `Lifetimes.end` does."""
        self.identities.revoke(runtime_id, why)
        self.registry.remove_plugin(runtime_id)

    def gone(self, runtime_id: str) -> None:
        """End an identity whose lease is over."""
        self.identities.revoke(runtime_id, f"{SILENT} for 30 s", by_owner=True)
        self.registry.remove_plugin(runtime_id)

    def come(self, self_id: str, token: str, *provides: str, health: Health | None = HEALTHY) -> str:
        """Do what a plugin does that comes: shake hands, register, report. Return its runtime id."""
        if self.started.why_not(self_id, token):
            return ""
        identity, _ = self.identities.issue(self_id, provides=provides, answers=True)
        self.started.bind(identity, token)
        for service_type in provides:
            self.registry.register(identity.runtime_id, service_type, "1.0.0", "/", {"base_url": "http://x"})
        if health is not None:
            self.registry.report_health(identity.runtime_id, health)
        return identity.runtime_id

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ManagedPlugins]:
        """Run plugins within the block; stop them in good order at its end."""
        async with self.plugins.running("http://127.0.0.1:1"):
            yield self.plugins
            await self.plugins.stop()

    async def _probe(self, _: str) -> bool:
        return True

    async def _shut_down(self, runtime_id: str, *, grace_s: int, reason: str) -> None:  # noqa: ARG002 - as a host does it
        await trio.lowlevel.checkpoint()
        self.shut_down(runtime_id, grace_s)

    async def _adopt(
        self, _: str, __: str, self_id: str, ___: str, issued: Callable[[Identity], object], /
    ) -> str:
        await trio.lowlevel.checkpoint()
        if (error := self.adoptions.pop(0)) is not None:
            raise error
        identity, _ = self.identities.issue(self_id, provides=(), answers=True)
        issued(identity)
        self.registry.report_health(identity.runtime_id, HEALTHY)
        return identity.runtime_id


def _no_local_host(run: str) -> LocalHost:
    return run  # type: ignore[return-value]  # nobody uses it


@attrs.define(eq=False)
class Script:
    """What a run does. Times are seconds from its start."""

    starts_in: float = 0.0
    refuses: str = ""
    breaks: str = ""
    """Where the launcher itself fails: `enter`, `wait` or `leave`."""
    comes_in: float | None = 0.1
    """None: never."""
    self_id: str = ""
    health: Health | None = HEALTHY
    dies_in: float | None = None
    failed: bool = True
    hangs_in: float | None = None
    """Its lease lapses then, and it does not obey from then on."""
    revoked_in: float | None = None
    comes_again: bool = True
    """Whether it shakes hands again when its identity has ended."""
    obeys_in: float | None = 0.1
    """How soon it stops when it is asked to; None: never."""
    leaves_in: float = 0.0
    """How long the launcher takes to end it by force."""


@attrs.define(eq=False)
class MemoryRun:
    """A run that follows a script."""

    memory: Memory
    script: Script
    assignment: Assignment
    provides: tuple[str, ...]
    where: str = "memory"
    pid: int | None = None
    url: str = ""
    runtime_id: str = ""
    ended: trio.Event = attrs.field(factory=trio.Event)
    asked: trio.Event = attrs.field(factory=trio.Event)
    how: Ended = attrs.field(factory=lambda: Ended(failed=False, how="exit status 0"))

    async def wait(self) -> Ended:
        if self.script.breaks == "wait":
            raise RuntimeError("wait is broken")
        await self.ended.wait()
        return self.how

    def stop(self) -> None:
        self.asked.set()

    async def follow(self) -> None:
        """Do what the script says."""
        script = self.script
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._after, script.comes_in, self._come)
            nursery.start_soon(self._after, script.dies_in, self._die)
            nursery.start_soon(self._after, script.hangs_in, self._hang)
            nursery.start_soon(self._after, script.revoked_in, self._revoked)
            await self.asked.wait()
            await self._after(script.obeys_in, self._obey)

    async def _after(self, seconds: float | None, what: Callable[[], None]) -> None:
        if seconds is None:
            await trio.sleep_forever()
        else:
            await trio.sleep(seconds)
            what()

    def _come(self) -> None:
        if self.ended.is_set():
            return
        self_id = self.script.self_id or self.assignment.self_id
        self.runtime_id = self.memory.come(
            self_id, self.assignment.enrolment_token, *self.provides, health=self.script.health
        )

    def _die(self) -> None:
        if not self.ended.is_set():
            self.how = Ended(self.script.failed, "it died")
            self.ended.set()

    def _obey(self) -> None:
        self.ended.set()

    def _hang(self) -> None:
        self.script.obeys_in = None
        if self.memory.registry.has_registered(self.runtime_id):
            self.memory.registry.set_lapsed(self.runtime_id, SILENT)
        elif self.runtime_id:
            self.memory.gone(self.runtime_id)

    def _revoked(self) -> None:
        self.memory.end(self.runtime_id, "an operator has revoked it")
        if self.script.comes_again:
            self._come()


@attrs.define(eq=False)
class Scripts:
    """A launcher whose runs follow scripts: those of `scripts` one after the other, the last one again."""

    memory: Memory
    provides: tuple[str, ...] = ()
    scripts: list[Script] = attrs.field(factory=lambda: [Script()])
    draw: Callable[[], Script] | None = None
    kind: str = "memory"
    url: str = ""
    """Where its runs wait for their host."""
    started: list[MemoryRun] = attrs.field(factory=list)
    alive: list[MemoryRun] = attrs.field(factory=list)
    most_alive: dict[int, int] = attrs.field(factory=dict)
    """How many runs of a replica there were at the same time, at most."""
    on_launch: Callable[[Assignment], None] = lambda _: None

    def _next(self) -> Script:
        if self.draw is not None:
            return self.draw()
        return attrs.evolve(self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0])

    @asynccontextmanager
    async def launch(self, assignment: Assignment, /) -> AsyncIterator[MemoryRun]:
        script = self._next()
        self.on_launch(assignment)
        run = MemoryRun(self.memory, script, assignment, self.provides, url=self.url)
        self.alive.append(run)
        number = assignment.replica
        count = sum(each.assignment.replica == number for each in self.alive)
        self.most_alive[number] = max(count, self.most_alive.get(number, 0))
        try:
            await trio.sleep(script.starts_in)
            if script.refuses:
                raise LaunchError(script.refuses)
            if script.breaks == "enter":
                raise RuntimeError("enter is broken")
            self.started.append(run)
            async with open_plain_nursery() as nursery:
                nursery.start_soon(run.follow)
                yield run
                nursery.cancel_scope.cancel()
            if script.breaks == "leave":
                raise RuntimeError("leave is broken")
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(script.leaves_in)
            run.ended.set()
            self.alive.remove(run)
