"""The plugins that a host starts: which there are, and what is done with them while the host runs.

What is decided is decided between checkpoints, so operations need no lock. Those that wait hold nothing: an
operation on a plugin that another one is changing is refused.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from typing import Protocol

import trio

from cpg_trio._listeners import Listeners
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host.access import Action
from cpg_trio.host.directory import Change
from cpg_trio.host.supervision.graph import Graph, GraphError, Registered
from cpg_trio.host.supervision.impact import Impact, Member, Members, RemovalRefusedError, impact_of
from cpg_trio.host.supervision.launcher import EXTERNAL
from cpg_trio.host.supervision.managed import Managed, ManageError, Outdated, UnknownPluginError
from cpg_trio.host.supervision.output import OutputBook
from cpg_trio.host.supervision.planning import Plan, apply, plan
from cpg_trio.host.supervision.replacing import all_ready, replace, scale
from cpg_trio.host.supervision.runs import Run
from cpg_trio.host.supervision.spec import Enrol, PluginSpec
from cpg_trio.host.supervision.state import Replica
from cpg_trio.host.supervision.supervisor import Supervisor, Turns
from cpg_trio.host.supervision.surroundings import Surroundings


class PlatformSource(Protocol):
    """What says which plugins a host is to run, such as a platform file."""

    @property
    def name(self) -> str:
        """What people call it, as in `platform.toml`."""
        ...

    async def read(self) -> Sequence[PluginSpec]:
        """Read all of it anew. Raises: ValueError with a line for each problem."""
        ...


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
        self._members = Members(host.identities, host.registry, host.watches)
        self._graph = Graph(())
        self._turns = Turns(self._waits_for)
        self._nursery: trio.Nursery | None = None
        self._context = copy_context()
        self._host_url = ""
        self.changes.add(self._changed)

    # What there is

    def specs(self) -> Mapping[str, PluginSpec]:
        """Return what is known of each plugin, by its name."""
        return {name: managed.spec for name, managed in self._managed.items()}

    def replicas(self, name: str) -> Sequence[Replica]:
        """Return the replicas of a plugin, which change while they run. Raises: UnknownPluginError."""
        return [each.replica for each in self._of(name).all]

    def outdated(self) -> Mapping[str, Outdated]:
        """Return why plugins run their former code, by the names of those that do."""
        return {name: each.outdated for name, each in self._managed.items() if each.outdated is not None}

    def note_outdated(self, name: str, why: str) -> None:
        """Note that a plugin goes on with its former code, until it is replaced or restarted.

        Raises: UnknownPluginError.
        """
        managed = self._of(name)
        managed.outdated = Outdated(why, time.time() if managed.outdated is None else managed.outdated.since)

    def impact(self, name: str, *, replicas: int = 0) -> Impact:
        """Return what others lose if a plugin goes, or has only so many `replicas` left.

        `name` is also that of one which the host has not started: its `self_id`, or a runtime id.
        Raises: UnknownPluginError.
        """
        members = self.members()
        if (managed := self._managed.get(name)) is not None:
            by_number = sorted(managed.supervisors, key=lambda each: each.replica.number)
            return impact_of(name, self.members_of(managed, by_number[replicas:], members), members)
        started = {each.replica.runtime_id for managed in self._managed.values() for each in managed.all}
        strangers = [each for each in members if each.plugin == name and each.runtime_id not in started]
        going = strangers or [each for each in members if each.runtime_id == name]
        if not going:
            raise self._unknown(name)
        return impact_of(name, going[replicas:], members)

    def plan(self, specs: Iterable[PluginSpec]) -> Plan:
        """Return what has to be done so that these plugins run, and no others. Raises: GraphError."""
        return plan(self.specs(), specs, self._known(), self._host.may_share)

    # The host's side

    @asynccontextmanager
    async def running(self, host_url: str) -> AsyncIterator[None]:
        """Within the block plugins can be started. All have ended when it is left, by force if need be.

        `host_url` is the URL of the host for plugins on its machine.
        """
        self._host_url, self._context = host_url, copy_context()
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

    async def _stop_after(self, managed: Managed, others: Iterable[str]) -> None:
        try:
            for other in [self._managed[name] for name in others if name in self._managed]:
                await other.stopped.wait()
        finally:
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

        With `wait` this returns when all replicas are ready, and nobody changes them before that. `actor` is
        who has asked for it, and `reason` why, for the audit trail.
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

    async def remove(self, name: str, *, force: bool = False, actor: str = "", reason: str = "") -> None:
        """Stop a plugin in good order, and forget it.

        Raises: RemovalRefusedError if somebody would be left without a service that it requires, unless
        `force`.
        """
        with self.changing(name, "removed") as managed:
            impact = self.impact(name)
            if impact.leaves_somebody_without and not force:
                raise RemovalRefusedError(impact)
            self._audit([managed], "remove", actor, reason)
            await self.take_down(managed)

    async def replace(
        self,
        name: str,
        spec: PluginSpec | None = None,
        *,
        force: bool = False,
        actor: str = "",
        reason: str = "",
    ) -> None:
        """Have other runs in place of those of a plugin, without a call that fails.

        The new ones, of the same spec if there is none, are started beside the old ones. When all are ready,
        calls move to them, and the old ones finish theirs within their grace, and stop.
        Raises: LaunchError if one does not get ready; RemovalRefusedError if somebody would be left without a
        service that it requires, unless `force`. Then the old ones have served on, and the new ones are gone;
        so they are after a cancellation. Once calls have moved, a cancellation ends only the wait for the old
        ones. GraphError; ManageError for another `self_id`, and for what somebody else starts.
        """
        with self.changing(name, "replaced") as managed:
            spec = managed.spec if spec is None else spec
            self.check(spec)
            self._audit([managed], "replace", actor, reason)
            await replace(self, managed, spec, force=force)
            managed.outdated = None

    async def scale(
        self, name: str, replicas: int, *, force: bool = False, actor: str = "", reason: str = ""
    ) -> None:
        """Have so many replicas of a plugin. Those with the highest numbers go, and finish their calls first.

        Raises: LaunchError if a new one does not get ready, and then all new ones are gone;
        RemovalRefusedError if somebody would be left without a service that it requires, unless `force`.
        """
        with self.changing(name, "scaled") as managed:
            if managed.spec.launcher.kind == EXTERNAL:
                raise ManageError(f"{name} is started by somebody else, who has to scale it")
            self._audit([managed], f"scale to {replicas}", actor, reason)
            await scale(self, managed, replicas, force=force)

    async def apply(self, plan: Plan, *, actor: str = "", reason: str = "") -> None:
        """Carry out a plan, change by change; what is not in it is not touched.

        Raises: OutdatedPlanError, and then nothing is done; ApplyError for the first change that fails, with
        what is done and what is not.
        """
        self._check_open()
        await apply(plan, self.specs(), self, actor=actor, reason=reason)

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
            managed.outdated = None

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

    def start_replica(
        self, managed: Managed, number: int, spec: PluginSpec | None = None, *, on_trial: bool = False
    ) -> Supervisor:
        """Start another replica of a plugin. One that is `on_trial` is among those that are coming."""
        nursery = self._check_open()
        supervisor = Supervisor(
            self._host,
            managed.spec if spec is None else spec,
            number,
            on_trial=on_trial,
            host_url=self._host_url,
            turns=self._turns,
            changes=self.changes,
            output=self.output,
        )
        (managed.coming if on_trial else managed.supervisors).append(supervisor)
        self.changes.tell(supervisor.replica)
        # In the context of the host: that of the call which has asked for it would be in all that it logs.
        self._context.copy().run(nursery.start_soon, supervisor.run)
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
            managed.forget(supervisors)

    def retire(self, managed: Managed, supervisors: Sequence[Supervisor]) -> trio.Event:
        """Have replicas in service no more, and stop them in good order, whoever waits for that.

        They get no calls from now on. The event is set when they have stopped.
        """
        managed.let_go(supervisors)
        for each in supervisors:
            each.stop()
        stopped = trio.Event()

        async def until_stopped() -> None:
            try:
                await self.stop_replicas(managed, supervisors)
            finally:
                stopped.set()

        if self._nursery is None:
            stopped.set()  # whoever stops all of them waits for these as well
        else:
            self._nursery.start_soon(until_stopped)
        return stopped

    def respecify(self, managed: Managed, spec: PluginSpec) -> None:
        """Take another spec for a plugin, for what is done from now on."""
        is_other, managed.spec = managed.spec.enrol is not spec.enrol, spec
        if is_other:
            managed.reservation.close()
            self._reserve(managed)
        self._draw()

    def members(self) -> Sequence[Member]:
        """Return who there is, to work out what somebody loses."""
        runs = {
            name: [each.replica.runtime_id for each in (*managed.supervisors, *managed.coming)]
            for name, managed in self._managed.items()
        }
        leaving = {each.replica.runtime_id for managed in self._managed.values() for each in managed.leaving}
        return self._members.now(self.specs(), runs, leaving)

    def members_of(
        self, managed: Managed, supervisors: Sequence[Supervisor], members: Sequence[Member]
    ) -> Sequence[Member]:
        """Return which of the members are these replicas."""
        ids = [each.replica.runtime_id for each in supervisors]
        running = [each for each in members if each.runtime_id and each.runtime_id in ids]
        to_come = [each for each in members if each.plugin == managed.spec.name and not each.runtime_id]
        return [*running, *to_come[: ids.count("")]]

    def adjust(self, spec: PluginSpec) -> None:
        """Take another spec for a plugin whose runs go on: its times, its restarts, whom it comes after."""
        managed = self._of(spec.name)
        managed.spec = spec
        for supervisor in managed.supervisors:
            supervisor.adjust(spec)
        self._draw()

    def _begin(self, spec: PluginSpec) -> Managed:
        managed = self._managed[spec.name] = Managed(spec)
        self._reserve(managed)
        self._draw()
        return managed

    def _reserve(self, managed: Managed) -> None:
        """Have nobody else get an identity of a plugin's name, if its runs have tokens."""
        if managed.spec.enrol is Enrol.TOKEN:
            self._end_former(managed.spec.self_id)
            managed.reservation.enter_context(self._host.started.reserved(managed.spec.self_id))

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
        """Stop all replicas of a plugin, which nobody changes meanwhile, and forget it."""
        try:
            await self.stop_replicas(managed, managed.all)
        finally:
            managed.reservation.close()
            if self._managed.get(managed.spec.name) is managed:
                del self._managed[managed.spec.name]
                self.output.forget(managed.spec.name)
                self._draw()
            managed.stopped.set()

    @asynccontextmanager
    async def _undone_on_error(self, added: Sequence[Managed]) -> AsyncIterator[None]:
        """Have plugins as they are at the end of the block, in which nobody changes them; or forget them."""
        for managed in added:
            managed.changing = "added"
        try:
            yield
        except BaseException:
            graph, names = self._graph, {managed.spec.name for managed in added}
            async with open_plain_nursery() as nursery:
                for managed in added:
                    others = names.intersection(graph.waited_for_by(managed.spec.name))
                    nursery.start_soon(self._stop_after, managed, others)
            raise
        finally:
            for managed in added:
                managed.changing = ""

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
            raise self._unknown(name)
        return managed

    def _unknown(self, name: str) -> UnknownPluginError:
        names = ", ".join(sorted(self._managed)) or "none"
        return UnknownPluginError(f"the host starts no plugin {name}; those that it starts: {names}")

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
