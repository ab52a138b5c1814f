"""Replicas that come in place of others, or beside them, and the moment in which calls move.

Those that come are *on trial*: they are registered, and get no calls. When all are ready, and nobody would
lose what it requires, calls move: between two checkpoints, the new ones get calls, and the old ones get none.
From then on the old ones finish the calls that they have, within their grace, and stop.

    step                      what an error or a cancellation leaves
    start, get ready, check   the old ones, which nothing has happened to; the new ones are stopped
    calls have moved          the new ones; the old ones go on to finish and stop
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host.supervision.impact import Member, RemovalRefusedError, impact_of
from cpg_trio.host.supervision.launcher import EXTERNAL, LaunchError
from cpg_trio.host.supervision.managed import Managed, ManageError
from cpg_trio.host.supervision.spec import PluginSpec
from cpg_trio.host.supervision.supervisor import Supervisor

if TYPE_CHECKING:
    from cpg_trio.host.supervision.plugins import ManagedPlugins

_LAST_S = 1.0  # after which more than its time nobody waits for a replica: it says itself why it is not ready


async def replace(plugins: ManagedPlugins, managed: Managed, spec: PluginSpec, *, force: bool) -> None:
    """Have replicas of a spec in place of those that a plugin has. See `ManagedPlugins.replace`."""
    _check_replaceable(managed.spec, spec)
    old = list(managed.supervisors)
    async with _coming(plugins, managed, spec, range(1, spec.replicas + 1)) as new:
        if not force:
            check_moved(plugins, managed, old, new)
        plugins.respecify(managed, spec)
        managed.take_in(new)
        stopping = plugins.retire(managed, old)
    await stopping.wait()


async def scale(plugins: ManagedPlugins, managed: Managed, replicas: int, *, force: bool) -> None:
    """Have more or fewer replicas of a plugin. See `ManagedPlugins.scale`."""
    spec = attrs.evolve(managed.spec, replicas=replicas)
    there = sorted(managed.supervisors, key=lambda each: each.replica.number)
    if replicas >= len(there):
        taken = {each.replica.number for each in there}
        free = [number for number in range(1, replicas + 1) if number not in taken]
        async with _coming(plugins, managed, spec, free[: replicas - len(there)]) as new:
            plugins.respecify(managed, spec)
            managed.take_in(new)
        return
    if not force:
        check_moved(plugins, managed, there[replicas:], ())
    plugins.respecify(managed, spec)
    await plugins.retire(managed, there[replicas:]).wait()


def check_moved(
    plugins: ManagedPlugins, managed: Managed, old: Sequence[Supervisor], new: Collection[Supervisor]
) -> None:
    """Check that nobody is left without what it requires when some replicas are there in place of others.

    Raises: RemovalRefusedError.
    """
    there = {each.replica.runtime_id for each in new}
    members = [_getting_calls(each) if each.runtime_id in there else each for each in plugins.members()]
    impact = impact_of(managed.spec.name, plugins.members_of(managed, old, members), members)
    if impact.leaves_somebody_without:
        raise RemovalRefusedError(impact)


def _getting_calls(member: Member) -> Member:
    return attrs.evolve(member, gets_calls=True)


def _check_replaceable(old: PluginSpec, new: PluginSpec) -> None:
    if EXTERNAL in (old.launcher.kind, new.launcher.kind):
        raise ManageError(f"{old.name} is started by somebody else, who has to replace it")
    if old.name != new.name:
        raise ManageError(f"{new.name} is no other version of {old.name}: add it, and remove that one")
    if old.self_id != new.self_id:
        raise ManageError(
            f"{old.name} is {old.self_id}, and cannot be replaced by {new.self_id}, as a service belongs to"
            " one of them at a time: remove it, and add the other one"
        )


@asynccontextmanager
async def _coming(
    plugins: ManagedPlugins, managed: Managed, spec: PluginSpec, numbers: Collection[int]
) -> AsyncIterator[Sequence[Supervisor]]:
    """Yield replicas that are ready, on trial. Without an end of the block they are stopped again.

    Raises: LaunchError for one that does not get ready in time, when all have ended.
    """
    new = [plugins.start_replica(managed, number, spec, on_trial=True) for number in numbers]
    try:
        await _all_ready(new, spec.start_s)
        yield new
    except BaseException as error:
        stopping = plugins.retire(managed, new)
        if isinstance(error, Exception):
            await stopping.wait()
        raise


async def _all_ready(supervisors: Sequence[Supervisor], start_s: float) -> None:
    with trio.move_on_after(start_s + _LAST_S) as in_time:
        await all_ready(supervisors)
    if in_time.cancelled_caught:
        late = next(each for each in supervisors if not each.was_ready)
        raise LaunchError(f"{late.title}: not ready within {start_s:g} s: {late.replica.why}")


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
