"""A launcher of plugins that run as tasks of the test, on real sockets, and do what the test tells them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import Host, HostConfig, LeaseConfig, RateLimits
from cpg_trio.host.supervision import Assignment, Ended, LaunchError, Phase, PluginSpec, Replica
from cpg_trio.plugin import Plugin, PluginConfig
from tests.rpc.echo import Echo

UNLIMITED = RateLimits(**dict.fromkeys(attrs.fields_dict(RateLimits)))
LEASES = LeaseConfig(lease_s=15.0)


@attrs.define(eq=False)
class TaskRun:
    """A run: a task that a test ends, or stops without an end, as a process that hangs."""

    assignment: Assignment
    plugin: Plugin | None
    where: str = "a task"
    pid: int | None = None
    url: str = ""
    stop_asked: trio.Event = attrs.field(factory=trio.Event)
    obeys: bool = True
    """Whether it stops when it is asked to."""
    is_managed: bool = False
    left: trio.Event = attrs.field(factory=trio.Event)
    """Set when the block of the launcher has been left."""
    _ended: trio.Event = attrs.field(factory=trio.Event)
    _how: Ended = attrs.field(factory=lambda: Ended(failed=False, how="exit status 0"))
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def main(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self._scope:
            if self.plugin is None:
                task_status.started()
                await self.stop_asked.wait()
            else:
                stop = self.stop_asked if self.obeys else trio.Event()
                try:
                    await self._serve(self.plugin, stop, task_status)
                except Exception as error:  # noqa: BLE001 - as a process ends, whatever it raises
                    self._how = Ended(failed=True, how=repr(error))
        if not self._scope.cancelled_caught:
            self._ended.set()

    async def _serve(self, plugin: Plugin, stop: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        async with open_plain_nursery() as nursery:
            urls = await nursery.start(partial(plugin.serve, stop, config=self.config()))
            if self.is_managed:
                (self.url,) = urls
            task_status.started()

    def config(self) -> PluginConfig:
        return PluginConfig(
            bind="127.0.0.1:0",
            host_url=None if self.is_managed else self.assignment.host_url,
            hostname="127.0.0.1",
            enrolment_token=self.assignment.enrolment_token,
        )

    def dies(self, how: str = "killed by SIGKILL", *, failed: bool = True) -> None:
        """End it at once, as by a signal."""
        self.hangs()
        self._how = Ended(failed, how)
        self._ended.set()

    def hangs(self) -> None:
        """Have it do nothing any more."""
        self._scope.cancel()

    async def wait(self) -> Ended:
        await self._ended.wait()
        return self._how

    def stop(self) -> None:
        self.stop_asked.set()


@attrs.define(eq=False)
class Launches:
    """A launcher, and what it has launched. `plugin` makes the plugin of a run; None: it never comes."""

    plugin: Callable[[Assignment], Plugin | None] = lambda _: None
    kind: str = "test"
    refuses: str = ""
    """Why it can start nothing; empty if it can."""
    starts_in_s: float = 0.0
    runs: list[TaskRun] = attrs.field(factory=list)
    obeys: bool = True
    is_managed: bool = False
    """Whether its plugins wait for their host."""
    dies: str = ""
    """How each run ends as soon as it has been started; empty if it does not."""

    @property
    def alive(self) -> list[TaskRun]:
        return [run for run in self.runs if not run.left.is_set()]

    @asynccontextmanager
    async def launch(self, assignment: Assignment, /) -> AsyncIterator[TaskRun]:
        await trio.sleep(self.starts_in_s)
        if self.refuses:
            raise LaunchError(self.refuses)
        run = TaskRun(assignment, self.plugin(assignment), obeys=self.obeys, is_managed=self.is_managed)
        self.runs.append(run)
        try:
            async with open_plain_nursery() as nursery:
                await nursery.start(run.main)
                if self.dies:
                    run.dies(self.dies)
                yield run
                nursery.cancel_scope.cancel()
        finally:
            run.left.set()


def provider(*service_types: str, requires: tuple[str, ...] = (), self_id: str = "") -> Launches:
    """Return a launcher of plugins that provide and require services."""

    def plugin(assignment: Assignment) -> Plugin:
        made = Plugin(self_id or assignment.self_id, version="1.0.0")
        for service_type in service_types:
            made.provide(service_type, Echo())
        for service_type in requires:
            made.require(service_type)
        return made

    return Launches(plugin)


@asynccontextmanager
async def hosting(config: HostConfig | None = None) -> AsyncIterator[Host]:
    """Yield a host that serves; it is stopped in good order at the end."""
    host, stop = Host(config or HostConfig(rates=UNLIMITED, leases=LEASES)), trio.Event()
    async with open_plain_nursery() as nursery:
        await nursery.start(partial(host.serve, stop, bind="127.0.0.1:0"))
        try:
            yield host
        finally:
            stop.set()


@contextmanager
def phases(host: Host) -> Iterator[list[tuple[str, Phase]]]:
    """Yield the phases that replicas enter within the block, by the names of their plugins."""
    seen = list[tuple[str, Phase]]()
    now = dict[tuple[str, int], Phase]()

    def changed(replica: Replica) -> None:
        if now.get(key := (replica.plugin, replica.number)) is not replica.phase:
            now[key] = replica.phase
            seen.append((replica.plugin, replica.phase))

    with host.plugins.changes.added(changed):
        yield seen


async def until(host: Host, condition: Callable[[], object]) -> None:
    """Wait until a condition holds, looked at whenever a replica changes."""
    changed = trio.Event()

    def note(_: object) -> None:
        changed.set()

    with host.plugins.changes.added(note):
        while not condition():
            await changed.wait()
            changed = trio.Event()


def spec(name: str, launcher: Launches, **settings: object) -> PluginSpec:
    """Return a spec of a plugin."""
    return PluginSpec(name=name, launcher=launcher, **settings)  # type: ignore[arg-type]  # as the class says
