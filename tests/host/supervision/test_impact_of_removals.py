"""What impact says agrees with what happens: random platforms of real plugins, of which one is removed."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock

from cpg_trio import HealthState
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host import Host, HostConfig, Policy
from cpg_trio.host.access.policy import Rules, ServiceRules
from cpg_trio.host.supervision import Assignment, Impact, PluginSpec
from cpg_trio.plugin import Dependency, Plugin, PluginConfig
from tests.host.supervision.launching import LEASES, UNLIMITED, Launches
from tests.rpc.echo import Echo

_SETTLED_S = 3.0
_TYPES = [f"t{number}" for number in range(5)]
_VERSIONS = ["1.0.0", "2.0.0"]
_ACCEPTED = ["", "", ">=1,<2", ">=2"]


@attrs.define
class _Made:
    """One run of a plugin: what it depends on."""

    name: str
    plugin: Plugin
    dependencies: list[Dependency]


@attrs.define
class _Kind:
    """A plugin of the platform."""

    name: str
    version: str
    provides: list[str]
    requires: list[tuple[str, str, bool]]
    """Type, versions, and whether it is required."""
    replicas: int
    is_managed: bool
    made: list[_Made] = attrs.field(factory=list)

    def make(self, _: Assignment | None = None) -> Plugin:
        plugin = Plugin(self.name, version=self.version)
        for service_type in self.provides:
            plugin.provide(service_type, Echo())
        depends = [
            plugin.require(service_type, version=accepted, required=required)
            for service_type, accepted, required in self.requires
        ]
        self.made.append(_Made(self.name, plugin, depends))
        return plugin

    def spec(self) -> PluginSpec:
        return PluginSpec(name=self.name, launcher=Launches(self.make), replicas=self.replicas)


def _platform(rng: random.Random) -> list[_Kind]:
    """Return plugins each of which requires only what one before it provides, so that all get healthy."""
    kinds = list[_Kind]()
    offered = list[tuple[str, str]]()
    for number in range(rng.randint(4, 7)):
        candidates = [(t, a) for t, v in offered for a in _ACCEPTED if a in ("", _range_of(v))]
        requires = {t: (t, a, rng.random() < 0.8) for t, a in rng.sample(candidates, min(2, len(candidates)))}
        version = rng.choice(_VERSIONS)
        provides = rng.sample(_TYPES, rng.choice([0, 1, 1, 2]))
        replicas = rng.choice([1, 1, 2])
        is_managed = rng.random() < 0.7
        kinds.append(_Kind(f"p{number}", version, provides, list(requires.values()), replicas, is_managed))
        offered += [(service_type, version) for service_type in provides]
    return kinds


def _range_of(version: str) -> str:
    return ">=2" if version == "2.0.0" else ">=1,<2"


async def _start(host: Host, url: str, kind: _Kind, strangers: trio.Nursery, stop: trio.Event) -> None:
    if kind.is_managed:
        await host.plugins.add(kind.spec())
        return
    config = PluginConfig(bind="127.0.0.1:0", host_url=url, hostname="127.0.0.1")
    for _ in range(kind.replicas):
        await strangers.start(partial(_serve, kind.make(), stop, config))
    await trio.sleep(1.0)


async def _serve(
    plugin: Plugin, stop: trio.Event, config: PluginConfig, *, task_status: trio.TaskStatus[object]
) -> None:
    await plugin.serve(stop, config=config, task_status=task_status)


async def _give_up_without(made: _Made) -> None:
    """Have a plugin call itself UNHEALTHY for as long as it lacks something that it requires."""

    async def follow(dependency: Dependency) -> None:
        async for _ in dependency.changes():
            lacks = any(each.required and not each.available for each in made.dependencies)
            made.plugin.set_health(HealthState.UNHEALTHY if lacks else HealthState.HEALTHY)

    async with open_plain_nursery() as nursery:
        for dependency in made.dependencies:
            nursery.start_soon(follow, dependency)


def _getting_calls(host: Host, service_type: str) -> dict[str, int]:
    registry = host.registry
    names = [host.identities.name_of(r.runtime_id) for r in registry.providers(service_type)]
    callable_ones = [r.id in registry.callable_ids for r in registry.providers(service_type)]
    return dict(Counter(name for name, gets in zip(names, callable_ones, strict=True) if gets))


@pytest.mark.parametrize("gives_up", [False, True], ids=["degraded", "unhealthy"])
@pytest.mark.parametrize("seed", range(2))
async def test_impact_agrees_with_what_happens(
    seed: int,
    gives_up: bool,  # noqa: FBT001 - a parameter of the test
    virtual_time: MockClock,
) -> None:
    rng = random.Random(f"{seed} {gives_up}")
    kinds = _platform(rng)
    victim, stops = rng.choice(kinds[: len(kinds) // 2 + 1]), {kind.name: trio.Event() for kind in kinds}
    shared = {t: ServiceRules(providers=[kind.name for kind in kinds]) for t in _TYPES}
    config = HostConfig(rates=UNLIMITED, leases=LEASES, policy=Policy(Rules(services=shared)))
    host, stop = Host(config), trio.Event()
    async with open_plain_nursery() as nursery:
        url, *_ = await nursery.start(partial(host.serve, stop, bind="127.0.0.1:0"))
        async with open_plain_nursery() as strangers:
            for kind in kinds:
                await _start(host, url, kind, strangers, stops[kind.name])
            await trio.sleep(_SETTLED_S)
            every = [made for kind in kinds for made in kind.made]
            if gives_up:
                for made in every:
                    strangers.start_soon(_give_up_without, made)
            down = list[str]()
            host.registry.health_changes.add(lambda runtime_id: _note_down(host, runtime_id, down))
            left = rng.randrange(victim.replicas) if victim.is_managed else 0
            impact = host.plugins.impact(victim.name, replicas=left)
            await _remove(host, victim, left, stops[victim.name])
            await trio.sleep(_SETTLED_S)
            if gives_up:
                _check_who_goes_down(impact, down, kinds, victim)
            else:
                _check_who_loses_what(host, impact, kinds, victim)
            strangers.cancel_scope.cancel()
        stop.set()


async def _remove(host: Host, victim: _Kind, left: int, stop: trio.Event) -> None:
    if not victim.is_managed:
        stop.set()
    elif left:
        await host.plugins.scale(victim.name, left, force=True)
    else:
        await host.plugins.remove(victim.name, force=True)


def _note_down(host: Host, runtime_id: str, down: list[str]) -> None:
    name = host.identities.name_of(runtime_id)
    if host.registry.health(runtime_id).state is HealthState.UNHEALTHY and name not in down:
        down.append(name)


def _check_who_loses_what(host: Host, impact: Impact, kinds: list[_Kind], victim: _Kind) -> None:
    for service in impact.services:
        assert dict(service.others) == _getting_calls(host, service.service_type)
    losers = {loser.plugin: loser for loser in impact.losers}
    for kind in kinds:
        if kind is victim:
            continue
        for made in kind.made:
            lacking = {each.service_type for each in made.dependencies if not each.available}
            loser = losers.get(kind.name)
            assert lacking == (set(loser.requires + loser.uses) if loser is not None else set())
            required = {each.service_type for each in made.dependencies if each.required}
            assert lacking & required == (set(loser.requires) if loser is not None else set())


def _check_who_goes_down(impact: Impact, down: list[str], kinds: list[_Kind], victim: _Kind) -> None:
    steps = {loser.plugin: loser.step for loser in impact.losers if loser.step}
    assert set(down) - {victim.name} == set(steps) - {victim.name}
    for name, step in steps.items():
        before = [other for other in down[: down.index(name)] if steps.get(other) == step - 1]
        assert before or step == 1
    assert kinds
