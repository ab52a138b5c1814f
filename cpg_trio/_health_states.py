"""The health of a plugin as messages of the protocol have it: a number, and none before the first report."""

from __future__ import annotations

from cpg_trio import wire
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.states import HealthState

_NUMBERS: dict[HealthState | None, pb.HealthState] = {
    None: pb.HEALTH_STATE_UNSPECIFIED,
    HealthState.HEALTHY: pb.HEALTH_STATE_HEALTHY,
    HealthState.DEGRADED: pb.HEALTH_STATE_DEGRADED,
    HealthState.UNHEALTHY: pb.HEALTH_STATE_UNHEALTHY,
}
_STATES: dict[int, HealthState | None] = {number: state for state, number in _NUMBERS.items()}


def health_number(state: HealthState | None) -> pb.HealthState:
    """Return the number of a state in messages; that of none for None."""
    return _NUMBERS[state]


def health_state(number: int) -> HealthState | None:
    """Return the state that a message has, None for none. Raises: wire.InvalidError for an unknown number."""
    if number not in _STATES:
        raise wire.InvalidError(f"unknown health state: {number}")
    return _STATES[number]
