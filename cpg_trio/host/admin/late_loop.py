"""An event for a loop that runs late: somebody blocks it, and all that runs in it waits meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cpg_trio._human import duration
from cpg_trio._loop_lag import LoopLag
from cpg_trio.host.admin.events import Event, EventLog
from cpg_trio.host.admin.managed import ManagedStates
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb

_LATE_S = 0.25
_EVERY_S = 10.0  # between two events
_TASK = "task"  # the kind of the launcher whose plugins share the loop
_MOST_NAMED = 5


class LateLoop:
    """Tells of an event loop that is late, while `following`. `clock` gives seconds."""

    def __init__(
        self,
        lag: LoopLag,
        managed: ManagedStates,
        events: EventLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lag = lag
        self._managed = managed
        self._events = events
        self._clock = clock
        self._told_at = -_EVERY_S

    @contextmanager
    def following(self) -> Iterator[None]:
        """Tell of it within the block."""
        with self._lag.measured.added(self._measured):
            yield

    def _measured(self, lag_s: float) -> None:
        if lag_s < _LATE_S or self._clock() < self._told_at + _EVERY_S:
            return
        self._told_at = self._clock()
        text = f"the event loop of the host was {duration(lag_s)} late"
        names = [spec.name for spec in self._managed.specs() if spec.launcher.kind == _TASK]
        if names:
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            text += (
                f"; plugins that run as tasks in it, and can block it: {', '.join(names[:_MOST_NAMED])}{more}"
            )
        self._events.add(Event(kind=pb.EVENT_KIND_HOST, text=text))
