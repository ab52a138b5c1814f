"""The supervisor of one replica: it starts runs one after the other, until it is told to stop.

    WAITING ──▶ STARTING ──▶ READY ──▶ STOPPING ──▶ STOPPED
                 ▲   │         │
                 │   ▼         ▼
                BACKING_OFF ◀──┘        or STOPPED, FAILED: where the restart policy starts it no more

There is never more than one run: the next one begins when the block of the former one has been left. A run
that cannot be started counts as one that has failed. A supervisor whose policy starts its plugin no more
stays, so that the plugin can be restarted.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import attrs
import trio

from cpg_trio._listeners import Listeners
from cpg_trio.host.supervision.launcher import EXTERNAL, Assignment, Ended, LaunchError
from cpg_trio.host.supervision.output import OutputBook
from cpg_trio.host.supervision.runs import Run, in_words
from cpg_trio.host.supervision.spec import Enrol, PluginSpec, Restart
from cpg_trio.host.supervision.state import Phase, Replica, replica_title
from cpg_trio.host.supervision.surroundings import Surroundings

log = logging.getLogger("cpg_trio.host.plugins")

_IDLE = (Phase.STOPPED, Phase.FAILED)
_TOKEN_BYTES = 32


@attrs.define(eq=False)
class _Attempt:
    """One time that a replica is started on request: until it is ready, or its run has ended before that."""

    done: trio.Event = attrs.field(factory=trio.Event)
    error: str = ""

    def settle(self, error: str = "") -> None:
        if not self.done.is_set():
            self.error = error
            self.done.set()


class Turns:
    """Whom a plugin has to wait for before it is started."""

    def __init__(self, waits_for: Callable[[str], Sequence[str]]) -> None:
        self.waits_for = waits_for
        self._changed = trio.Event()

    def changed(self) -> None:
        """Have all look again at whom they wait for."""
        self._changed.set()
        self._changed = trio.Event()

    async def taken(self, name: str) -> AsyncIterator[Sequence[str]]:
        """Yield whom a plugin waits for, each time that this changes, until it waits for nobody."""
        while names := self.waits_for(name):
            yield names
            await self._changed.wait()


class Supervisor:
    """Keeps one replica running."""

    def __init__(
        self,
        host: Surroundings,
        spec: PluginSpec,
        number: int,
        *,
        on_trial: bool = False,
        host_url: str,
        turns: Turns,
        changes: Listeners[Replica],
        output: OutputBook,
    ) -> None:
        self.spec = spec
        self.replica = Replica(spec.name, number, since=time.time())
        self.was_ready = False
        """Whether it has been ready since it was added."""
        self.stopped = trio.Event()
        """Set when it has ended, and its last run with it."""
        self._on_trial = on_trial
        self._host = host
        self._host_url = host_url
        self._turns = turns
        self._changes = changes
        self._output = output
        self._attempt = _Attempt()
        self._all = trio.CancelScope()
        self._wait = trio.CancelScope()
        self._entering: trio.CancelScope | None = None
        self._run: Run | None = None
        self._stops = False
        self._restarts = False

    # For those who manage it

    async def run(self) -> None:
        """Supervise until `stop` or `end`. An error of a launcher is a failed run."""
        try:
            with self._all:
                await self._take_turn()
                while not self._stops:
                    await self._live_once()
        finally:
            self._attempt.settle("it was stopped")
            if self.replica.phase not in _IDLE or self._stops:
                self.enter(Phase.STOPPED)
            self.stopped.set()

    async def ready(self) -> None:
        """Wait until it is ready.

        Raises: LaunchError when its run has ended before that, or it is stopped.
        """
        attempt = self._attempt
        await attempt.done.wait()
        if attempt.error:
            source = f"{self.spec.source}: " if self.spec.source else ""
            raise LaunchError(f"{source}{self.title}: {attempt.error}")

    def stop(self) -> None:
        """Stop it in good order; `stopped` tells when that is done."""
        self._stops = True
        self._interrupt()

    def end(self) -> None:
        """End it at once, by force."""
        self._stops = True
        self._all.cancel()

    def adjust(self, spec: PluginSpec) -> None:
        """Take another spec, of which its run knows nothing."""
        self.spec = spec
        if self._run is not None:
            self._run.adjust(spec)

    def take_over(self) -> None:
        """Give its run calls from now on: it is on trial no more."""
        self._on_trial = False
        if self.replica.runtime_id:
            self._host.registry.undrain(self.replica.runtime_id)

    def hand_over(self) -> None:
        """Give its run no calls from now on. `stop` comes next."""
        if self.replica.runtime_id:
            self._host.registry.drain(self.replica.runtime_id, "others take its calls")

    def restart(self) -> None:
        """Stop its run in good order, and start another one at once; `ready` waits for that."""
        self._attempt.settle("it is restarted")
        self._attempt = _Attempt()
        self.replica.failures, self.replica.looping = 0, False
        self._restarts = True
        self._interrupt()

    def _interrupt(self) -> None:
        self._wait.cancel()
        if self._entering is not None:
            self._entering.cancel()
        if self._run is not None:
            self._run.stop()

    @property
    def title(self) -> str:
        """Its name, for people."""
        return replica_title(self.spec.name, self.replica.number)

    # Its runs

    async def _take_turn(self) -> None:
        with trio.CancelScope() as self._wait:
            async for names in self._turns.taken(self.spec.name):
                self.enter(Phase.WAITING, f"waits for {', '.join(names)}")

    async def _live_once(self) -> None:
        """Start it, watch over the run until it has ended, and wait for as long as has to be."""
        self._restarts = False
        self.replica.runs += 1
        ended = await self._one_run()
        if self._stops or self._restarts:
            return
        how = in_words(ended)
        self._attempt.settle(how)
        with trio.CancelScope() as self._wait:
            await self._pause(ended, how)

    async def _one_run(self) -> Ended:
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        run = Run(self._host, self.spec, self, self._host_url, token)
        by_token = token if self.spec.enrol is Enrol.TOKEN else None
        ended: Ended | None = None
        failed = f"not started within {self.spec.start_s:g} s"
        self.enter(Phase.STARTING)
        try:
            with self._host.started.expected(run, by_token), self._starting() as scope:
                async with self.spec.launcher.launch(self._assignment(token)) as running:
                    self._run, self._entering, scope.deadline = run, None, math.inf
                    self.replica.where, self.replica.pid = running.where, running.pid
                    self._tell()
                    ended = await run.live(running)
        except* LaunchError as errors:
            failed = str(_first(errors))
        except* Exception as errors:
            # Whoever wrote the launcher: it is its run that has failed.
            log.exception("the launcher of %s has failed", self.title)
            failed = f"its launcher has failed: {_first(errors)!r}"
        finally:
            self._run = None
            run.over(in_words(ended) if ended else failed)
            self.replica.where, self.replica.pid, self.replica.runtime_id = "", None, ""
        return ended or Ended(failed=True, how=failed)

    @contextmanager
    def _starting(self) -> Iterator[trio.CancelScope]:
        """Yield a scope that ends what is started, until it has started."""
        is_external = self.spec.launcher.kind == EXTERNAL
        start_by = math.inf if is_external else trio.current_time() + self.spec.start_s
        with trio.CancelScope(deadline=start_by) as scope:
            self._entering = scope
            try:
                yield scope
            finally:
                self._entering = None

    def _assignment(self, token: str) -> Assignment:
        spec, number = self.spec, self.replica.number
        return Assignment(
            plugin=spec.name,
            replica=number,
            self_id=spec.self_id,
            host_url=self._host_url,
            enrolment_token=token,
            output=self._output.writer(spec.name, number),
            logged=partial(self._output.add, spec.name, number),
            local=self._host.local(self.title),
            stop_s=spec.stop_s,
            socket_dir=self._host.socket_dir,
        )

    async def _pause(self, ended: Ended, how: str) -> None:
        """Wait until the next run is due; for ever, if none is."""
        replica, policy = self.replica, self.spec.restart
        if policy.when is Restart.NEVER or (policy.when is Restart.ON_FAILURE and not ended.failed):
            self.enter(Phase.FAILED if ended.failed else Phase.STOPPED, how)
            await trio.sleep_forever()
        replica.failures += 1
        longest_s = min(policy.most_s, policy.first_s * 2.0 ** min(replica.failures - 1, 64))
        wait_s = longest_s / 2 * (1 + self._host.rng.random())
        replica.again_at = time.time() + wait_s
        if replica.failures >= policy.loop_after and not replica.looping:
            replica.looping = True
            log.error("%s is in a crash loop: %d runs in a row have failed", self.title, replica.failures)
        self.enter(Phase.BACKING_OFF, how)
        await trio.sleep(wait_s)

    # What a run tells

    def enter(self, phase: Phase, why: str = "") -> None:
        """Note that the replica is in a phase, and why."""
        replica = self.replica
        if (replica.phase, replica.why) == (phase, why) and replica.phase is not Phase.BACKING_OFF:
            return
        is_other = phase is not replica.phase
        if is_other:
            replica.since = time.time()
        replica.phase, replica.why = phase, why
        if phase is not Phase.BACKING_OFF:
            replica.again_at = None
        if phase is Phase.READY:
            self.was_ready = True
            self._attempt.settle()
        level = logging.INFO if is_other else logging.DEBUG
        level = logging.WARNING if phase in (Phase.BACKING_OFF, Phase.FAILED) else level
        log.log(level, "%s: %s%s", self.title, phase.value, f": {why}" if why else "")
        self._tell()

    def has_identity(self, runtime_id: str) -> None:
        """Note the identity of the run; empty for none."""
        if self.replica.runtime_id != runtime_id:
            self.replica.runtime_id = runtime_id
            if runtime_id and self._on_trial:
                self._host.registry.drain(runtime_id, "it is on trial: the one before takes its calls")
            self._tell()

    def has_proved(self) -> None:
        """Begin to count failures anew: it has been ready for a while."""
        self.replica.failures, self.replica.looping = 0, False
        self._tell()

    def _tell(self) -> None:
        self._changes.tell(self.replica)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
