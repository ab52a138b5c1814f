"""One run of a replica: whether it is ready, whether it hangs, and how it is stopped.

Once a run has been ready (see `readiness`), what it reports is its own affair: a plugin whose dependency has
gone is not helped by a restart. A run is ended when

    it has ended by itself          `Running.wait` returns
    it was told to stop             `stop`
    it is not ready in time         `PluginSpec.start_s`; time in which it waits for a service does not count
    it hangs                        its lease has lapsed for silence; without a lease, it sends no reports
    it calls itself by another name `refused`

An identity that ends otherwise (an operator or the policy has revoked it, it has expired, the plugin has
taken its leave) is not the end of the run: it has to be ready again in time, with another identity.

Whoever runs an external plugin, it is not this host: such a run only follows what the plugin does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import trio

from cpg_trio._lines import one_line
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.host.access import Identity
from cpg_trio.host.directory import SILENT, CannotAskError
from cpg_trio.host.supervision.launcher import EXTERNAL, Ended, Running
from cpg_trio.host.supervision.readiness import why_not_ready
from cpg_trio.host.supervision.spec import Enrol, PluginSpec
from cpg_trio.host.supervision.state import Phase
from cpg_trio.host.supervision.surroundings import Surroundings
from cpg_trio.rpc import Code, ConnectError

_CALL_AGAIN_S = 0.2  # after which a plugin that has not answered is called again
_MOVE_S = 0.2  # for callers that have chosen it, to send to it or to learn of the others
_MOST_AGAIN, _AGAIN_S = 10, 3600.0  # handshakes of a run that has an identity, and in which time
_TO_LEAVE_S = 1.0  # for a plugin whose grace is over, to end by itself
_SILENT_LEASES = 2  # without a report, until a plugin hangs that has registered nothing, and so has no lease


class Status(Protocol):
    """Where a run tells what it is doing."""

    def enter(self, phase: Phase, why: str = "") -> None:
        """Note that the replica is in a phase, and why."""
        ...

    def has_identity(self, runtime_id: str) -> None:
        """Note the identity of the run; empty for none."""
        ...

    def has_proved(self) -> None:
        """Note that the run has been ready for as long as its restart policy asks."""
        ...


class Run:
    """One run, from its start to its end. It is an `access.StartedRun`."""

    def __init__(
        self, host: Surroundings, spec: PluginSpec, status: Status, host_url: str, token: str
    ) -> None:
        self._host = host
        self._host_url = host_url
        self._token = token
        self._spec = spec
        self._status = status
        self.self_id = spec.self_id
        self.runtime_id = ""
        self.ready_since: float | None = None
        """Since when it has been ready, on Trio's clock; None if it is not."""
        self._is_external = spec.launcher.kind == EXTERNAL
        self._ended: Ended | None = None
        self._has_ended = trio.Event()
        self._changed = trio.Event()
        self._refused = ""
        self._again, self._again_until = 0, -math.inf
        self._why_not_adopted = ""
        self._stops = False
        self._has_proved = False
        self._start_by = self._next_start_by()
        self._lost_identity = trio.Event()
        self._answered = ""  # the identity that has answered
        self._report: object = None
        self._reported_at = -math.inf

    @property
    def is_settled(self) -> bool:
        """Whether its plugin has registered. One that somebody else runs may come again at any time."""
        has_registered = bool(self.runtime_id) and self._host.registry.has_registered(self.runtime_id)
        return has_registered and not self._is_external

    @property
    def described(self) -> str:
        """Which plugin it is, for an error."""
        source = f" ({self._spec.source})" if self._spec.source else ""
        return f"the plugin {self._spec.name}{source}"

    # What happens to it

    def bound(self, identity: Identity) -> None:
        """Take another identity. The one that it had before ends, unless it may be a stranger's."""
        before, self.runtime_id = self.runtime_id, identity.runtime_id
        if before and self._spec.enrol is Enrol.TOKEN:
            self._host.end(before, "its plugin has shaken hands again")
            self._count_again()
        self._status.has_identity(self.runtime_id)
        self.look()

    def _count_again(self) -> None:
        """Have a run fail that shakes hands without an end: each identity that has ended is remembered."""
        now = trio.current_time()
        if now >= self._again_until:
            self._again, self._again_until = 0, now + _AGAIN_S
        self._again += 1
        if self._again > _MOST_AGAIN:
            self.refused("it shakes hands again and again, although it has an identity")

    def refused(self, why: str) -> None:
        """Note that it gets no identity, whatever it does."""
        self._refused = why
        self.look()

    def look(self) -> None:
        """Look again at what is known of it, soon."""
        self._changed.set()

    def adjust(self, spec: PluginSpec) -> None:
        """Take another spec, with other times."""
        self._spec = spec
        self.look()

    def stop(self) -> None:
        """Have it stopped in good order."""
        self._stops = True
        self.look()

    # Its life

    async def live(self, running: Running) -> Ended:
        """Watch over it until it has ended, or the block of its launcher is to be left, which ends it."""
        if self._is_external:
            self._find()
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._wait_for_end, running)
            async with open_plain_nursery() as arriving:
                if running.url:
                    arriving.start_soon(self._adopt, running.url)
                if self._spec.enrol is Enrol.NAME:
                    arriving.start_soon(self._ask)
                ended = await self._watch()
                arriving.cancel_scope.cancel()
            if self._stops and self._ended is None and not self._is_external:
                self._status.enter(Phase.STOPPING)
                await self._stop(running)
            nursery.cancel_scope.cancel()
        return ended

    def over(self, why: str) -> None:
        """End its identity with it."""
        self._host.started.take(self)
        runtime_id, self.runtime_id = self.runtime_id, ""
        if runtime_id and not self._is_external:
            self._host.end(runtime_id, why)

    async def _wait_for_end(self, running: Running) -> None:
        self._ended = await running.wait()
        self._has_ended.set()
        self.look()

    async def _adopt(self, url: str) -> None:
        """Call a plugin that waits for its host, until it has registered."""

        def issued(identity: Identity) -> None:
            self._host.started.give(identity, self)

        while True:
            self._lost_identity = lost = trio.Event()
            try:
                await self._host.adopt(url, self._host_url, self.self_id, self._token, issued)
            except ConnectError as error:
                self._why_not_adopted = one_line(error.message)
                if error.code is Code.FAILED_PRECONDITION:
                    self.refused(self._why_not_adopted)
                self.look()
                await trio.sleep(_CALL_AGAIN_S)
            else:
                await lost.wait()

    def _find(self) -> None:
        """Take the identity of a plugin that is there already, if no other run has it."""
        identities, registry = self._host.identities, self._host.registry
        for runtime_id in registry.plugins():
            entry = identities.entry(runtime_id)
            if entry is None or entry.identity.self_id != self.self_id or registry.has_lapsed(runtime_id):
                continue
            if self._host.started.run_of(runtime_id) is None:
                self._host.started.give(entry.identity, self)
                return

    async def _ask(self) -> None:
        """Ask a plugin of another SDK until it answers: it may register before it listens."""
        while True:
            asked = self.runtime_id
            if not asked or asked == self._answered or not self._host.registry.has_registered(asked):
                await self._changed.wait()
            elif await self._answers(asked):
                self._answered = asked
                self.look()
            else:
                await trio.sleep(_CALL_AGAIN_S)

    async def _answers(self, runtime_id: str) -> bool:
        try:
            return await self._host.probe(runtime_id)
        except CannotAskError:
            return False

    async def _watch(self) -> Ended:
        while True:
            changed = self._changed = trio.Event()
            if (ended := self._end()) is not None:
                return ended
            with trio.move_on_at(min(self._next_looks())):
                await changed.wait()

    def _end(self) -> Ended | None:
        """Return how it has ended, or why it has to; None if it goes on."""
        if self._stops and self._ended is None:
            return Ended(failed=False, how="stopped")
        if self._refused:
            return Ended(failed=True, how=self._refused)
        if self._ended is not None:
            return self._ended
        if hangs := self._look_at_identity():
            return Ended(failed=True, how=hangs)
        why_not = self._why_not_ready()
        now = trio.current_time()
        if self.ready_since is None and not why_not:
            self.ready_since = now
            self._status.enter(Phase.READY)
        elif self.ready_since is None:
            self._status.enter(Phase.STARTING, why_not)
            if now >= self._start_by:
                return Ended(
                    failed=True, how=f"not ready within {self._spec.start_s:g} s", detail=self._late(why_not)
                )
        elif not self._has_proved and now >= self.ready_since + self._spec.restart.reset_s:
            self._has_proved = True
            self._status.has_proved()
        return None

    def _late(self, why_not: str) -> str:
        """Return why it was not ready in time, and what its author can do."""
        program = "" if self.runtime_id else ', or ready = "running" if it is a program and no plugin'
        source = f" ({self._spec.source})" if self._spec.source else ""
        return f"{why_not}; give it a longer `start`{program}{source}"

    def _next_looks(self) -> Iterator[float]:
        """Yield the times at which there may be something to do, whatever happens."""
        yield math.inf
        if self.ready_since is None:
            yield self._start_by
            return
        if not self._has_proved:
            yield self.ready_since + self._spec.restart.reset_s
        if self._reports_without_lease() or not self._host.is_up_to_date():
            yield trio.current_time() + self._host.lease_s

    # What is known of it

    def _look_at_identity(self) -> str:
        """Bring up to date what is known of its identity; return why it hangs, empty if it does not."""
        if not self.runtime_id:
            return ""
        if self._host.identities.entry(self.runtime_id) is None:
            return self._identity_has_ended()
        if not self._host.is_up_to_date():
            return ""
        if self._host.registry.has_lapsed(self.runtime_id):
            return self._has_lapsed(self._host.registry.why_lapsed(self.runtime_id))
        if self._reports_without_lease():
            now, report = trio.current_time(), self._host.registry.last_report(self.runtime_id)
            if report is not self._report:
                self._report, self._reported_at = report, now
            elif now >= self._reported_at + _SILENT_LEASES * self._host.lease_s and not self._is_external:
                return f"it hangs: {SILENT}"
        return ""

    def _identity_has_ended(self) -> str:
        ended = self._host.identities.ended(self.runtime_id)
        why = ended.why if ended is not None else "it was dropped"
        self._lose_readiness(f"its identity has ended: {why}")
        self._host.started.take(self)
        self.runtime_id = ""
        self._status.has_identity("")
        self._lost_identity.set()
        if ended is not None and ended.by_owner and SILENT in why and not self._is_external:
            return f"it hangs: {why}"
        return ""

    def _has_lapsed(self, why: str) -> str:
        if self._is_external:
            self._lose_readiness(f"lapsed: {why}")
        elif why == SILENT:
            return f"it hangs: {SILENT} for {self._host.lease_s:g} s"
        return ""

    def _lose_readiness(self, why: str) -> None:
        if self.ready_since is not None:
            self.ready_since, self._start_by = None, self._next_start_by()
            self._status.enter(Phase.STARTING, why)

    def _next_start_by(self) -> float:
        return math.inf if self._is_external else trio.current_time() + self._spec.start_s

    def _reports_without_lease(self) -> bool:
        registry = self._host.registry
        return (
            bool(self.runtime_id)
            and not registry.has_registered(self.runtime_id)
            and registry.last_report(self.runtime_id) is not None
        )

    def _why_not_ready(self) -> str:
        """Return what it has to do before it is ready; empty if it is."""
        entry = self._host.identities.entry(self.runtime_id)
        identity = entry.identity if entry is not None else None
        answered = self._answered == self.runtime_id
        not_ready = why_not_ready(self._spec, identity, self._host.registry, has_answered=answered)
        if not_ready is None:
            return ""
        if not_ready.waits:
            self._start_by = self._next_start_by()
        return self._why_not_adopted if identity is None and self._why_not_adopted else not_ready.why

    # Its stop

    async def _stop(self, running: Running) -> None:
        """Ask it to stop, and wait: first by a call, so that its calls in flight finish, then by a signal."""
        if not self._spec.stop_s:
            return
        with trio.move_on_after(self._spec.stop_s + _TO_LEAVE_S):
            if await self._is_shutting_down():
                await self._has_ended.wait()
        if self._ended is None:
            running.stop()
            with trio.move_on_after(self._spec.stop_s):
                await self._has_ended.wait()

    async def _is_shutting_down(self) -> bool:
        """Give it no new calls, and ask it to stop; return whether it has agreed."""
        runtime_id, registry = self.runtime_id, self._host.registry
        if not runtime_id or not registry.has_registered(runtime_id) or registry.has_lapsed(runtime_id):
            return False
        others_provide = any(
            each.runtime_id != runtime_id and each.id in registry.callable_ids
            for registration in registry.registrations(runtime_id)
            for each in registry.providers(registration.service_type)
        )
        registry.drain(runtime_id, "the host stops it")
        if others_provide:
            with trio.move_on_after(_MOVE_S):
                await self._has_ended.wait()
        try:
            grace_s = math.ceil(self._spec.stop_s)
            await self._host.shut_down(runtime_id, grace_s=grace_s, reason="the host stops it")
        except ConnectError:
            return False
        return True


def in_words(ended: Ended) -> str:
    """Return how a run has ended, in one line."""
    return f"{ended.how}: {ended.detail}" if ended.detail else ended.how
