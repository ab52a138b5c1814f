"""Leases: the host's knowledge that a plugin is alive, and what follows when it is not.

**A lease is a cancel scope.** The host holds one open for each plugin that has registered something. A
heartbeat, which is any health report, moves its deadline. A plugin that sends none (one that speaks only the
wire protocol sends none) is asked by the host itself how it is, and its answer counts as much.

    alive ── a lease passes without a word ──▶ lapsed ── another one passes ──▶ gone
      ▲                                          │
      └────────── a heartbeat, a probe ◀─────────┘

A plugin that has lapsed gets no calls, and its watchers hear of it. One that is gone is out of the registry,
the calls in flight to it end at once, and its identity proves nothing any more: if it is there after all, it
has to shake hands anew. One that takes leave (it reports that it is unhealthy, and unregisters all) is out of
the registry at once; its identity ends two leases later, as it may still have calls to finish.

A plugin that was registered before the host began has lapsed until the host has heard of it, and is asked at
once.

A lease is about the plugin, so what happens to the host does not count. For as long as the host was held up
(see `stalls`) every lease is longer, and after it there is time to read what has come meanwhile, and to ask.
While the host cannot ask a plugin, for want of file descriptors say, the plugin's lease stands still: the
host could not call it either, and the first call that can be made tells.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import attrs
import trio
from attrs.validators import gt, lt

from cpg_trio._throttle import LogThrottle
from cpg_trio.host.directory.registration import Change
from cpg_trio.host.directory.registry import Registry
from cpg_trio.host.directory.stalls import Stalls

_log = logging.getLogger("cpg_trio.host")

Probe: TypeAlias = Callable[[str], Awaitable[bool]]
"""Asks a plugin, by its runtime id, how it is; returns whether it answered. Raises: CannotAskError."""

_SECONDS = [gt(0.0), lt(math.inf)]
_LATE = 1.5  # heartbeats after which a plugin counts as silent, and is probed
_PROBES_AT_ONCE = 250  # many more would make each other late
_TICKS = 20  # in a lease, by which it is measured whether the host is held up
_SHORTEST_TICK_S = 0.1
_QUIET_S = 60.0  # between two lines of the log that say that plugins cannot be asked
_SILENT = "no sign of life"
_LEFT = "it has taken its leave"
NOT_HEARD_OF = "not heard of since the host began"


class CannotAskError(Exception):
    """A plugin could not be asked, for a reason of the host's own; the message says which."""


@attrs.frozen(kw_only=True)
class LeaseConfig:
    """How soon the host believes that a plugin is gone. In seconds; the rest follows from the lease.

    Raises: ValueError for a time that is not more than zero, or has no end.
    """

    lease_s: float = attrs.field(default=15.0, validator=_SECONDS)
    """Without a word, until a plugin has lapsed; after as long again it is gone."""
    heartbeat_s: float = attrs.field(validator=_SECONDS)
    """Between the heartbeats that plugins are asked for, and between the probes of those that send none."""
    probe_timeout_s: float = attrs.field(validator=_SECONDS)
    """What a plugin has to answer a probe."""

    @heartbeat_s.default
    def _three_a_lease(self) -> float:
        return self.lease_s / 3

    @probe_timeout_s.default
    def _within_a_heartbeat(self) -> float:
        return min(2.0, self.heartbeat_s)


class Liveness:
    """Supervises the plugins of a registry, each with a task in one nursery.

    `forget` is called with the runtime id of a plugin that is gone, once it is out of the registry, and why.
    """

    def __init__(
        self, registry: Registry, config: LeaseConfig, probe: Probe, forget: Callable[[str, str], object]
    ) -> None:
        self._registry = registry
        self._config = config
        self._probe = probe
        self._forget = forget
        self._leases: dict[str, _Lease] = {}
        self._leaving: dict[str, trio.CancelScope] = {}  # those that have taken leave, and not come back
        self._probing = trio.CapacityLimiter(_PROBES_AT_ONCE)
        self._throttle = LogThrottle(_QUIET_S)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise until cancelled.

        Started when those that were there before have been probed, or the time for a probe is over.
        """
        config = self._config
        self._stalls = Stalls(max(config.lease_s / _TICKS, _SHORTEST_TICK_S), config.heartbeat_s)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stalls.run)
            with self._registry.watched(partial(self._changed, nursery)):
                with trio.move_on_after(self._config.probe_timeout_s):
                    async with trio.open_nursery() as probes:
                        for plugin in self._registry.plugins():
                            self._plugin_changed(nursery, plugin)
                            probes.start_soon(self._probe_once, plugin, self._leases[plugin])
                for plugin in (plugin for plugin, lease in self._leases.items() if lease.lapsed):
                    _log.warning("%s is registered, but %s", plugin, NOT_HEARD_OF)
                task_status.started()
                await trio.sleep_forever()

    def beat(self, runtime_id: str) -> None:
        """Note that a plugin has given a sign of life."""
        if (lease := self._leases.get(runtime_id)) is not None:
            lease.renew()

    def suspect(self, runtime_id: str) -> None:
        """Note that a plugin could not be reached. It gets no calls until it gives a sign of life.

        What fails when the host has just been held up may have failed for that.
        """
        if not self._was_held_up():
            self.lapse(runtime_id)

    def lapse(self, runtime_id: str) -> None:
        """Send a plugin no calls until it gives a sign of life."""
        if (lease := self._leases.get(runtime_id)) is not None:
            lease.lapse()

    def _was_held_up(self) -> bool:
        self._stalls.total_s()
        return trio.current_time() < self._stalls.last_end + self._config.probe_timeout_s

    def _changed(self, nursery: trio.Nursery, change: Change) -> None:
        if change.of_registration:
            self._plugin_changed(nursery, change.registration.runtime_id)

    def _plugin_changed(self, nursery: trio.Nursery, runtime_id: str) -> None:
        registered = self._registry.has_registered(runtime_id)
        lease = self._leases.get(runtime_id)
        if registered and lease is None:
            if (leave := self._leaving.pop(runtime_id, None)) is not None:
                leave.cancel()
            lapsed = self._registry.has_lapsed(runtime_id)
            lease = self._leases[runtime_id] = _Lease(self._config, self._stalls, lapsed=lapsed)
            nursery.start_soon(self._supervise, runtime_id, lease)
        elif not registered and lease is not None:
            del self._leases[runtime_id]
            lease.release()
            if not self._registry.health(runtime_id).callable:
                leave = self._leaving[runtime_id] = trio.CancelScope()
                nursery.start_soon(self._see_off, runtime_id, leave)

    def sees_off(self, runtime_id: str) -> bool:
        """Whether a plugin has taken leave, and its identity is about to end."""
        return runtime_id in self._leaving

    async def _supervise(self, runtime_id: str, lease: _Lease) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe_when_silent, runtime_id, lease)
            gone = await lease.hold(lambda lapsed: self._set_lapsed(runtime_id, lapsed))
            nursery.cancel_scope.cancel()
        if gone and self._leases.get(runtime_id) is lease:
            self._remove(runtime_id)

    def _set_lapsed(self, runtime_id: str, lapsed: bool) -> None:  # noqa: FBT001 - what is set
        _log.warning("%s %s", runtime_id, f"has lapsed: {_SILENT}" if lapsed else "is back")
        self._registry.set_lapsed(runtime_id, _SILENT if lapsed else "")

    async def _probe_when_silent(self, runtime_id: str, lease: _Lease) -> None:
        late_s = self._config.heartbeat_s * _LATE
        while True:
            await trio.sleep_until(lease.last_sign + late_s)
            if trio.current_time() < lease.last_sign + late_s:
                continue  # there has been one meanwhile
            stalled_s = self._stalls.total_s()
            await self._probe_once(runtime_id, lease)
            if self._stalls.total_s() == stalled_s:  # else it was the host that had no time for the answer
                await trio.sleep(self._config.heartbeat_s)

    async def _probe_once(self, runtime_id: str, lease: _Lease) -> None:
        async with self._probing:
            with trio.move_on_after(self._config.probe_timeout_s):
                try:
                    if await self._probe(runtime_id):
                        lease.renew()
                except CannotAskError as error:
                    lease.hold_until_next_probe()
                    self._tell(error)
                except Exception:  # noqa: BLE001 - a plugin has said where to ask, and what comes back
                    _log.exception("the probe of %s failed, which counts as no answer", runtime_id)

    def _tell(self, error: CannotAskError) -> None:
        """Log that plugins cannot be asked, once in a while."""
        if (more := self._throttle.suffix()) is not None:
            _log.warning("plugins that send no heartbeats cannot be asked how they are: %s%s", error, more)

    async def _see_off(self, runtime_id: str, leave: trio.CancelScope) -> None:
        """Forget a plugin that has taken leave, unless it has come back within two leases."""
        with leave:
            await trio.sleep(2 * self._config.lease_s)  # for calls that it finishes, and makes others for
        if self._leaving.get(runtime_id) is not leave:
            return  # it has come back meanwhile, and may have taken leave anew
        del self._leaving[runtime_id]
        if not self._registry.health(runtime_id).callable:
            self._registry.remove_plugin(runtime_id)
            self._forget(runtime_id, _LEFT)

    def _remove(self, runtime_id: str) -> None:
        _log.warning("%s is gone", runtime_id)
        self._registry.remove_plugin(runtime_id)
        self._forget(runtime_id, f"{_SILENT} for {2 * self._config.lease_s:g} s")
        self._registry.cancel_calls(runtime_id)


class _Lease:
    """One plugin's lease: a cancel scope around the wait for its next end, which signs of life move."""

    def __init__(self, config: LeaseConfig, stalls: Stalls, *, lapsed: bool = False) -> None:
        self._config = config
        self._stalls = stalls
        self._suspected = self._told_lapsed = lapsed
        self._released = False
        self._wait = trio.CancelScope()
        self._not_before = -math.inf
        self._note_sign()

    @property
    def lapsed(self) -> bool:
        """Whether it has been silent for too long, or was suspected, since its last sign of life."""
        return self._suspected or trio.current_time() >= self._end(1)

    async def hold(self, on_change: Callable[[bool], None]) -> bool:
        """Hold the lease; tell `on_change` when it lapses and when it does not. Return whether it ran out."""
        while not self._released:
            if self.lapsed is not self._told_lapsed:
                self._told_lapsed = not self._told_lapsed
                on_change(self._told_lapsed)
            if trio.current_time() >= self._end(2):
                return True
            with trio.CancelScope(deadline=self._next_end()) as self._wait:
                await trio.sleep_forever()
        return False

    def renew(self) -> None:
        """Hear a sign of life."""
        self._note_sign()
        self._suspected = False
        if self._told_lapsed:
            self._wait.cancel()
        else:
            self._wait.deadline = self._next_end()

    def lapse(self) -> None:
        """Have no calls go to the plugin until its next sign of life."""
        self._suspected = True
        self._wait.cancel()

    def hold_until_next_probe(self) -> None:
        """Let the lease stand still: the plugin could not be asked."""
        next_probe_s = self._config.heartbeat_s + self._config.probe_timeout_s
        self._not_before = trio.current_time() + next_probe_s

    def release(self) -> None:
        """End it: the plugin has registered nothing any more."""
        self._released = True
        self._wait.cancel()

    def _note_sign(self) -> None:
        self.last_sign = trio.current_time()
        self._stalled_s = self._stalls.total_s()

    def _next_end(self) -> float:
        return self._end(2 if self._told_lapsed else 1)

    def _end(self, leases: int) -> float:
        """Return when so many leases have passed without a sign of life, as far as is known by now."""
        stalled_s = self._stalls.total_s() - self._stalled_s
        end = self.last_sign + leases * self._config.lease_s + stalled_s
        if stalled_s:
            end = max(end, self._stalls.last_end + self._config.probe_timeout_s)
        return max(end, self._not_before)
