"""What has to be done so that other plugins run than now: a plan, and carrying it out.

The order is that in which the least is missing meanwhile. Plugins go first whose services an added one takes
over, as a service belongs to one plugin. Then what is added starts; then what others stand on is replaced
before them; replicas are added or taken away; last goes what nobody needs any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set as AbstractSet
from enum import Enum
from typing import Any, Protocol

import attrs

from cpg_trio.errors import CpgTrioError
from cpg_trio.host.supervision.graph import Graph, Registered
from cpg_trio.host.supervision.launcher import EXTERNAL
from cpg_trio.host.supervision.spec import PluginSpec


class ChangeKind(Enum):
    """What is done to a plugin."""

    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"
    SCALE = "scale"
    ADJUST = "adjust"
    """What the host does with it is changed; its runs go on."""


_SIGNS = {
    ChangeKind.ADD: "+",
    ChangeKind.REMOVE: "-",
    ChangeKind.REPLACE: "~",
    ChangeKind.SCALE: "#",
    ChangeKind.ADJUST: "=",
}
_IN_PLACE = {
    "after",
    "ready",
    "restart",
    "start_s",
    "stop_s",
}  # fields of a spec that its runs know nothing of


@attrs.frozen(kw_only=True)
class SpecChange:
    """One change of a plan."""

    kind: ChangeKind
    before: PluginSpec | None = None
    """None for one that is added."""
    after: PluginSpec | None = None
    """None for one that is removed."""
    differs: tuple[str, ...] = ()
    """The names of what is different, as in `launcher.environment.STORAGE_PATH`; never a value of it."""

    @property
    def name(self) -> str:
        """The name of the plugin."""
        spec = self.after or self.before
        assert spec is not None  # noqa: S101 - one of them is there
        return spec.name

    @property
    def replicas(self) -> tuple[int, int]:
        """How many replicas there are before and after."""
        return (self.before.replicas if self.before else 0), (self.after.replicas if self.after else 0)

    def __str__(self) -> str:
        """Return it as a line for people."""
        return " ".join(filter(None, (_SIGNS[self.kind], self.kind.value, self.name, self._detail())))

    def _detail(self) -> str:
        old, new = self.replicas
        scaled = f"{old} → {new} replicas" if old != new else ""
        if self.kind is ChangeKind.ADD:
            scaled = f"{new} replicas" if new != 1 else ""
        elif self.kind is ChangeKind.REMOVE:
            scaled = ""
        differs = (each for each in self.differs if each != "replicas")
        what = ", ".join(filter(None, (*differs, scaled)))
        return f"({what})" if what else ""

    def data(self) -> Mapping[str, Any]:
        """Return it for JSON."""
        old, new = self.replicas
        return {
            "change": self.kind.value,
            "plugin": self.name,
            "differs": list(self.differs),
            "replicas": {"before": old, "after": new},
        }


@attrs.frozen(kw_only=True)
class Plan:
    """What has to be done. Made by `plan`, carried out by `apply`."""

    before: Mapping[str, PluginSpec]
    """The specs that it was made from."""
    changes: tuple[SpecChange, ...]
    """In the order in which they are carried out."""
    unchanged: tuple[str, ...]
    """The names of the plugins that are not touched."""

    def __str__(self) -> str:
        """Return it for people, a line for each change."""
        same = f"{len(self.unchanged)} unchanged: {', '.join(self.unchanged)}" if self.unchanged else ""
        return "\n".join(filter(None, (*map(str, self.changes), same))) or "nothing to do"

    def data(self) -> Mapping[str, Any]:
        """Return it for JSON."""
        changes = [change.data() for change in self.changes]
        return {"changes": changes, "unchanged": list(self.unchanged)}


class OutdatedPlanError(CpgTrioError):
    """Other plugins run than those that a plan was made from. Nothing has been done: make another plan."""


class ApplyError(CpgTrioError):
    """A change of a plan has failed. Those before it are done, and it and those after it are not."""

    def __init__(
        self, done: Sequence[SpecChange], failed: Sequence[SpecChange], left: Sequence[SpecChange]
    ) -> None:
        self.done = tuple(done)
        self.failed = tuple(failed)
        """Those that were carried out together; none of them is done."""
        self.left = tuple(left)
        super().__init__(self.done, self.failed, self.left)

    def __str__(self) -> str:
        """Return what has failed, why, and what is done and not done."""
        parts = [
            f"could not {_told(self.failed)}: {self.__cause__}",
            f"done before that: {_told(self.done) or 'nothing'}",
            f"not done: {_told(self.left)}" if self.left else "",
        ]
        return "; ".join(filter(None, parts))


def _told(changes: Sequence[SpecChange]) -> str:
    return ", ".join(f"{change.kind.value} {change.name}" for change in changes)


class Operations(Protocol):
    """What is done to plugins; see `ManagedPlugins`. `actor` and `reason` are for the audit trail."""

    async def add(self, *specs: PluginSpec, actor: str = "", reason: str = "") -> None:
        """Start plugins; all of them, or raise and leave none."""

    async def remove(self, name: str, *, force: bool = False, actor: str = "", reason: str = "") -> None:
        """Stop a plugin."""

    async def replace(
        self, name: str, spec: PluginSpec | None = None, *, actor: str = "", reason: str = ""
    ) -> None:
        """Have another one in place of a plugin; or raise and leave it as it was."""

    async def scale(self, name: str, replicas: int, *, actor: str = "", reason: str = "") -> None:
        """Have more or fewer replicas of a plugin."""

    def adjust(self, spec: PluginSpec) -> None:
        """Take the fields of a spec that the runs of its plugin know nothing of."""


def plan(
    before: Mapping[str, PluginSpec],
    specs: Iterable[PluginSpec],
    registered: Iterable[Registered] = (),
    may_share: Callable[[str, str], bool] = lambda _, __: False,
) -> Plan:
    """Return what has to be done so that these plugins run. Raises: GraphError, see `Graph.check`."""
    registered, old = list(registered), before
    graph = Graph(specs, _without(registered, old.values()))
    graph.check(may_share)
    new = graph.specs
    order = graph.start_order()
    added = [SpecChange(kind=ChangeKind.ADD, after=new[name]) for name in order if name not in old]
    removed = [SpecChange(kind=ChangeKind.REMOVE, before=old[name]) for name in old if name not in new]
    changed = list[SpecChange]()
    for name in order:
        if name in old and old[name] != new[name]:
            if _stand_apart(old[name], new[name]):
                removed.append(SpecChange(kind=ChangeKind.REMOVE, before=old[name]))
                added.append(
                    SpecChange(kind=ChangeKind.ADD, after=new[name], differs=_differs(old[name], new[name]))
                )
            else:
                changed.append(_change(old[name], new[name]))
    was = Graph(old.values(), registered)
    removed.sort(key=lambda change: _stop_order(was).index(change.name))
    first = [change for change in removed if _is_in_the_way(change, was, graph)]
    by_kind = {
        kind: [change for change in changed if change.kind is kind]
        for kind in (ChangeKind.ADJUST, ChangeKind.REPLACE, ChangeKind.SCALE)
    }
    return Plan(
        before=dict(before),
        changes=(
            *by_kind[ChangeKind.ADJUST],
            *first,
            *added,
            *by_kind[ChangeKind.REPLACE],
            *by_kind[ChangeKind.SCALE],
            *(change for change in removed if change not in first),
        ),
        unchanged=tuple(name for name in new if name in old and old[name] == new[name]),
    )


async def apply(
    plan: Plan, specs: Mapping[str, PluginSpec], operations: Operations, *, actor: str = "", reason: str = ""
) -> None:
    """Carry out a plan. `specs` are those that run now.

    What is added is added together. It stops at the first change that fails. Raises: OutdatedPlanError;
    ApplyError from what the change has raised.
    """
    if dict(specs) != dict(plan.before):
        raise OutdatedPlanError("other plugins run than those that the plan was made from: make another plan")
    done = list[SpecChange]()
    for together in _steps(plan.changes):
        try:
            await _carry_out(together, operations, actor, reason)
        except Exception as error:
            left = plan.changes[len(done) + len(together) :]
            raise ApplyError(done, together, left) from error
        done += together


async def _carry_out(together: Sequence[SpecChange], operations: Operations, actor: str, reason: str) -> None:
    change, *_ = together
    match change:
        case SpecChange(kind=ChangeKind.ADD):
            await operations.add(*(each.after for each in together if each.after), actor=actor, reason=reason)
        case SpecChange(kind=ChangeKind.REMOVE):
            await operations.remove(change.name, force=True, actor=actor, reason=reason)
        case SpecChange(kind=ChangeKind.REPLACE):
            await operations.replace(change.name, change.after, actor=actor, reason=reason)
        case SpecChange(after=PluginSpec() as spec):
            before, _ = change.replicas
            operations.adjust(attrs.evolve(spec, replicas=before))
            if change.kind is ChangeKind.SCALE:
                await operations.scale(change.name, spec.replicas, actor=actor, reason=reason)


def _steps(changes: Sequence[SpecChange]) -> Iterator[Sequence[SpecChange]]:
    """Yield what is carried out at the same time: all that is added, and each other change by itself."""
    added = [change for change in changes if change.kind is ChangeKind.ADD]
    for change in changes:
        if change.kind is not ChangeKind.ADD:
            yield [change]
        elif change is added[0]:
            yield added


def _stand_apart(old: PluginSpec, new: PluginSpec) -> bool:
    """Whether one cannot come while the other is there: a service belongs to one plugin name."""
    return old.self_id != new.self_id or EXTERNAL in (old.launcher.kind, new.launcher.kind)


def _change(old: PluginSpec, new: PluginSpec) -> SpecChange:
    if not _different(old, new) - {"replicas"} <= _IN_PLACE:
        kind = ChangeKind.REPLACE
    else:
        kind = ChangeKind.ADJUST if old.replicas == new.replicas else ChangeKind.SCALE
    return SpecChange(kind=kind, before=old, after=new, differs=_differs(old, new))


def _different(old: PluginSpec, new: PluginSpec) -> AbstractSet[str]:
    """Return the names of the fields that are different."""
    names = {field.name for field in attrs.fields(PluginSpec) if field.eq}
    return {name for name in names if getattr(old, name) != getattr(new, name)}


def _differs(old: PluginSpec, new: PluginSpec) -> tuple[str, ...]:
    different = sorted(_different(old, new))
    return tuple(
        path for name in different for path in _differing(name, getattr(old, name), getattr(new, name))
    )


def _differing(path: str, old: object, new: object) -> Iterator[str]:
    """Yield the paths of what is different, as deep as both have fields or keys."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        parts = [(str(key), old.get(key), new.get(key)) for key in {**old, **new}]
    elif type(old) is type(new) and attrs.has(kind := type(old)):
        fields = [field.name for field in attrs.fields(kind) if field.eq]
        parts = [(name, getattr(old, name), getattr(new, name)) for name in fields]
    else:
        parts = []
    found = [each for name, a, b in parts if a != b for each in _differing(f"{path}.{name}", a, b)]
    yield from found or [path]


def _without(registered: Iterable[Registered], specs: Iterable[PluginSpec]) -> Iterator[Registered]:
    """Yield what is registered by plugins that the host has not started."""
    own = {spec.self_id for spec in specs}
    return (each for each in registered if each.self_id not in own)


def _stop_order(graph: Graph) -> Sequence[str]:
    return list(reversed(graph.start_order()))


def _is_in_the_way(change: SpecChange, was: Graph, graph: Graph) -> bool:
    """Whether a plugin that is removed provides what another one is to provide, or has that one's name."""
    if change.name in graph.specs:
        return True
    provided = {service_type for name in graph.specs for service_type in graph.provides(name)}
    return not provided.isdisjoint(was.provides(change.name))
