"""Leases: whether the host believes that a plugin is alive, and what follows when it does not.

The host holds a lease for each plugin that has registered something: a state, and a cancel scope with the
deadline of that state. A heartbeat, which is any health report, moves the deadline. A plugin that sends none
(one that knows only the wire protocol sends none) is asked by the host, and its answer counts as much.

A plugin that has lapsed gets no calls, and its watchers are told. One that is gone is out of the registry,
the calls in flight to it end at once, and its identity has ended: if it is there after all, it has to shake
hands anew. One that leaves (it reports that it is unhealthy, and unregisters all) is out of the registry at
once; its identity ends two leases later, as it may still have calls to finish.

A plugin that was registered before the host began has lapsed until it gives a sign of life. It is asked at
once. In a directory that several hosts share, each host holds the leases of the plugins that it owns. One
whose owner is gone is adopted: its lease goes on as the former owner is believed to have left it, and does
not end before the plugin has been asked once.

What happens to the host does not count against a plugin. For as long as the host was held up (see `stalls`)
every lease is longer, and after it there is time to read what has come meanwhile, and to ask. While the host
cannot ask a plugin, for want of file descriptors say, the plugin's lease stands still: the host could not
call it either.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from enum import Enum, auto
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


class State(Enum):
    """The state of a lease."""

    ALIVE = auto()
    LAPSED = auto()
    """No sign of life for a lease, or it could not be reached."""
    LEAVING = auto()
    """It has unregistered all, and has called itself unhealthy."""
    GONE = auto()
    LEFT = auto()
    ENDED = auto()
    """It has unregistered all without leaving, or has come back: then another lease begins. Or another host
    owns the plugin."""


class Event(Enum):
    """What can happen to a lease."""

    SIGN = auto()
    """A health report, or the answer to a probe."""
    SUSPECTED = auto()
    """The plugin could not be reached, or another one has taken its place."""
    DEADLINE = auto()
    """The deadline of the state has passed."""
    LEAVE = auto()
    UNREGISTERED = auto()
    RELEASED = auto()
    """The host does not own the plugin any more."""


# Other events mean nothing in a state.
TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.ALIVE: {
        Event.SIGN: State.ALIVE,
        Event.SUSPECTED: State.LAPSED,
        Event.DEADLINE: State.LAPSED,
        Event.LEAVE: State.LEAVING,
        Event.UNREGISTERED: State.ENDED,
        Event.RELEASED: State.ENDED,
    },
    State.LAPSED: {
        Event.SIGN: State.ALIVE,
        Event.DEADLINE: State.GONE,
        Event.LEAVE: State.LEAVING,
        Event.UNREGISTERED: State.ENDED,
        Event.RELEASED: State.ENDED,
    },
    State.LEAVING: {
        Event.DEADLINE: State.LEFT,
        Event.UNREGISTERED: State.ENDED,
        Event.RELEASED: State.ENDED,
    },
    State.GONE: {},
    State.LEFT: {},
    State.ENDED: {},
}
# How many leases after the last sign of life, or after the leave, the deadline of a state is.
_LEASES = {State.ALIVE: 1, State.LAPSED: 2, State.LEAVING: 2}
_SUPERVISED = {State.ALIVE, State.LAPSED}
_FINAL = {state for state, events in TRANSITIONS.items() if not events}
_RESTARTING = {Event.SIGN, Event.LEAVE}  # events from which the deadline counts

_SECONDS = [gt(0.0), lt(math.inf)]
_LATE = 1.5  # heartbeats after which a plugin counts as silent, and is probed
_PROBES_AT_ONCE = 250  # many more would make each other late
_TICKS = 20  # in a lease, by which it is measured whether the host is held up
_SHORTEST_TICK_S = 0.1
_QUIET_S = 60.0  # between two lines of the log that say that plugins cannot be asked
SILENT = "no sign of life"
_UNREACHABLE = "it could not be reached"
LEFT = "it has taken its leave"
NOT_HEARD_OF = "not heard of since the host began"


class CannotAskError(Exception):
    """A plugin could not be asked, for a reason of the host's own; the message says which."""


@attrs.frozen(kw_only=True)
class LeaseConfig:
    """How soon the host believes that a plugin is gone, in seconds. Defaults follow from the lease.

    Raises: ValueError for a time that is not above zero and finite.
    """

    lease_s: float = attrs.field(default=15.0, validator=_SECONDS)
    """Without a sign of life, until a plugin has lapsed; after as long again it is gone."""
    heartbeat_s: float = attrs.field(validator=_SECONDS)
    """Between the heartbeats that plugins are asked for, and between the probes of those that send none."""
    probe_timeout_s: float = attrs.field(validator=_SECONDS)
    """For the answer to a probe."""

    @heartbeat_s.default
    def _three_a_lease(self) -> float:
        return self.lease_s / 3

    @probe_timeout_s.default
    def _within_a_heartbeat(self) -> float:
        return min(2.0, self.heartbeat_s)


@attrs.frozen
class LeaseTimes:
    """What a lease says of its plugin now, in seconds."""

    left_s: float
    """Until the state of the lease ends unless something happens; below 0 if that is due."""
    silent_s: float
    """Since the last sign of life."""


class Liveness:
    """Supervises the plugins of a registry, each with a task in one nursery.

    `forget` is called with the runtime id of a plugin that is gone, and with the reason. Then the plugin
    leaves the registry. `owns` tells by a runtime id whether this host supervises a plugin.
    """

    _nursery: trio.Nursery

    def __init__(
        self,
        registry: Registry,
        config: LeaseConfig,
        probe: Probe,
        forget: Callable[[str, str], object],
        owns: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._registry = registry
        self._config = config
        self._probe = probe
        self._forget = forget
        self._owns = owns
        self._late_s = config.heartbeat_s * _LATE
        self._leases: dict[str, _Lease] = {}
        self._asked: set[str] = (
            set()
        )  # plugins that other hosts could not reach, for as long as they are asked
        self._probing = trio.CapacityLimiter(_PROBES_AT_ONCE)
        self._throttle = LogThrottle(_QUIET_S)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise until cancelled.

        Started when the plugins that were registered before have been probed, or their time to answer is
        over.
        """
        config = self._config
        self._stalls = Stalls(max(config.lease_s / _TICKS, _SHORTEST_TICK_S), config.heartbeat_s)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stalls.run)
            self._nursery = nursery
            with self._registry.changes.added(self._changed):
                with trio.move_on_after(self._config.probe_timeout_s):
                    async with trio.open_nursery() as probes:
                        for plugin in filter(self._owns, self._registry.plugins()):
                            self._plugin_changed(plugin)
                            probes.start_soon(self._probe_once, plugin, self._leases[plugin])
                for plugin, lease in self._leases.items():
                    if lease.state is State.LAPSED:
                        _log.warning("%s is registered, but %s", plugin, NOT_HEARD_OF)
                task_status.started()
                await trio.sleep_forever()

    def beat(self, runtime_id: str) -> None:
        """Note that a plugin has given a sign of life."""
        self._happened(runtime_id, Event.SIGN)

    def suspect(self, runtime_id: str) -> None:
        """Note that a plugin could not be reached. It gets no calls until it gives a sign of life.

        Does nothing just after the host was held up, as that may have been the reason.
        """
        self._stalls.total_s()
        if trio.current_time() >= self._stalls.last_end + self._config.probe_timeout_s:
            self.lapse(runtime_id, _UNREACHABLE)

    async def ask(self, runtime_id: str) -> None:
        """Ask a plugin at once that could not be reached from elsewhere. It lapses if it does not answer."""
        lease = self._leases.get(runtime_id)
        if lease is None or lease.state is not State.ALIVE or runtime_id in self._asked:
            return
        last_sign = lease.last_sign
        self._asked.add(runtime_id)
        try:
            was_silent = await self._probe_once(runtime_id, lease)
        finally:
            self._asked.remove(runtime_id)
        if was_silent and lease.last_sign == last_sign and self._leases.get(runtime_id) is lease:
            self.suspect(runtime_id)

    def lapse(self, runtime_id: str, why: str) -> None:
        """Send a plugin no calls until it gives a sign of life."""
        if (lease := self._leases.get(runtime_id)) is not None:
            lease.suspected(why)

    def adopt(self, runtime_id: str, last_sign: float) -> None:
        """Supervise a plugin that another host has supervised, if it has registered something.

        `last_sign` is the last sign of life that may be assumed, on Trio's clock; not longer ago than a
        lease. The plugin is asked at once, and does not lapse before that.
        """
        if not self._registry.has_registered(runtime_id) or runtime_id in self._leases:
            return
        lease = self._begin(runtime_id)
        now = trio.current_time()
        lease.adopted(max(now - self._config.lease_s, min(last_sign, now - self._late_s)))
        self._nursery.start_soon(self._supervise, runtime_id, lease)

    def release(self, runtime_id: str) -> None:
        """Supervise a plugin no more, as this host does not own it. Nothing else follows from that."""
        self._happened(runtime_id, Event.RELEASED)

    def is_leaving(self, runtime_id: str) -> bool:
        """Whether a plugin has left, and its identity is about to end."""
        lease = self._leases.get(runtime_id)
        return lease is not None and lease.state is State.LEAVING

    def lease(self, runtime_id: str) -> LeaseTimes | None:
        """Return the times of a plugin's lease, None for a plugin without one."""
        lease = self._leases.get(runtime_id)
        return lease.times() if lease is not None else None

    def _happened(self, runtime_id: str, event: Event) -> None:
        if (lease := self._leases.get(runtime_id)) is not None:
            lease.happened(event)

    def _changed(self, change: Change) -> None:
        runtime_id = change.registration.runtime_id
        if change.of_registration and self._owns(runtime_id):
            self._plugin_changed(runtime_id)

    def _plugin_changed(self, runtime_id: str) -> None:
        """Begin the lease of a plugin that has registered its first service, or end that of the last one."""
        lease = self._leases.get(runtime_id)
        if not self._registry.has_registered(runtime_id):
            is_leaving = not self._registry.health(runtime_id).callable
            self._happened(runtime_id, Event.LEAVE if is_leaving else Event.UNREGISTERED)
        elif lease is None or lease.state is State.LEAVING:
            self._happened(runtime_id, Event.UNREGISTERED)  # it has come back, and gets another lease
            self._nursery.start_soon(self._supervise, runtime_id, self._begin(runtime_id))

    def _begin(self, runtime_id: str) -> _Lease:
        state = State.LAPSED if self._registry.has_lapsed(runtime_id) else State.ALIVE
        entered = partial(self._entered, runtime_id)
        lease = self._leases[runtime_id] = _Lease(self._config, self._stalls, state, entered)
        return lease

    def _entered(self, runtime_id: str, state: State) -> None:
        """Do what follows from the state that a lease has entered."""
        why = self._leases[runtime_id].why
        if state in _FINAL:
            del self._leases[runtime_id]
        match state:
            case State.LAPSED:
                _log.warning("%s has lapsed: %s", runtime_id, why)
                self._registry.set_lapsed(runtime_id, why)
            case State.ALIVE:
                _log.warning("%s is back", runtime_id)
                self._registry.set_lapsed(runtime_id, "")
            case State.GONE:
                _log.warning("%s is gone", runtime_id)
                self._forget(runtime_id, _why_gone(why, 2 * self._config.lease_s))
                self._registry.remove_plugin(runtime_id)
                self._registry.cancel_calls(runtime_id)
            case State.LEFT if not self._registry.health(runtime_id).callable:
                self._forget(runtime_id, LEFT)
                self._registry.remove_plugin(runtime_id)

    async def _supervise(self, runtime_id: str, lease: _Lease) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe_when_silent, runtime_id, lease)
            await lease.hold(_SUPERVISED)
            nursery.cancel_scope.cancel()
        await lease.hold({State.LEAVING})

    async def _probe_when_silent(self, runtime_id: str, lease: _Lease) -> None:
        while True:
            await trio.sleep_until(lease.last_sign + self._late_s)
            if trio.current_time() < lease.last_sign + self._late_s:
                continue  # there has been one meanwhile
            stalled_s = self._stalls.total_s()
            await self._probe_once(runtime_id, lease)
            lease.asked()
            if self._stalls.total_s() == stalled_s:  # else the host had no time for the answer
                await trio.sleep(self._config.heartbeat_s)

    async def _probe_once(self, runtime_id: str, lease: _Lease) -> bool:
        """Ask a plugin; return whether it has been asked and has not answered."""
        async with self._probing:
            with trio.move_on_after(self._config.probe_timeout_s):
                try:
                    if await self._probe(runtime_id):
                        lease.happened(Event.SIGN)
                        return False
                except CannotAskError as error:
                    lease.hold_until_next_probe()
                    self._tell(error)
                    return False
                except Exception:  # noqa: BLE001 - the plugin has set where to ask, and what comes back
                    _log.exception("the probe of %s failed, which counts as no answer", runtime_id)
        return True

    def _tell(self, error: CannotAskError) -> None:
        """Log that plugins cannot be asked, once in a while."""
        if (more := self._throttle.suffix()) is not None:
            _log.warning("plugins that send no heartbeats cannot be asked how they are: %s%s", error, more)


def _why_gone(why_lapsed: str, after_s: float) -> str:
    silent = f"{SILENT} for {after_s:g} s"
    return silent if why_lapsed == SILENT else f"{why_lapsed}, and {silent}"


class _Lease:
    """One plugin's lease: its state, and a cancel scope around the wait for its deadline.

    `entered` is called with each state that it enters.
    """

    def __init__(
        self,
        config: LeaseConfig,
        stalls: Stalls,
        state: State,
        entered: Callable[[State], object],
    ) -> None:
        self._config = config
        self._stalls = stalls
        self._entered = entered
        self.state = state
        self._wait = trio.CancelScope()
        self._not_before = -math.inf
        self._restart()

    def suspected(self, why: str) -> None:
        """Lapse for a reason other than silence, if the plugin counts as alive."""
        if self.state is State.ALIVE:
            self.why = why
            self.happened(Event.SUSPECTED)

    def happened(self, event: Event) -> None:
        """Move to the state that follows from an event. It may mean nothing in this state."""
        before = self.state
        state = TRANSITIONS[before].get(event)
        if state is None:
            return
        if event in _RESTARTING:
            self._restart()
        self.state = state
        if state is not before:
            self._wait.cancel()  # to wait for another deadline
            self._entered(state)
        else:
            self._wait.deadline = self._deadline()

    async def hold(self, states: Collection[State]) -> None:
        """Hold the lease for as long as it is in some states; a deadline that passes is an event."""
        while self.state in states:
            with trio.CancelScope(deadline=self._deadline()) as self._wait:
                await trio.sleep_forever()
            if self.state in states and trio.current_time() >= self._deadline():
                self.happened(Event.DEADLINE)

    def adopted(self, last_sign: float) -> None:
        """Go on from a lease of another host's: until `asked`, no deadline passes."""
        self.last_sign = last_sign
        self._is_asked = False

    def asked(self) -> None:
        """Note that the plugin has been asked, and has answered or not."""
        is_first, self._is_asked = not self._is_asked, True
        if is_first and self.state in _LEASES:
            self._wait.deadline = self._deadline()

    def hold_until_next_probe(self) -> None:
        """Let the lease stand still: the plugin could not be asked."""
        next_probe_s = self._config.heartbeat_s + self._config.probe_timeout_s
        self._not_before = trio.current_time() + next_probe_s

    def times(self) -> LeaseTimes:
        """Return its times now."""
        now = trio.current_time()
        return LeaseTimes(self._deadline() - now, now - self.last_sign)

    def _restart(self) -> None:
        self.why = SILENT  # if it lapses
        self._is_asked = True
        self.last_sign = trio.current_time()
        self._stalled_s = self._stalls.total_s()

    def _deadline(self) -> float:
        """Return when the state ends unless something happens, as far as is known by now.

        Time in which the host was held up does not count, and after it there is time for a probe.
        """
        stalled_s = self._stalls.total_s() - self._stalled_s
        deadline = self.last_sign + _LEASES[self.state] * self._config.lease_s + stalled_s
        if stalled_s:
            deadline = max(deadline, self._stalls.last_end + self._config.probe_timeout_s)
        if not self._is_asked:
            deadline = max(deadline, trio.current_time() + self._config.probe_timeout_s)
        return max(deadline, self._not_before)
