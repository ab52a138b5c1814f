"""What others lose when a plugin goes: worked out before it goes. No I/O.

A plugin loses a service if somebody who goes has provided it in a version that the plugin accepts, and nobody
is left who does and gets calls. One that loses a service which it requires is not HEALTHY any more. Whether
it goes on answering is its own matter, so others that require it are named as well, as those that go down
later: each as if whoever lacks something stopped providing what it provides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import attrs

from cpg_trio.errors import CpgTrioError
from cpg_trio.host.access import Identities, Identity
from cpg_trio.host.directory import Registry, WatchHub
from cpg_trio.host.supervision.spec import PluginSpec
from cpg_trio.versions import ANY_VERSION, Requirement


@attrs.frozen(kw_only=True, eq=False)
class Member:
    """One run of a plugin, or a replica that is to run. Compared by identity."""

    plugin: str
    """The name on the platform of one that the host has started; otherwise its `self_id`."""
    runtime_id: str = ""
    """Empty for a replica without an identity."""
    provides: Mapping[str, str] = attrs.field(factory=dict)
    """The versions of its services, by their types; empty where that is not known yet."""
    gets_calls: bool = False
    requires: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    """Types that it does without, if it has to."""
    accepts: Mapping[str, Requirement] = attrs.field(factory=dict)
    """Which versions, by types; any of those that are not in it."""

    def is_served_by(self, other: Member, service_type: str) -> bool:
        """Whether another one provides a service in a version that this one accepts."""
        version = other.provides.get(service_type)
        if version is None:
            return False
        return not version or self.accepts.get(service_type, ANY_VERSION).admits(version)


@attrs.frozen
class LessProvided:
    """A service that loses a provider."""

    service_type: str
    others: Mapping[str, int]
    """How many providers of it get calls after that, by the name of their plugin. None: it is lost."""


@attrs.frozen(kw_only=True)
class Loser:
    """A plugin that loses a service."""

    plugin: str
    requires: tuple[str, ...] = ()
    """What it requires and loses at once."""
    uses: tuple[str, ...] = ()
    """What it loses at once, and does without."""
    later: tuple[str, ...] = ()
    """What it requires of plugins that go down themselves. It keeps that for as long as these answer."""
    step: int = 0
    """When it goes down: 1 with the plugin, 2 with those that go down first, and so on; 0: it does not."""


@attrs.frozen(kw_only=True)
class Impact:
    """What happens when some runs of a plugin go."""

    plugin: str
    runs: int
    """How many of its replicas go."""
    left: int
    """How many stay."""
    services: tuple[LessProvided, ...]
    losers: tuple[Loser, ...]
    """In the order in which they go down; last those that do not."""

    @property
    def order(self) -> Sequence[str]:
        """The plugins in the order in which they go down, this one first."""
        return [self.plugin, *(each.plugin for each in self.losers if each.step)]

    @property
    def leaves_somebody_without(self) -> bool:
        """Whether a plugin would be left without a service that it requires."""
        return any(each.requires for each in self.losers)

    def lines(self) -> Iterator[str]:
        """Yield it for people, a line for each service and each plugin."""
        for service in self.services:
            others = ", ".join(f"{name} ({count})" for name, count in service.others.items())
            who = f"still provided by {others}" if others else "nobody is left who provides it"
            yield f"{service.service_type}: {who}"
        for each in self.losers:
            if each.requires:
                yield f"{each.plugin} is left without {_listed(each.requires)}, which it requires"
            if each.uses:
                yield f"{each.plugin} is left without {_listed(each.uses)}, and does without"
            if each.later:
                yield f"{each.plugin} requires {_listed(each.later)}, whose providers lack something then"


class RemovalRefusedError(CpgTrioError):
    """A plugin is not removed, as others would be left without what they require."""

    def __init__(self, impact: Impact) -> None:
        self.impact = impact
        without = "; ".join(
            f"{each.plugin} requires {_listed(each.requires)}" for each in impact.losers if each.requires
        )
        super().__init__(f"{impact.plugin} is not removed: {without}, and nobody else provides that")


def impact_of(plugin: str, going: Collection[Member], members: Collection[Member]) -> Impact:
    """Return what happens when some members of a plugin go. `members` has them all."""
    staying = [each for each in members if each not in going]
    steps = _steps(going, staying)
    losers = dict[str, Loser]()
    for member in staying:
        if (loser := _loser(member, going, staying, steps)) is not None:
            before = losers.get(loser.plugin)
            losers[loser.plugin] = loser if before is None else _merged(before, loser)
    types = dict.fromkeys(service_type for each in going for service_type in each.provides)
    return Impact(
        plugin=plugin,
        runs=len(going),
        left=sum(each.plugin == plugin for each in staying),
        services=tuple(_less_provided(service_type, staying) for service_type in types),
        losers=tuple(sorted(losers.values(), key=lambda each: (not each.step, each.step, each.plugin))),
    )


def _steps(going: Collection[Member], staying: Collection[Member]) -> Mapping[Member, int]:
    """Return when members go down, each if those that go down before it provide nothing any more."""
    out, up, steps = list(going), list(staying), dict[Member, int]()
    for step in range(1, len(up) + 1):
        down = [each for each in up if any(_loses(each, required, out, up) for required in each.requires)]
        if not down:
            break
        steps |= dict.fromkeys(down, step)
        out += down
        up = [each for each in up if each not in steps]
    return steps


def _loses(member: Member, service_type: str, out: Collection[Member], up: Collection[Member]) -> bool:
    return any(member.is_served_by(each, service_type) for each in out) and not any(
        each.gets_calls and member.is_served_by(each, service_type) for each in up
    )


def _loser(
    member: Member, going: Collection[Member], staying: Collection[Member], steps: Mapping[Member, int]
) -> Loser | None:
    required = tuple(each for each in member.requires if _loses(member, each, going, staying))
    used = tuple(each for each in member.uses if _loses(member, each, going, staying))
    step = steps.get(member, 0)
    up = [each for each in staying if not 0 < steps.get(each, 0) < step]
    out = [*going, *(each for each in staying if each not in up)]
    later = [each for each in member.requires if each not in required and _loses(member, each, out, up)]
    if not (required or used or later):
        return None
    return Loser(plugin=member.plugin, requires=required, uses=used, later=tuple(later), step=step)


def _merged(one: Loser, other: Loser) -> Loser:
    """Return what replicas of the same plugin lose."""
    return Loser(
        plugin=one.plugin,
        requires=tuple(dict.fromkeys(one.requires + other.requires)),
        uses=tuple(dict.fromkeys(one.uses + other.uses)),
        later=tuple(dict.fromkeys(one.later + other.later)),
        step=min(filter(None, (one.step, other.step)), default=0),
    )


def _less_provided(service_type: str, staying: Collection[Member]) -> LessProvided:
    others = (each.plugin for each in staying if each.gets_calls and service_type in each.provides)
    return LessProvided(service_type, dict(sorted(Counter(others).items())))


def _listed(types: Sequence[str]) -> str:
    return " and ".join(types)


class Members:
    """Looks up who there is: what the directory has, and what the host has started or is about to start."""

    def __init__(self, identities: Identities, registry: Registry, watches: WatchHub) -> None:
        self._identities = identities
        self._registry = registry
        self._watches = watches

    def now(
        self,
        specs: Mapping[str, PluginSpec],
        runs: Mapping[str, Sequence[str]],
        leaving: Collection[str] = (),
    ) -> Sequence[Member]:
        """Return all members of this moment, without those whose runtime ids are in `leaving`.

        `runs` has a runtime id for each replica of a plugin, by the name of the plugin; an empty one for a
        replica without an identity.
        """
        started = {runtime_id: name for name, ids in runs.items() for runtime_id in ids if runtime_id}
        members = list[Member]()
        for runtime_id in self._identities.known():
            entry = self._identities.entry(runtime_id)
            if runtime_id in leaving:
                continue
            if entry is not None and (runtime_id in started or self._is_there(runtime_id)):
                members.append(self._of(entry.identity, specs.get(started.get(runtime_id, ""))))
        there = {member.runtime_id for member in members}
        for name, ids in runs.items():
            missing = sum(runtime_id not in there for runtime_id in ids)
            members += [_to_come(specs[name]) for _ in range(missing)]
        return members

    def _is_there(self, runtime_id: str) -> bool:
        registry = self._registry
        if registry.has_lapsed(runtime_id):
            return False
        return registry.has_registered(runtime_id) or self._watches.has(runtime_id)

    def _of(self, identity: Identity, spec: PluginSpec | None) -> Member:
        runtime_id, registry = identity.runtime_id, self._registry
        registrations = registry.registrations(runtime_id)
        accepts = self._watches.requirements(runtime_id)
        requires = identity.requires
        if requires is None:
            requires = (spec.requires if spec is not None else None) or ()
        uses = {*identity.uses, *(spec.uses if spec is not None else ()), *(set(accepts) - set(requires))}
        return Member(
            plugin=identity.self_id if spec is None else spec.name,
            runtime_id=runtime_id,
            provides={each.service_type: each.version for each in registrations},
            gets_calls=any(each.id in registry.callable_ids for each in registrations),
            requires=tuple(each for each in requires if each not in uses),
            uses=tuple(sorted(uses)),
            accepts=accepts,
        )


def _to_come(spec: PluginSpec) -> Member:
    return Member(
        plugin=spec.name,
        provides=dict.fromkeys(spec.provides or (), ""),
        requires=spec.requires or (),
        uses=spec.uses,
    )
