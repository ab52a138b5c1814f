"""Messages of the admin service, made of what the host has."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cpg_trio.host.admin.events import Event
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State

_NANOS = 1_000_000_000
_STATES: Mapping[State, pb.PluginState] = {of: getattr(pb, f"PLUGIN_STATE_{of.name}") for of in State}


def timestamp(since_1970: float) -> Timestamp:
    """Return a time."""
    whole, part = divmod(since_1970, 1)
    return Timestamp(seconds=int(whole), nanos=int(part * _NANOS))


def timestamp_if_known(since_1970: float) -> Timestamp | None:
    """Return a time; None, for an absent one, for 0."""
    return timestamp(since_1970) if since_1970 else None


def duration(seconds: float) -> Duration:
    """Return a span of time, which may be below 0."""
    whole = int(seconds)  # both parts have the same sign
    return Duration(seconds=whole, nanos=int((seconds - whole) * _NANOS))


def state(of: State) -> pb.PluginState:
    """Return a state."""
    return _STATES[of]


def event(happened: Event) -> pb.Event:
    """Return an event."""
    return pb.Event(
        sequence=happened.sequence,
        at=timestamp(happened.at),
        kind=happened.kind,
        runtime_id=happened.runtime_id,
        name=happened.name,
        service_type=happened.service_type,
        text=happened.text,
        address=happened.address,
        count=happened.count,
        managed=happened.managed,
    )
