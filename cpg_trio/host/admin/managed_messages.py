"""The plugins that a host runs, as messages of the admin service. None says how they are launched."""

from __future__ import annotations

from collections.abc import Sequence

from cpg_trio.host.admin import messages
from cpg_trio.host.admin.managed import ManagedStates, Standing
from cpg_trio.host.admin.snapshot import Snapshot
from cpg_trio.host.supervision import Impact, OutputLine, PluginSpec, Replica, SpecChange
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State


def replica(of: Replica) -> pb.Replica:
    """Return what a replica is doing."""
    return pb.Replica(
        plugin=of.plugin,
        number=of.number,
        phase=getattr(pb, f"REPLICA_PHASE_{of.phase.name}"),
        since=messages.timestamp(of.since),
        why=of.why,
        where=of.where,
        pid=of.pid or 0,
        runtime_id=of.runtime_id,
        runs=of.runs,
        failures=of.failures,
        again_at=messages.timestamp(of.again_at) if of.again_at is not None else None,
        looping=of.looping,
    )


def managed_plugin(spec: PluginSpec, managed: ManagedStates) -> pb.ManagedPlugin:
    """Return a plugin with its replicas."""
    standings = managed.standings(spec)
    worst = max(standings, key=lambda each: each.state.rank, default=None)
    return pb.ManagedPlugin(
        name=spec.name,
        self_id=spec.self_id,
        launcher=spec.launcher.kind,
        state=messages.state(worst.state if worst is not None else State.STOPPED),
        reason=worst.reason if worst is not None else "it has no replicas",
        wanted=spec.replicas,
        replicas=[replica(each.replica) for each in standings],
        provides=spec.provides or (),
        requires=spec.requires or (),
        after=spec.after,
        restart=spec.restart.when.value,
        source=spec.source,
    )


def plugin(standing: Standing, of: Snapshot) -> pb.Plugin:
    """Return a replica that has no identity as lists show it."""
    spec = standing.spec
    return pb.Plugin(
        name=spec.self_id,
        state=messages.state(standing.state),
        state_since=messages.timestamp(standing.since),
        reason=standing.reason,
        provides=[pb.ProvidedService(service_type=each) for each in spec.provides or ()],
        requires=[required(each, of) for each in spec.requires or ()],
        replica=replica(standing.replica),
    )


def required(service_type: str, of: Snapshot) -> pb.RequiredService:
    """Return a service that a plugin requires that has not come."""
    missing = of.dependencies.missing(service_type)
    return pb.RequiredService(
        service_type=service_type,
        available=missing is None,
        reason=missing.reason if missing is not None else "",
        since=messages.timestamp_if_known(missing.since) if missing is not None else None,
    )


def nodes(standings: Sequence[Standing]) -> Sequence[pb.GraphNode]:
    """Return the plugins of which no run has an identity, by the names that they have for the host."""
    by_name: dict[str, list[Standing]] = {}
    for standing in standings:
        by_name.setdefault(standing.spec.self_id, []).append(standing)
    found = []
    for name, several in sorted(by_name.items()):
        worst = max(several, key=lambda each: each.state.rank)
        found.append(
            pb.GraphNode(
                name=name,
                state=messages.state(worst.state),
                reason=worst.reason,
                provides=worst.spec.provides or (),
                managed=worst.spec.name,
            )
        )
    return found


def impact(of: Impact) -> pb.Impact:
    """Return what happens when a plugin goes."""
    return pb.Impact(
        plugin=of.plugin,
        runs=of.runs,
        left=of.left,
        services=[pb.ServiceImpact(service_type=s.service_type, others=s.others) for s in of.services],
        losers=[
            pb.PluginImpact(
                plugin=loser.plugin,
                requires=loser.requires,
                uses=loser.uses,
                later=loser.later,
                step=loser.step,
            )
            for loser in of.losers
        ],
        order=of.order,
        refused=of.leaves_somebody_without,
        lines=of.lines(),
    )


def change(of: SpecChange) -> pb.PlannedChange:
    """Return a change of a plan. It has the names of what differs, and no values."""
    before, after = of.replicas
    spec = of.after or of.before
    return pb.PlannedChange(
        kind=getattr(pb.PlannedChange, f"KIND_{of.kind.name}"),
        plugin=of.name,
        differences=of.differs,
        replicas_before=before,
        replicas_after=after,
        source=spec.source if spec is not None else "",
    )


def line(of: OutputLine) -> pb.LogLine:
    """Return a line that a plugin has written."""
    return pb.LogLine(
        sequence=of.sequence,
        at=messages.timestamp(of.at),
        plugin=of.plugin,
        replica=of.replica,
        text=of.text,
    )
