"""Which plugin waits for which: the graph of what plugins provide and require, and its faults. No I/O.

A plugin waits for those that it comes `after`, and for the providers of the services that it requires, unless
it provides such a service itself. What it only uses it does not wait for. A plugin without replicas provides
nothing, and nobody waits for it.

What a spec does not say is taken from what plugins of its `self_id` have registered. Plugins that the host
has not started count as providers, too; nobody waits for them, as nothing starts them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

import attrs

from cpg_trio.errors import CpgTrioError
from cpg_trio.host.supervision.spec import PluginSpec


class GraphError(CpgTrioError, ValueError):
    """Plugins cannot be started together. The message has a line for each problem."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@attrs.frozen
class Registered:
    """What the directory knows of the plugins of one `self_id`, whoever has started them."""

    self_id: str
    provides: tuple[str, ...] = ()
    """The types that are registered."""
    requires: tuple[str, ...] = ()
    """Those that it has declared to call."""


@attrs.frozen
class _Wait:
    """That one plugin waits for another."""

    plugin: str
    """The name of the other one."""
    service_type: str = ""
    """What it is required for; empty for one that only comes before."""


class Graph:
    """Specs by their names, and what they wait for.

    Of specs with the same name the last one counts; `check` says that there are several.
    """

    def __init__(self, specs: Iterable[PluginSpec], registered: Iterable[Registered] = ()) -> None:
        self._all = tuple(specs)
        self.specs: Mapping[str, PluginSpec] = {spec.name: spec for spec in self._all}
        self._registered = {each.self_id: each for each in registered}
        managed = {spec.self_id for spec in self._all}
        self._others = [each for each in self._registered.values() if each.self_id not in managed]
        self._providers: dict[str, list[PluginSpec]] = {}
        for spec in self.specs.values():
            for service_type in self.provides(spec.name):
                self._providers.setdefault(service_type, []).append(spec)
        self._waits = {name: tuple(self._of(spec)) for name, spec in self.specs.items()}

    def provides(self, name: str) -> tuple[str, ...]:
        """Return the types that a plugin provides, as far as they are known; none without replicas."""
        spec = self.specs[name]
        if not spec.replicas:
            return ()
        return self._known(spec).provides if spec.provides is None else spec.provides

    def requires(self, name: str) -> tuple[str, ...]:
        """Return the types that a plugin requires, as far as they are known."""
        spec = self.specs[name]
        return self._known(spec).requires if spec.requires is None else spec.requires

    def waits_for(self, name: str) -> Sequence[str]:
        """Return the names of those for whom a plugin waits before it is started."""
        return tuple(dict.fromkeys(wait.plugin for wait in self._waits[name]))

    def waited_for_by(self, name: str) -> Sequence[str]:
        """Return the names of those who wait for a plugin: they are stopped before it.

        Not those that wait for each other, of which none could be stopped first: that they do may be known
        only when they have come.
        """
        waits = self._acyclic
        return tuple(other for other in self.specs if name in waits[other])

    def start_order(self) -> Sequence[str]:
        """Return all names so that each comes after those it waits for, unless they wait for each other."""
        return tuple(_sorter(self._acyclic).static_order())

    @cached_property
    def _acyclic(self) -> Mapping[str, Collection[str]]:
        """Who waits for whom, without the cycles."""
        return self._without_cycles()[0]

    def check(self, may_share: Callable[[str, str], bool] = lambda _, __: False) -> None:
        """Check that all can be started together. Raises: GraphError with all problems.

        `may_share` tells by a `self_id` and a service type whether the policy lets that plugin provide it
        beside others.
        """
        problems = [*self._same_names(), *self._nobody(), *self._unprovided()]
        problems += [*self._provided_twice(may_share), *self._cycles()]
        if problems:
            raise GraphError(problems)

    def _known(self, spec: PluginSpec) -> Registered:
        return self._registered.get(spec.self_id) or Registered(spec.self_id)

    def _of(self, spec: PluginSpec) -> Iterator[_Wait]:
        for name in spec.after:
            if name in self.specs and self.specs[name].replicas:
                yield _Wait(name)
        own = self.provides(spec.name)
        for service_type in self.requires(spec.name):
            if service_type not in own:
                for provider in self._providers.get(service_type, ()):
                    if provider.name != spec.name:
                        yield _Wait(provider.name, service_type)

    # What is wrong

    def _same_names(self) -> Iterator[str]:
        for name, spec in self.specs.items():
            same = [each for each in self._all if each.name == name]
            if len(same) > 1:
                yield f"{len(same)} plugins are named {name}{_sources(same)}: give each its own name"
            if spec.name in spec.after:
                yield f"{_said(spec)} comes after itself: remove its own name from `after`"

    def _nobody(self) -> Iterator[str]:
        for spec in self.specs.values():
            for name in spec.after:
                if name not in self.specs:
                    yield f"{_said(spec)} comes after {name}, but no plugin has that name"

    def _unprovided(self) -> Iterator[str]:
        if any(spec.provides is None and not self.provides(name) for name, spec in self.specs.items()):
            return  # what such a plugin provides is known when it has come
        others = {service_type for other in self._others for service_type in other.provides}
        for spec in self.specs.values():
            for service_type in (spec.requires or ()) if spec.replicas else ():
                if service_type in self._providers or service_type in others:
                    continue
                idle = [each for each in self.specs.values() if service_type in (each.provides or ())]
                why = f": {_said(idle[0])} has no replicas" if idle else ""
                yield f"{_said(spec)} requires {service_type}, which nobody provides{why}"

    def _provided_twice(self, may_share: Callable[[str, str], bool]) -> Iterator[str]:
        for service_type, specs in self._providers.items():
            managed = [(spec.self_id, _said(spec)) for spec in specs]
            others = [
                (other.self_id, f"{other.self_id} (which has registered it already)")
                for other in self._others
                if service_type in other.provides
            ]
            alone = [said for self_id, said in managed + others if not may_share(self_id, service_type)]
            if len(managed) + len(others) > 1 and alone:
                all_of_them = " and ".join(said for _, said in managed + others)
                yield (
                    f"{all_of_them} provide {service_type}, which only one may: remove one, "
                    f"or name them in the policy ([services.{service_type}] providers)"
                )

    def _cycles(self) -> Iterator[str]:
        return map(self._cycle_said, self._without_cycles()[1])

    def _without_cycles(self) -> tuple[Mapping[str, Collection[str]], Sequence[Sequence[str]]]:
        """Return the waits without cycles, and these: they have no wait in common, and leave none."""
        waits = {name: set(self.waits_for(name)) - {name} for name in self.specs}
        cycles = list[Sequence[str]]()
        while (cycle := _cycle(waits)) is not None:
            cycles.append(cycle)
            for name, other in _pairs(cycle):
                waits[name].discard(other)
        return waits, cycles

    def _cycle_said(self, cycle: Sequence[str]) -> str:
        path = " → ".join((*cycle, cycle[0]))
        reasons = ", ".join(self._reason(name, other) for name, other in _pairs(cycle))
        sources = _sources([self.specs[name] for name in cycle])
        return f"a cycle, in which each waits for the next: {path} ({reasons}){sources}"

    def _reason(self, name: str, other: str) -> str:
        wait = next(each for each in self._waits[name] if each.plugin == other)
        if not wait.service_type:
            return f"{name} comes after {other}"
        of = "" if wait.service_type == other else f" of {other}"
        return f"{name} requires {wait.service_type}{of}"


def _sorter(waits: Mapping[str, Iterable[str]]) -> TopologicalSorter[str]:
    sorter = TopologicalSorter[str]()
    for name, others in waits.items():
        sorter.add(name, *sorted(others))
    return sorter


def _cycle(waits: Mapping[str, Iterable[str]]) -> Sequence[str] | None:
    """Return a cycle, each name once and before the one that it waits for; None if there is none."""
    try:
        _sorter(waits).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]  # each before the one that waits for it, the first again at the end
        return found[:0:-1]
    return None


def _pairs(cycle: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from zip(cycle, (*cycle[1:], cycle[0]), strict=True)


def _said(spec: PluginSpec) -> str:
    return f"{spec.name} ({spec.source})" if spec.source else spec.name


def _sources(specs: Sequence[PluginSpec]) -> str:
    sources = ", ".join(dict.fromkeys(spec.source for spec in specs if spec.source))
    return f" ({sources})" if sources else ""
