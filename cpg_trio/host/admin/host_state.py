"""What a host knows of itself and of its process, and what is wrong with it."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from cpg_trio._human import duration
from cpg_trio._loop_lag import LoopLag
from cpg_trio._memory import resident_bytes
from cpg_trio._version import __version__
from cpg_trio.host.admin import messages
from cpg_trio.host.admin.problems import Problem
from cpg_trio.host.admin.recent import RecentCount
from cpg_trio.host.admin.snapshot import Parts
from cpg_trio.logs import dropped_lines
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.states import State

_DESCRIPTORS = Path("/proc/self/fd")
_FEW_LEFT = 0.9  # of the file descriptors are in use
_LATE_S = 0.25  # by which every other task of the last minute ran late


@attrs.define
class HostState:
    """A host, its process and its event loop."""

    _parts: Parts
    started_at: float
    """In seconds since 1970."""
    urls: Sequence[str] = ()
    """Where plugins reach it."""
    stopping: bool = False
    loop_lag: LoopLag = attrs.field(factory=LoopLag)
    refusals: RecentCount = attrs.field(factory=RecentCount)
    """Those in the audit trail."""

    def message(self) -> pb.HostInfo:
        """Return it as a message."""
        parts, pool = self._parts, self._parts.pool.statistics()
        return pb.HostInfo(
            urls=self.urls,
            version=__version__,
            started_at=messages.timestamp(self.started_at),
            stopping=self.stopping,
            loop_lag=messages.duration(self.loop_lag.median_s),
            loop_lag_most=messages.duration(self.loop_lag.most_s),
            memory_bytes=resident_bytes(),
            file_descriptors=_descriptors(),
            file_descriptor_limit=_most_descriptors(),
            connections=len(parts.connections),
            pool_connections=pool.idle + pool.active,
            watches=len(parts.watches),
            log_lines_dropped=dropped_lines(),
            unsaved=parts.journal.why_unsaved,
            registry_id=parts.registry.id,
            pid=os.getpid(),
        )

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the host itself."""
        why = self._parts.journal.why_unsaved
        if why and self._parts.cluster is None:  # with others, `hosts` tells of the store
            yield Problem(State.DEGRADED, f"the host is not ready: {why}")
        for file in self._parts.files:
            if file.error:
                yield Problem(
                    State.DEGRADED,
                    f"{file.path} ({file.name}) cannot be used: {file.error}",
                    what_to_do="cpg-trio reload",
                )
        if (used := _descriptors()) > _FEW_LEFT * (most := _most_descriptors()):
            yield Problem(
                State.DEGRADED,
                f"the host has {used} of {most} file descriptors in use",
                what_to_do="start it with a higher limit (ulimit -n)",
            )
        if (lag_s := self.loop_lag.median_s) > _LATE_S:
            yield Problem(
                State.DEGRADED,
                f"the host is overloaded: its event loop runs {duration(lag_s)} late",
                what_to_do="cpg-trio top",
            )


def _descriptors() -> int:
    """Return how many file descriptors this process has open; 0 if the system does not tell."""
    try:
        return sum(1 for _ in _DESCRIPTORS.iterdir()) - 1  # one is open to look
    except OSError:
        return 0


def _most_descriptors() -> int:
    """Return how many file descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
