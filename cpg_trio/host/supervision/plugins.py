"""The plugins that a host starts: which there are, and what is done with them while the host runs.

What is decided is decided between checkpoints, so operations need no lock. Those that wait hold nothing: an
operation on a plugin that another one is changing is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Protocol

import attrs
import trio

from cpg_trio._listeners import Listeners
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host.access import Action
from cpg_trio.host.directory import Change
from cpg_trio.host.supervision.graph import Graph, GraphError, Registered
from cpg_trio.host.supervision.launcher import EXTERNAL, LaunchError
from cpg_trio.host.supervision.output import OutputBook
from cpg_trio.host.supervision.runs import Run
from cpg_trio.host.supervision.spec import Enrol, PluginSpec
from cpg_trio.host.supervision.state import Replica
from cpg_trio.host.supervision.supervisor import Supervisor, Turns
from cpg_trio.host.supervision.surroundings import Surroundings


class ManageError(Exception):
    """What is asked for cannot be done with a plugin now. The message says why, and what to do."""


class UnknownPluginError(ManageError, LookupError):
    """The host starts no plugin of that name."""


class PlatformSource(Protocol):
    """What says which plugins a host is to run, such as a platform file. `str` gives its name."""

    async def read(self) -> Sequence[PluginSpec]:
        """Read all of it anew. Raises: ValueError with a line for each problem."""
        ...


@attrs.define(eq=False)
class Managed:
    """A plugin that the host starts."""

    spec: PluginSpec
    supervisors: list[Supervisor] = attrs.field(factory=list)
    changing: str = ""
    """What is being done with it, as in `replaced`; empty if nothing is."""
    stopped: trio.Event = attrs.field(factory=trio.Event)
    """Set when it is not managed any more, and all its runs have ended."""
    reservation: ExitStack = attrs.field(factory=ExitStack)

    @property
    def was_ready(self) -> bool:
        """Whether those that wait for it may start."""
        return any(each.was_ready for each in self.supervisors)


class ManagedPlugins:
    """The plugins that a host starts, keeps running, and stops. Empty at first."""

    def __init__(self, host: Surroundings) -> None:
        self._host = host
        self.changes = Listeners[Replica]("managed plugins")
        """Told of each replica that has changed."""
        self.output = OutputBook()
        """The last lines that they have written."""
        self.source: PlatformSource | None = None
        """What says which plugins there are to be, if anything does."""
        self._managed: dict[str, Managed] = {}
        self._graph = Graph(())
        self._turns = Turns(self._waits_for)
        self._nursery: trio.Nursery | None = None
        self._host_url = ""
        self.changes.add(self._changed)

    # What there is

    def specs(self) -> Mapping[str, PluginSpec]:
        """Return what is known of each plugin, by its name."""
        return {name: managed.spec for name, managed in self._managed.items()}

    def replicas(self, name: str) -> Sequence[Replica]:
        """Return the replicas of a plugin, which change while they run. Raises: UnknownPluginError."""
        return [each.replica for each in self._of(name).supervisors]

    # The host's side

    @asynccontextmanager
    async def running(self, host_url: str) -> AsyncIterator[None]:
        """Within the block plugins can be started. All have ended when it is left, by force if need be.

        `host_url` is the URL of the host for plugins on its machine.
        """
        self._host_url = host_url
        registry, identities = self._host.registry, self._host.identities
        async with open_plain_nursery() as nursery:
            self._nursery = nursery
            try:
                with (
                    registry.changes.added(self._registered),
                    registry.health_changes.added(self._look),
                    identities.watched(self._look),
                ):
                    yield
                    nursery.cancel_scope.cancel()
            finally:
                self._nursery = None
                self.output.close()

    async def stop(self) -> None:
        """Stop all plugins in good order, each before those that it waits for; from now on none is added."""
        self._nursery = None
        if not self._managed:
            return
        graph = self._graph
        async with open_plain_nursery() as stopping:
            for managed in list(self._managed.values()):
                stopping.start_soon(self._stop_after, managed, graph.waited_for_by(managed.spec.name))

    async def _stop_after(self, managed: Managed, others: Sequence[str]) -> None:
        for other in [self._managed[name] for name in others if name in self._managed]:
            await other.stopped.wait()
        await self.take_down(managed)

    def check(self, *specs: PluginSpec) -> Graph:
        """Return the graph of plugins that are to be added; start nothing.

        Raises: GraphError, as `add`, with what is not wrong already.
        """
        graph, may_share = self.graph_with(*specs), self._host.may_share
        known = _problems(self.graph_with(), may_share)
        if added := [each for each in _problems(graph, may_share) if each not in known]:
            raise GraphError(added)
        return graph

    # What is done

    async def add(self, *specs: PluginSpec, wait: bool = True, actor: str = "", reason: str = "") -> None:
        """Start plugins, each when those are ready that it waits for.

        With `wait` this returns when all replicas are ready. `actor` is who has asked for it, and `reason`
        why, for the audit trail.
        Raises: GraphError, a ValueError, if they cannot be started together with those that there are; with
        `wait` LaunchError if a run has ended before it was ready. Nothing is left of any of them then, nor
        after a cancellation. ManageError while the host does not serve.
        """
        self._check_open()
        if known := [spec.name for spec in specs if spec.name in self._managed]:
            raise ManageError(
                f"there is a plugin {known[0]} already: replace it, or give this one another name"
            )
        self.check(*specs)
        added = [self._begin(spec) for spec in specs]
        self._audit(added, "add", actor, reason)
        for managed in added:
            for number in range(1, managed.spec.replicas + 1):
                self.start_replica(managed, number)
        if wait:
            async with self._undone_on_error(added):
                await all_ready([each for managed in added for each in managed.supervisors])

    async def remove(self, name: str, *, actor: str = "", reason: str = "") -> None:
        """Stop a plugin in good order, and forget it."""
        with self.changing(name, "removed") as managed:
            self._audit([managed], "remove", actor, reason)
            await self.take_down(managed)

    async def restart(self, name: str, *, actor: str = "", reason: str = "") -> None:
        """Restart a plugin, one replica after the other, so that the others take its calls meanwhile.

        Raises: LaunchError for a replica that does not get ready again; those after it are left as they are.
        """
        with self.changing(name, "restarted") as managed:
            if managed.spec.launcher.kind == EXTERNAL:
                raise ManageError(f"{name} is started by somebody else, who has to restart it")
            self._audit([managed], "restart", actor, reason)
            for supervisor in list(managed.supervisors):
                supervisor.restart()
                await supervisor.ready()

    # For operations

    @contextmanager
    def changing(self, name: str, what: str) -> Iterator[Managed]:
        """Yield a plugin, which nobody else changes within the block. Raises: ManageError."""
        self._check_open()
        managed = self._of(name)
        if managed.changing:
            raise ManageError(f"{name} is being {managed.changing}: try again later")
        managed.changing = what
        try:
            yield managed
        finally:
            managed.changing = ""

    def graph_with(self, *specs: PluginSpec) -> Graph:
        """Return the graph of all plugins, with some that are added or take the place of those they name."""
        kept = [spec for name, spec in self.specs().items() if name not in {each.name for each in specs}]
        return Graph([*kept, *specs], self._known())

    def _known(self) -> Iterator[Registered]:
        """Yield what plugins have registered and declared, whoever has started them, once for each name."""
        provides, requires = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
        for runtime_id in self._host.registry.plugins():
            if (entry := self._host.identities.entry(runtime_id)) is not None:
                registered = self._host.registry.registrations(runtime_id)
                provides[entry.identity.self_id] |= {each.service_type for each in registered}
                requires[entry.identity.self_id] |= set(entry.identity.requires or ())
        for self_id, types in provides.items():
            yield Registered(self_id, tuple(sorted(types)), tuple(sorted(requires[self_id])))

    def start_replica(self, managed: Managed, number: int) -> Supervisor:
        """Start another replica of a plugin."""
        nursery = self._check_open()
        supervisor = Supervisor(
            self._host,
            managed.spec,
            number,
            host_url=self._host_url,
            turns=self._turns,
            changes=self.changes,
            output=self.output,
        )
        managed.supervisors.append(supervisor)
        self.changes.tell(supervisor.replica)
        nursery.start_soon(supervisor.run)
        return supervisor

    async def stop_replicas(self, managed: Managed, supervisors: Sequence[Supervisor]) -> None:
        """Stop replicas of a plugin in good order; by force if this is cancelled."""
        for supervisor in supervisors:
            supervisor.stop()
        try:
            for supervisor in supervisors:
                await supervisor.stopped.wait()
        finally:
            for supervisor in supervisors:
                supervisor.end()
            with trio.CancelScope(shield=True):
                for supervisor in supervisors:
                    await supervisor.stopped.wait()
            managed.supervisors[:] = [each for each in managed.supervisors if each not in supervisors]

    def adjust(self, spec: PluginSpec) -> None:
        """Take another spec for a plugin whose runs go on: its times, its restarts, whom it comes after."""
        managed = self._of(spec.name)
        managed.spec = spec
        for supervisor in managed.supervisors:
            supervisor.adjust(spec)
        self._draw()

    def _begin(self, spec: PluginSpec) -> Managed:
        managed = self._managed[spec.name] = Managed(spec)
        if spec.enrol is Enrol.TOKEN:
            self._end_former(spec.self_id)
            managed.reservation.enter_context(self._host.started.reserved(spec.self_id))
        self._draw()
        return managed

    def _end_former(self, self_id: str) -> None:
        """End what has the name of a plugin and is no run of this host: it may be a former host's."""
        if self._host.shared:
            return  # it may be another host's: its lease decides
        identities = self._host.identities
        for runtime_id in list(identities.known()):
            entry = identities.entry(runtime_id)
            if entry is None or entry.identity.self_id != self_id:
                continue
            if self._host.started.run_of(runtime_id) is None:
                self._host.end(runtime_id, "the host starts this plugin itself")

    async def take_down(self, managed: Managed) -> None:
        try:
            await self.stop_replicas(managed, list(managed.supervisors))
        finally:
            managed.reservation.close()
            if self._managed.get(managed.spec.name) is managed:
                del self._managed[managed.spec.name]
                self.output.forget(managed.spec.name)
                self._draw()
            managed.stopped.set()

    @asynccontextmanager
    async def _undone_on_error(self, added: Sequence[Managed]) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            async with open_plain_nursery() as nursery:
                for managed in reversed(added):
                    nursery.start_soon(self.take_down, managed)
            raise

    def _audit(self, managed: Sequence[Managed], what: str, actor: str, reason: str) -> None:
        for each in managed:
            self._host.audit.allowed(Action.MANAGE, each.spec.name, what, actor=actor, reason=reason)

    def _draw(self) -> None:
        self._graph = self.graph_with()
        self._turns.changed()

    def _waits_for(self, name: str) -> Sequence[str]:
        if name not in self._managed:
            return ()
        return [each for each in self._graph.waits_for(name) if not self._managed[each].was_ready]

    def _changed(self, _: Replica) -> None:
        self._turns.changed()

    def _of(self, name: str) -> Managed:
        if (managed := self._managed.get(name)) is None:
            names = ", ".join(sorted(self._managed)) or "none"
            raise UnknownPluginError(f"the host starts no plugin {name}; those that it starts: {names}")
        return managed

    def _check_open(self) -> trio.Nursery:
        if self._nursery is None:
            raise ManageError("the host does not serve, or is stopping: no plugin can be changed")
        return self._nursery

    # What happens

    def _registered(self, change: Change) -> None:
        self._look(change.registration.runtime_id)

    def _look(self, runtime_id: str) -> None:
        run = self._host.started.run_of(runtime_id)
        if isinstance(run, Run):
            run.look()


def _problems(graph: Graph, may_share: Callable[[str, str], bool]) -> Sequence[str]:
    try:
        graph.check(may_share)
    except GraphError as error:
        return error.problems
    return ()


async def all_ready(supervisors: Sequence[Supervisor]) -> None:
    """Wait until all of some replicas are ready. Raises: LaunchError for one that does not get so."""
    errors = list[LaunchError]()

    async def ready(supervisor: Supervisor) -> None:
        try:
            await supervisor.ready()
        except LaunchError as error:
            errors.append(error)
            nursery.cancel_scope.cancel()

    async with open_plain_nursery() as nursery:
        for supervisor in supervisors:
            nursery.start_soon(ready, supervisor)
    if errors:
        raise errors[0]
