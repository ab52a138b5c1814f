"""The plugins that a host runs: what their replicas are doing, what has happened to them, what is wrong.

Plain synchronous state that follows the supervision: it tells of each change.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs

from cpg_trio._human import duration, span
from cpg_trio._lines import one_line
from cpg_trio.host.admin.events import Event, EventLog, cut
from cpg_trio.host.admin.plugins import Plugins, Record
from cpg_trio.host.admin.problems import Problem
from cpg_trio.host.supervision import ManagedPlugins, Phase, PluginSpec, Replica
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.rpc import Code, ConnectError
from cpg_trio.states import State

_MOST_NAMED = 5  # plugins, in an error
_MOST_OF_WHY = 500  # characters
_CHECK = "cpg-trio up --check"  # names file and line of what is wrong
_OVER = (Phase.BACKING_OFF, Phase.FAILED, Phase.STOPPED)


@attrs.define
class _Seen:
    """What has been told of a replica."""

    replica: Replica
    phase: Phase = Phase.WAITING
    runs: int = 0
    """How many of its runs were told of as started."""
    failures: int = 0
    looping: bool = False
    started_at: float = 0.0
    ended: str = ""
    """How its last run has ended."""
    first_failed_at: float = 0.0
    """When the first of the runs has ended that have failed in a row."""


@attrs.frozen
class Standing:
    """How one replica is: as its plugin reports, or as its supervisor says while it has no identity."""

    spec: PluginSpec
    replica: Replica
    record: Record | None
    state: State
    since: float
    reason: str


class ManagedStates:
    """Follows the plugins that a host runs, while `following`. `wall_clock` gives seconds since 1970."""

    def __init__(
        self,
        plugins: ManagedPlugins,
        records: Plugins,
        events: EventLog,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.plugins = plugins
        self._records = records
        self._events = events
        self._wall_clock = wall_clock
        self._seen: dict[
            int, _Seen
        ] = {}  # by the id of the replica: two may have the same number for a while
        self.restarts: Counter[str] = Counter()
        """How often a run of a plugin was started after another one of the same replica."""

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the plugins within the block."""
        with self.plugins.changes.added(self._changed):
            yield

    # What there is

    def specs(self) -> Sequence[PluginSpec]:
        """Return what is known of each plugin, by their names."""
        return sorted(self.plugins.specs().values(), key=lambda spec: spec.name)

    def standings(self, spec: PluginSpec) -> Sequence[Standing]:
        """Return how the replicas of a plugin are."""
        return [self._standing(spec, replica) for replica in self.plugins.replicas(spec.name)]

    def without_identity(self) -> Sequence[Standing]:
        """Return the replicas that no identity stands for."""
        every = (standing for spec in self.specs() for standing in self.standings(spec))
        return [standing for standing in every if standing.record is None]

    def of_record(self, record: Record) -> Standing | None:
        """Return the replica whose run has an identity; None if somebody else has started it."""
        for spec in self.plugins.specs().values():
            if spec.self_id == record.name:
                for replica in self.plugins.replicas(spec.name):
                    if replica.runtime_id == record.runtime_id:
                        return self._standing(spec, replica)
        return None

    def named(self, text: str) -> PluginSpec | None:
        """Return a plugin by its name on the platform, or by the one that it has for the host."""
        specs = self.plugins.specs()
        if (spec := specs.get(text)) is not None:
            return spec
        return next((spec for spec in specs.values() if spec.self_id == text), None)

    def find(self, text: str) -> PluginSpec:
        """Return a plugin by a name of it, or a runtime id. Raises: ConnectError `not_found`."""
        if (spec := self.named(text)) is not None:
            return spec
        for spec in self.specs():
            ids = [replica.runtime_id for replica in self.plugins.replicas(spec.name)]
            if text and any(runtime_id.startswith(text) for runtime_id in ids):
                return spec
        names = [spec.name for spec in self.specs()]
        known = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
        said = f"it runs {known}" if names else "it runs none"
        raise ConnectError(Code.NOT_FOUND, f"this host runs no plugin {text!r}: {said}")

    def _standing(self, spec: PluginSpec, replica: Replica) -> Standing:
        record = self._records.get(replica.runtime_id) if replica.runtime_id else None
        if record is not None and record.state is not State.GONE:
            return Standing(spec, replica, record, record.state, record.state_since, record.reason)
        return Standing(spec, replica, None, replica.phase.state, replica.since, cut(self._why(replica)))

    def _why(self, replica: Replica) -> str:
        if replica.looping and replica.phase is not Phase.READY:
            return f"crash loop: {self._loop(replica)}"
        return replica.why

    def _loop(self, replica: Replica) -> str:
        """Return how a replica ends again and again."""
        seen = self._seen_of(replica)
        lasting = span(self._wall_clock() - seen.first_failed_at) if seen.first_failed_at else "a row"
        times = "1 time" if replica.failures == 1 else f"{replica.failures} times"
        return f"{seen.ended or replica.why} ({times} in {lasting})"

    # What is wrong

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with plugins that have no identity, each once, and which are outdated."""
        for spec in self.specs():
            wrong = [each for each in self.standings(spec) if each.record is None and self._is_wrong(each)]
            if wrong:
                yield self._problem(max(wrong, key=lambda each: (each.replica.looping, each.state.rank)))
        for name, outdated in self.plugins.outdated().items():
            why = one_line(outdated.why, _MOST_OF_WHY)
            text = f"{name} runs its former code, as the files of now cannot be run: {why}"
            yield Problem(State.DEGRADED, text, outdated.since, what_to_do=_CHECK, managed=name)

    def _is_wrong(self, standing: Standing) -> bool:
        phase = standing.replica.phase
        return standing.replica.looping or phase in (Phase.WAITING, Phase.BACKING_OFF, Phase.FAILED)

    def _problem(self, standing: Standing) -> Problem:
        replica, name = standing.replica, standing.spec.name
        seen = self._seen_of(replica)
        again = (
            f"again in {span(max(0.0, replica.again_at - self._wall_clock()))}"
            if replica.again_at
            else "now again"
        )
        command = "logs"
        if replica.looping:
            text = f"{name} is in a crash loop: {self._loop(replica)}, {again}"
        elif replica.phase is Phase.WAITING:
            text, command = f"{name} {replica.why or 'waits for others'}", "plugins"
        elif replica.phase is Phase.FAILED:
            text = f"{name} has failed, and is not started again: {replica.why}"
        else:
            text = f"{name} has ended, and is started {again}: {replica.why}"
        since = seen.first_failed_at or standing.since
        what_to_do = f"cpg-trio {command} {shlex.quote(name)}"
        return Problem(State.DEGRADED, text, since, what_to_do=what_to_do, managed=name)

    # What happens

    def _changed(self, replica: Replica) -> None:
        spec = self.plugins.specs().get(replica.plugin)
        seen = self._seen.setdefault(id(replica), _Seen(replica))
        if spec is not None:
            for kind, text in self._news(seen, replica):
                self._tell(spec, replica, kind, text)
        if replica.phase is Phase.STOPPED or spec is None:
            self._seen.pop(id(replica), None)
        if spec is None:
            self.restarts.pop(replica.plugin, None)

    def _news(self, seen: _Seen, replica: Replica) -> Iterator[tuple[pb.EventKind, str]]:
        """Yield what is new of a replica, and note that it was told."""
        now, phase = self._wall_clock(), replica.phase
        before, seen.phase = seen.phase, phase
        if phase is Phase.STOPPING and before is Phase.READY and (other := self._in_place_of(replica)):
            yield pb.EVENT_KIND_REPLACED, f"{other.where} has taken the place of {replica.where}"
        if replica.runs != seen.runs and replica.where:
            again = f", run {replica.runs}" if replica.runs > 1 else ""
            yield pb.EVENT_KIND_STARTED, f"{replica.where}{again}"
            self.restarts[replica.plugin] += replica.runs > 1
            seen.runs, seen.started_at = replica.runs, now
        if phase is Phase.READY and before is not Phase.READY:
            yield pb.EVENT_KIND_READY, f"after {duration(max(0.0, now - seen.started_at))}"
        if phase in _OVER and (before is not phase or replica.failures != seen.failures):
            seen.ended = cut(replica.why)
            again_s = replica.again_at - now if replica.again_at is not None else None
            again = f"; again in {duration(max(0.0, again_s))}" if again_s is not None else ""
            yield pb.EVENT_KIND_ENDED, f"{replica.why or 'stopped'}{again}"
        if replica.failures and not seen.failures:
            seen.first_failed_at = now
        elif not replica.failures:
            seen.first_failed_at = 0.0
        seen.failures = replica.failures
        if replica.looping and not seen.looping:
            yield pb.EVENT_KIND_LOOPING, f"crash loop: {self._loop(replica)}"
        seen.looping = replica.looping

    def _seen_of(self, replica: Replica) -> _Seen:
        return self._seen.get(id(replica)) or _Seen(replica)

    def _in_place_of(self, replica: Replica) -> Replica | None:
        """Return the replica that has come in place of another one."""
        for other in self.plugins.replicas(replica.plugin):
            if other is not replica and other.number == replica.number and other.phase is Phase.READY:
                return other
        return None

    def _tell(self, spec: PluginSpec, replica: Replica, kind: pb.EventKind, text: str) -> None:
        which = f"replica {replica.number}: " if spec.replicas > 1 else ""
        self._events.add(
            Event(
                kind=kind,
                text=f"{which}{text}",
                runtime_id=replica.runtime_id,
                name=spec.self_id,
                managed=spec.name,
            ),
            f"managed {spec.name}",
        )
