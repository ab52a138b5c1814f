"""What an operator does with the plugins that a host runs.

How a plugin is launched never comes with a request: it stands in the platform file on the side of the host.
What is done is in the audit trail, by the supervision itself, and an event.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from cpg_trio.host.admin.events import Event, EventLog
from cpg_trio.host.admin.managed import ManagedStates
from cpg_trio.host.admin.reasons import checked_reason, done_by, with_reason
from cpg_trio.host.supervision import (
    ApplyError,
    Impact,
    LaunchError,
    ManagedPlugins,
    ManageError,
    OutdatedPlanError,
    Plan,
    PlatformSource,
    PluginSpec,
    RemovalRefusedError,
    UnknownPluginError,
)
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError

_MOST_PLANS = 8
_MOST_REPLICAS = 1_000


class ManagedActions:
    """The actions. Each raises ConnectError, and returns when it is done.

    One that is cancelled, since whoever has asked for it has gone, leaves nothing half done.
    """

    def __init__(self, managed: ManagedStates, events: EventLog) -> None:
        self._managed = managed
        self._events = events
        self._plans: OrderedDict[str, Plan] = OrderedDict()

    @property
    def _plugins(self) -> ManagedPlugins:
        return self._managed.plugins

    async def add(self, name: str, *, reason: str = "", actor: str) -> PluginSpec:
        """Start a plugin of the platform file that does not run yet."""
        why = checked_reason(reason)
        spec = await self._written(name)
        with self._telling(spec, "add", why, actor):
            await self._plugins.add(spec, actor=actor, reason=why)
        return spec

    async def remove(self, plugin: str, *, force: bool = False, reason: str = "", actor: str) -> Impact:
        """Stop a plugin for good; return what was lost."""
        spec, why = self._managed.find(plugin), checked_reason(reason)
        impact = self._plugins.impact(spec.name)
        with self._telling(spec, "remove", why, actor):
            await self._plugins.remove(spec.name, force=force, actor=actor, reason=why)
        return impact

    async def replace(self, plugin: str, *, reason: str = "", actor: str) -> PluginSpec:
        """Start a plugin anew as the platform file says now, move the calls to it, and stop the old one."""
        spec, why = self._managed.find(plugin), checked_reason(reason)
        written = await self._written(spec.name) if self._plugins.source is not None else None
        with self._telling(spec, "replace", why, actor):
            await self._plugins.replace(spec.name, written, actor=actor, reason=why)
        return self._managed.find(spec.name)

    async def restart(self, plugin: str, *, reason: str = "", actor: str) -> PluginSpec:
        """Stop a plugin, and start it again."""
        spec, why = self._managed.find(plugin), checked_reason(reason)
        with self._telling(spec, "restart", why, actor):
            await self._plugins.restart(spec.name, actor=actor, reason=why)
        return spec

    async def scale(self, plugin: str, replicas: int, *, reason: str = "", actor: str) -> PluginSpec:
        """Change how many replicas of a plugin run."""
        spec, why = self._managed.find(plugin), checked_reason(reason)
        if not 0 <= replicas <= _MOST_REPLICAS:
            raise ConnectError(Code.INVALID_ARGUMENT, f"the number of replicas must be 0 to {_MOST_REPLICAS}")
        with self._telling(spec, f"scale from {spec.replicas} to {replicas}", why, actor):
            await self._plugins.scale(spec.name, replicas, actor=actor, reason=why)
        return self._managed.find(spec.name)

    async def plan(self) -> tuple[str, Plan]:
        """Return what has to be done for the host to run what the platform file says, and a name for that."""
        specs = await self._read()
        with _refusals():
            plan = self._plugins.plan(specs)
        plan_id = secrets.token_hex(8)
        self._plans[plan_id] = plan
        while len(self._plans) > _MOST_PLANS:
            self._plans.popitem(last=False)
        return plan_id, plan

    async def apply(self, plan_id: str, *, reason: str = "", actor: str) -> Plan:
        """Carry out a plan that was shown."""
        why = checked_reason(reason)
        if (plan := self._plans.pop(plan_id, None)) is None:
            text = "this plan is not kept any more, or was carried out: look at a new one"
            raise ConnectError(Code.FAILED_PRECONDITION, text)
        names = ", ".join(f"{each.kind.value} {each.name}" for each in plan.changes)
        with self._telling(None, f"apply: {names}", why, actor):
            await self._plugins.apply(plan, actor=actor, reason=why)
        return plan

    @property
    def source(self) -> PlatformSource:
        """What reads the platform file. Raises: ConnectError `failed_precondition` if there is none."""
        if (source := self._plugins.source) is None:
            text = "this host has no platform file: only one that cpg-trio up has started has"
            raise ConnectError(Code.FAILED_PRECONDITION, text)
        return source

    async def _read(self) -> Sequence[PluginSpec]:
        source = self.source
        with _refusals():
            return await source.read()

    async def _written(self, name: str) -> PluginSpec:
        """Return a plugin as the platform file says now."""
        specs = {spec.name: spec for spec in await self._read()}
        if (spec := specs.get(name)) is not None:
            return spec
        near = get_close_matches(name, specs, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise ConnectError(Code.NOT_FOUND, f"{self.source.name} has no plugin {name!r}{hint}")

    @contextmanager
    def _telling(self, spec: PluginSpec | None, what: str, why: str, actor: str) -> Iterator[None]:
        """Have an action be an event, and its failure another one."""
        self._tell(spec, with_reason(done_by(what, actor), why))
        try:
            with _refusals():
                yield
        except ConnectError as error:
            self._tell(spec, f"{what} has failed: {error.message}")
            raise

    def _tell(self, spec: PluginSpec | None, text: str) -> None:
        name, managed = (spec.self_id, spec.name) if spec is not None else ("", "")
        self._events.add(Event(kind=pb.EVENT_KIND_ACTION, text=text, name=name, managed=managed))


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise what the supervision refuses within the block as a ConnectError."""
    try:
        yield
    except UnknownPluginError as error:
        raise ConnectError(Code.NOT_FOUND, str(error)) from None
    except (ManageError, LaunchError, RemovalRefusedError, OutdatedPlanError, ApplyError) as error:
        raise ConnectError(Code.FAILED_PRECONDITION, str(error)) from None
    except ValueError as error:  # of the graph, or of the file: a line for each problem
        raise ConnectError(Code.FAILED_PRECONDITION, "; ".join(str(error).splitlines())) from None
