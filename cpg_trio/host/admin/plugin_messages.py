"""Plugins, services and the graph, as messages of the admin service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from cpg_trio import _clock, wire
from cpg_trio.host.admin import managed_messages, messages
from cpg_trio.host.admin.dependencies import Missing
from cpg_trio.host.admin.plugins import Provided, Record
from cpg_trio.host.admin.snapshot import Snapshot
from cpg_trio.host.directory import Registration
from cpg_trio.host.routing import DirectStatistics
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State
from cpg_trio.statistics import OTHER


def plugin(record: Record, of: Snapshot) -> pb.Plugin:
    """Return a plugin as lists show it."""
    message = pb.Plugin(
        runtime_id=record.runtime_id,
        name=record.name,
        version=record.version,
        address=record.identity.address,
        state=messages.state(record.state),
        state_since=messages.timestamp(record.state_since),
        reason=record.reason,
        identity_since=messages.timestamp_if_known(record.since),
        requires=_requires(record, of),
        calls_in=of.figures.of(provider=record.runtime_id),
        calls_out=of.figures.of(caller=record.runtime_id),
    )
    if (standing := of.managed.of_record(record)) is not None:
        message.replica.CopyFrom(managed_messages.replica(standing.replica))
    if record.state is State.GONE:
        message.provides.extend(map(_formerly_provided, record.provided.values()))
        if record.last_heard:
            message.last_heard_at.CopyFrom(messages.timestamp(record.last_heard))
    else:
        _add_registrations(message, record, of)
        _add_times(message, record, of)
        message.watches = of.parts.watches.count_of(record.runtime_id)
        message.grants = len(of.parts.grants.of(record.runtime_id))
        if of.hosts is not None:
            of.hosts.add_owner(message)
    return message


def _add_registrations(message: pb.Plugin, record: Record, of: Snapshot) -> None:
    registrations = of.parts.registry.registrations(record.runtime_id)
    message.provides.extend(
        pb.ProvidedService(
            service_type=registration.service_type,
            version=registration.version,
            registration_id=registration.id,
            metadata=registration.metadata,
            registered_at=messages.timestamp(record.provided[registration.service_type].since),
        )
        for registration in registrations
    )
    if reachable := next((r for r in registrations if r.base_url), None):
        message.url = reachable.base_url
        if (origin := record.provided[reachable.service_type].origin) is not None:
            message.connections = of.parts.pool.connections_to(origin)


def _formerly_provided(provided: Provided) -> pb.ProvidedService:
    return pb.ProvidedService(
        service_type=provided.service_type,
        version=provided.version,
        registered_at=messages.timestamp(provided.since),
    )


def _add_times(message: pb.Plugin, record: Record, of: Snapshot) -> None:
    entry = of.parts.identities.entry(record.runtime_id)
    if entry is None:
        return
    clock = _clock.current_time()
    silent_s = clock - entry.used_at
    if (lease := of.parts.liveness.lease(record.runtime_id)) is not None:
        silent_s = min(silent_s, lease.silent_s)
        message.lease_left.CopyFrom(messages.duration(max(0.0, lease.left_s)))
    if of.hosts is None or of.hosts.owns(record.runtime_id):  # of others their own hosts hear
        message.last_heard_at.CopyFrom(messages.timestamp(of.now - silent_s))
    message.token_expires_at.CopyFrom(messages.timestamp(of.now + entry.expires_at - clock))


def _requires(record: Record, of: Snapshot) -> Iterator[pb.RequiredService]:
    reported = of.dependencies.reported(record)
    for service_type in of.dependencies.required(record):
        missing, its_own = of.dependencies.missing(service_type), record.reason * (service_type in reported)
        yield pb.RequiredService(
            service_type=service_type,
            available=missing is None,
            # A plugin may lack what others call: it requires another version, or its calls fail.
            reason=missing.reason if missing is not None else its_own,
            since=messages.timestamp_if_known(missing.since) if missing is not None else None,
            reported_missing=service_type in reported,
        )


def services(wanted: str, of: Snapshot) -> Iterator[pb.Service]:
    """Yield the services that are provided, and those that are required and missing, by their types."""
    required_by = of.required_by()
    for service_type in sorted({*of.parts.registry.service_types(), *required_by}):
        if wanted in service_type:
            yield _service(service_type, required_by.get(service_type, ()), of)


def _service(service_type: str, required_by: Iterable[str], of: Snapshot) -> pb.Service:
    registry, missing = of.parts.registry, of.dependencies.missing(service_type)
    providers = [
        (registration, record)
        for registration in registry.providers(service_type)
        if (record := of.plugins.get(registration.runtime_id)) is not None
    ]
    calls = of.figures.of(service=service_type)
    best = min((record.state for _, record in providers), key=lambda state: state.rank, default=State.GONE)
    return pb.Service(
        service_type=service_type,
        selection=registry.selection_of(service_type).value,
        state=messages.state(best),
        reason=missing.reason if missing is not None else "",
        providers=[_provider(registration, record, calls.calls, of) for registration, record in providers],
        required_by=sorted(required_by),
        calls=calls,
    )


def _provider(registration: Registration, record: Record, all_calls: int, of: Snapshot) -> pb.ServiceProvider:
    calls = of.figures.of(provider=registration.runtime_id, service=registration.service_type)
    return pb.ServiceProvider(
        runtime_id=record.runtime_id,
        name=record.name,
        version=registration.version,
        state=messages.state(record.state),
        reason=record.reason,
        calls=calls,
        share_of_calls=calls.calls / all_calls if all_calls else 0.0,
    )


def nodes(edges: Sequence[pb.Edge], of: Snapshot) -> Iterator[pb.GraphNode]:
    """Yield the plugins by their names, the host if it calls one, and the services that nobody provides."""
    if any(edge.caller == wire.HOST_NAME for edge in edges):
        yield pb.GraphNode(name=wire.HOST_NAME, state=pb.PLUGIN_STATE_HEALTHY)
    for name, records in of.by_name().items():
        worst = max(records, key=lambda record: record.state.rank)
        provided = {p.service_type for record in records for p in record.provided.values()}
        yield pb.GraphNode(
            name=name,
            state=messages.state(worst.state),
            reason=worst.reason,
            runtime_ids=[record.runtime_id for record in records],
            provides=sorted(provided),
        )
    there = of.by_name()
    yield from managed_messages.nodes([s for s in of.without_identity if s.spec.self_id not in there])
    missing = {edge.service_type: edge.reason for edge in edges if not edge.provider}
    for service_type, reason in sorted(missing.items()):
        yield pb.GraphNode(name=service_type, missing=True, state=pb.PLUGIN_STATE_GONE, reason=reason)


def edges(of: Snapshot) -> Sequence[pb.Edge]:
    """Return who requires whom, and who has called whom in the last minute."""
    figures = {edge: calls for edge, calls in of.figures.edges().items() if edge[1] and OTHER not in edge}
    required: dict[tuple[str, str, str], None] = {}
    for service_type, callers in of.required_by().items():
        for caller in callers:
            for provider in _providers(service_type, of):
                required[caller, provider, service_type] = None
    direct = of.direct_calls()
    return [
        _edge(
            edge,
            of.dependencies.missing(edge[2]),
            figures.get(edge),
            direct.get(edge),
            required=edge in required,
        )
        for edge in sorted({**required, **figures, **direct})
    ]


def _providers(service_type: str, of: Snapshot) -> Sequence[str]:
    """Return the names of those who provide a service, or else of one that is to; an empty one for nobody."""
    names = of.parts.registry.provider_names(service_type)
    missing = None if names else of.dependencies.missing(service_type)
    return list(names) or [missing.plugin if missing is not None else ""]


def _edge(
    names: tuple[str, str, str],
    missing: Missing | None,
    calls: pb.CallStatistics | None,
    direct: DirectStatistics | None,
    *,
    required: bool,
) -> pb.Edge:
    caller, provider, service_type = names
    return pb.Edge(
        caller=caller,
        provider=provider,
        service_type=service_type,
        required=required,
        available=missing is None,
        reason=missing.reason if missing is not None else "",
        calls=calls,
        direct=None if direct is None else pb.DirectCalls(**attrs.asdict(direct)),
    )
