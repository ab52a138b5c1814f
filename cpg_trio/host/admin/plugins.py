"""The plugins of a host, those that are there and those that were: their states, since when, and why.

Plain synchronous state that follows the identities, the registry and the leases: they tell of each change,
and nothing is asked for while nothing changes. What is kept of plugins that are gone is bounded, and so are
the histories.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import attrs

from cpg_trio.host.access import EXPIRED, Identities, Identity, Peer, held_bytes
from cpg_trio.host.admin.events import Event, EventLog, cut
from cpg_trio.host.admin.fair_table import FairTable
from cpg_trio.host.admin.kept import Kept
from cpg_trio.host.directory import Change, ChangeKind, Liveness, Registration, Registry
from cpg_trio.http import Origin
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import REPORTED, HealthState, State

_HISTORY = 32  # changes of one plugin
_CHANGE_BYTES = 200  # beside its reason
_MOST_FORMER = 100  # services
_MOST_LAST = 10  # services that are known of a plugin that is gone
_GONE_S = 60 * 60.0  # for which a plugin that is gone is kept

_KINDS = {
    State.HEALTHY: pb.EVENT_KIND_HEALTHY,
    State.DEGRADED: pb.EVENT_KIND_DEGRADED,
    State.UNHEALTHY: pb.EVENT_KIND_UNHEALTHY,
    State.LAPSED: pb.EVENT_KIND_LAPSED,
    State.DRAINING: pb.EVENT_KIND_DRAINING,
    State.GONE: pb.EVENT_KIND_GONE,
}
_LET_GO = "it provided nothing, and has left, or has not called the host for a while"
_NOTHING_YET = "it has registered nothing yet"
_LEAVING = "it is stopping"


@attrs.frozen
class StateChange:
    """A plugin has come into a state, or is in it for another reason."""

    at: float
    """In seconds since 1970, as all times here."""
    state: State
    reason: str

    @property
    def size(self) -> int:
        """How many bytes it takes in memory."""
        return _CHANGE_BYTES + held_bytes(self.reason)


@attrs.frozen
class Former:
    """The plugin that provided a service until somebody else does."""

    runtime_id: str
    name: str
    until: float


@attrs.define
class Provided:
    """A service that a plugin provides; the last ones of a plugin that is gone."""

    service_type: str
    version: str
    since: float
    origin: Origin | None
    """Where the host connects to for it; None if it does not say."""


@attrs.define(eq=False)
class Record:
    """What is known of one run of a plugin."""

    identity: Identity
    since: float
    """When it got its identity; 0 if that was before the host began."""
    state: State = State.STARTING
    state_since: float = 0.0
    reason: str = ""
    history: list[StateChange] = attrs.field(factory=list)
    """The states that it has been in, the oldest first."""
    provided: dict[str, Provided] = attrs.field(factory=dict)
    version: str = ""
    """The version of what it has registered first; empty if it has registered nothing."""
    last_heard: float = 0.0
    """The last sign of life before it lapsed; 0 if it has not lapsed."""
    was_lost: bool = False
    """Whether it has gone since nothing was heard of it."""

    @property
    def runtime_id(self) -> str:
        """Its runtime id."""
        return self.identity.runtime_id

    @property
    def name(self) -> str:
        """The plugin's own name."""
        return self.identity.self_id

    @property
    def lapsed_at(self) -> float:
        """When it lapsed last; when it came into its state, if that is not known."""
        lapses = (change.at for change in reversed(self.history) if change.state is State.LAPSED)
        return next(lapses, self.state_since)

    @property
    def cause(self) -> str:
        """The address that its events count for."""
        return Peer(self.identity.address).key


class Plugins:
    """Follows the plugins of a host while `following`."""

    def __init__(
        self,
        identities: Identities,
        registry: Registry,
        liveness: Liveness,
        events: EventLog,
        kept: Kept | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._identities = identities
        self._registry = registry
        self._liveness = liveness
        self._events = events
        self._kept = kept = kept or Kept()
        self._wall_clock = wall_clock
        self._live: dict[str, Record] = {}
        self._gone: FairTable[str, Record] = FairTable(kept.gone)  # by runtime id
        self._former: FairTable[str, Former] = FairTable(_MOST_FORMER)  # by service type
        self._bytes = 0  # of all histories

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the plugins within the block, those that have registered something already included.

        Another identity that is kept from before may be that of a run that is no more. It is followed once
        something is heard of it.
        """
        for runtime_id in self._registry.plugins():
            record = self._begin(runtime_id, since=0.0)
            for registration in self._registry.registrations(runtime_id):
                self._registered(record, registration)
            self._look(runtime_id)
        with ExitStack() as stack:
            stack.enter_context(self._identities.watched(self._identity_changed))
            stack.enter_context(self._registry.changes.added(self._registration_changed))
            stack.enter_context(self._registry.health_changes.added(self._look))
            yield

    def live(self) -> Sequence[Record]:
        """Return the plugins that have an identity."""
        return list(self._live.values())

    def gone(self) -> Sequence[Record]:
        """Return those that had one, the oldest first."""
        self._drop_old()
        return list(self._gone)

    def former(self, service_type: str) -> Former | None:
        """Return who stopped to provide a service last, None if that is not known."""
        return self._former.get(service_type)

    def name_of(self, runtime_id: str) -> str:
        """Return a plugin's own name; of one that is not kept any more, the beginning of its runtime id."""
        record = self.get(runtime_id)
        return record.name if record is not None else runtime_id.rpartition("-")[0] or runtime_id

    def get(self, runtime_id: str) -> Record | None:
        """Return a plugin by its runtime id."""
        return self._live.get(runtime_id) or self._gone.get(runtime_id)

    # Changes

    def _identity_changed(self, runtime_id: str) -> None:
        entry = self._identities.entry(runtime_id)
        if entry is None:
            if (record := self._live.pop(runtime_id, None)) is not None:
                self._end(record)
        elif (known := self._live.get(runtime_id)) is not None:
            known.identity = entry.identity
        else:
            record = self._begin(runtime_id, since=self._wall_clock())
            self._tell(record, pb.EVENT_KIND_ADMITTED, "has an identity")

    def _registration_changed(self, change: Change) -> None:
        registration = change.registration
        record = self._followed(registration.runtime_id) if change.of_registration else None
        if record is None:
            return
        service_type, version = registration.service_type, registration.version
        if change.kind is ChangeKind.REGISTERED:
            if self._registered(record, registration):
                self._tell(
                    record, pb.EVENT_KIND_REGISTERED, f"provides {service_type} {version}", service_type
                )
        elif self._registry.provider(service_type, registration.runtime_id) is None:
            record.provided.pop(service_type, None)
            self._note_former(record, service_type)
            self._tell(
                record, pb.EVENT_KIND_UNREGISTERED, f"does not provide {service_type} any more", service_type
            )
        self._look(registration.runtime_id)

    def _registered(self, record: Record, registration: Registration) -> bool:
        """Note that a plugin provides a service; return whether it did not provide it as such before."""
        service_type, version = registration.service_type, registration.version
        before, origin = record.provided.get(service_type), _origin(registration)
        if before is not None and before.version == version:
            before.origin = origin
            return False
        record.version = record.version or version
        record.provided[service_type] = Provided(service_type, version, self._wall_clock(), origin)
        return True

    def _followed(self, runtime_id: str) -> Record | None:
        """Return the record of a plugin that something is heard of; None if it has no identity."""
        if runtime_id not in self._live and self._identities.entry(runtime_id) is not None:
            return self._begin(runtime_id, since=0.0)
        return self._live.get(runtime_id)

    def _begin(self, runtime_id: str, since: float) -> Record:
        """Keep a plugin that has an identity."""
        entry = self._identities.entry(runtime_id)
        if entry is None:
            raise KeyError(runtime_id)
        self._forget(self._gone.pop(runtime_id))
        record = self._live[runtime_id] = Record(entry.identity, since)
        self._enter(record, State.STARTING, _NOTHING_YET)
        return record

    def _look(self, runtime_id: str) -> None:
        """Note the state that a plugin is in now."""
        record = self._followed(runtime_id)
        if record is None:
            return
        state, reason = self._now(record)
        before = record.state
        if (state, reason) == (before, record.reason):
            return
        self._enter(record, state, reason)
        if state is State.HEALTHY and before is State.STARTING:
            return  # that it has registered is an event already
        if before is State.LAPSED:
            said = f"{state.word}: {reason}" if reason else state.word
            self._tell(record, pb.EVENT_KIND_RETURNED, f"it is {said}")
        else:
            self._tell(record, _KINDS[state], reason or f"no longer {before.word}")

    def _now(self, record: Record) -> tuple[State, str]:
        """Return the state of a plugin that has an identity, and why it is in it."""
        runtime_id, registry = record.runtime_id, self._registry
        health = registry.health(runtime_id)
        if registry.has_lapsed(runtime_id):
            return State.LAPSED, cut(health.reason)
        if registry.is_drained(runtime_id):
            return State.DRAINING, cut(registry.why_drained(runtime_id))
        if self._liveness.is_leaving(runtime_id):
            return State.DRAINING, _LEAVING
        if registry.last_report(runtime_id) is None and not record.version:
            return State.STARTING, _NOTHING_YET
        if health.state in (None, HealthState.HEALTHY):
            return State.HEALTHY, ""
        return REPORTED[health.state], cut(health.reason)

    def _enter(self, record: Record, state: State, reason: str) -> None:
        at = self._wall_clock()
        if state is not record.state or not record.history:
            record.state_since = at
        record.state, record.reason = state, reason
        if state is State.LAPSED and (lease := self._liveness.lease(record.runtime_id)) is not None:
            record.last_heard = at - lease.silent_s
        history, change = record.history, StateChange(at, state, reason)
        history.append(change)
        self._bytes += change.size
        while len(history) > 1 and (len(history) > _HISTORY or self._bytes > self._kept.history_bytes):
            self._bytes -= history.pop(0).size

    def _end(self, record: Record) -> None:
        """Keep a plugin whose identity has ended, if it has ever been of use."""
        ended = self._identities.ended(record.runtime_id)
        reason = cut(ended.why) if ended is not None else _LET_GO
        for service_type in record.provided:
            self._note_former(record, service_type)
        record.provided = {p.service_type: attrs.evolve(p, origin=None) for p in _last(record.provided)}
        record.identity = attrs.evolve(record.identity, provides=None, requires=None)  # others may be many
        was_of_use = record.state is not State.STARTING
        record.was_lost = record.state is State.LAPSED
        self._enter(record, State.GONE, reason)
        if was_of_use:
            kind = pb.EVENT_KIND_EXPIRED if reason == EXPIRED else pb.EVENT_KIND_GONE
            self._tell(record, kind, reason)
        if was_of_use and ended is not None:
            self._forget(self._gone.put(record.runtime_id, record, record.cause))
            self._drop_old()
        else:  # there was nothing that could be missed
            self._forget(record)

    def _drop_old(self) -> None:
        """Drop what has been kept for long enough."""
        since = self._wall_clock() - _GONE_S
        for record in [record for record in self._gone if record.state_since < since]:
            self._forget(self._gone.pop(record.runtime_id))

    def _forget(self, record: Record | None) -> None:
        if record is not None:
            self._bytes -= sum(change.size for change in record.history)

    def _note_former(self, record: Record, service_type: str) -> None:
        self._former.put(
            service_type, Former(record.runtime_id, record.name, self._wall_clock()), record.cause
        )

    def _tell(self, record: Record, kind: pb.EventKind, text: str, service_type: str = "") -> None:
        self._events.add(
            Event(
                kind=kind,
                text=text,
                runtime_id=record.runtime_id,
                name=record.name,
                service_type=service_type,
                address=record.identity.address,
            ),
            record.cause,
        )


def _last(provided: Mapping[str, Provided]) -> Sequence[Provided]:
    return list(provided.values())[:_MOST_LAST]


def _origin(registration: Registration) -> Origin | None:
    try:
        return Origin.parse(registration.base_url)[0].at(registration.addresses)
    except ValueError:  # the URL is the plugin's
        return None
