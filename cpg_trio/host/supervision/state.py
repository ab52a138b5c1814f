"""What one replica of a plugin is doing."""

from __future__ import annotations

from enum import Enum

import attrs

from cpg_trio.states import State


class Phase(Enum):
    """What a replica is doing, in one word for people."""

    WAITING = "waiting"
    """Not started: it waits for others."""
    STARTING = "starting"
    """Started, and not ready yet."""
    READY = "ready"
    BACKING_OFF = "backing off"
    """Its last run has ended; the next one starts after a wait."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """It has ended, and is not started again: it was stopped, or its restart policy says so."""
    FAILED = "failed"
    """It could not be started, or has failed, and its restart policy says that it is not started again."""

    @property
    def state(self) -> State:
        """The state that a replica is in while no plugin reports for it."""
        return _STATES[self]


_STATES = {
    Phase.WAITING: State.WAITING,
    Phase.STARTING: State.STARTING,
    Phase.READY: State.HEALTHY,
    Phase.BACKING_OFF: State.BACKING_OFF,
    Phase.STOPPING: State.DRAINING,
    Phase.STOPPED: State.STOPPED,
    Phase.FAILED: State.FAILED,
}


def replica_title(plugin: str, number: int) -> str:
    """Return how a replica is called, for people: `thumbs`, `thumbs/2`."""
    return f"{plugin}/{number}" if number > 1 else plugin


@attrs.define
class Replica:
    """One replica of a plugin."""

    plugin: str
    number: int
    phase: Phase = Phase.WAITING
    since: float = 0.0
    """Since when it is in that phase, in seconds since 1970."""
    why: str = ""
    """What it waits for, or how its last run has ended: one line."""
    where: str = ""
    """Where its run is, as in `pid 4711`; empty without one."""
    pid: int | None = None
    runtime_id: str = ""
    """The identity that its run has now; empty before its handshake."""
    runs: int = 0
    """How often it was started."""
    failures: int = 0
    """How many runs in a row have failed before they were ready for a while."""
    again_at: float | None = None
    """When the next run starts, in seconds since 1970, while it is backing off."""
    looping: bool = False
    """Whether so many have failed that it is a crash loop."""
