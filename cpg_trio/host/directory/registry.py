"""Who provides what, how healthy they are, and which of them a caller gets.

Plain synchronous state, changed between checkpoints of one thread, so it needs no locks. Every change is
announced to the listeners by service type; whoever must hear of changes hears of them there.
"""

from __future__ import annotations

import random
import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import Protocol

import attrs

from cpg_trio import wire
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio._listeners import Listeners
from cpg_trio.host.access.limits import LimitError, Limits, held_bytes
from cpg_trio.host.access.shares import Shares
from cpg_trio.http import ConnectTarget, Origin

_HEALTHY, _DEGRADED, _UNHEALTHY = (
    pb.HEALTH_STATE_HEALTHY,
    pb.HEALTH_STATE_DEGRADED,
    pb.HEALTH_STATE_UNHEALTHY,
)


class Selection(Enum):
    """Which of several good providers a caller gets."""

    FIRST = "first"
    """The one that registered first."""
    ROUND_ROBIN = "round-robin"
    """Each in turn, in the order of registration."""
    RANDOM = "random"
    """Any, with equal chances."""
    WEIGHTED = "weighted"
    """Any, with chances that fall with the number of calls it is busy with."""


class NoProviderError(LookupError):
    """Nobody can be offered for a service type; the message, part of the protocol, says why."""


class UnknownRegistrationError(LookupError):
    """No such registration, or not the caller's."""


@attrs.frozen(eq=False)
class Registration:
    """One service of one plugin."""

    id: str
    runtime_id: str
    service_type: str
    version: str
    endpoint_path: str
    metadata: Mapping[str, str]
    sequence: int
    """Grows with each registration; the order of the providers of a type."""
    address: str = ""
    """Where to connect for `base_url`, whatever its name resolves to; empty for where that leads."""
    socket_path: str = ""
    """The Unix socket to connect to before that, empty for none."""

    @property
    def base_url(self) -> str:
        """The plugin's own URL, empty if it gave none."""
        return self.metadata.get(wire.BASE_URL_KEY, "")

    @property
    def way(self) -> ConnectTarget:
        """How the host reaches it. What was checked is what is used: a name may lead elsewhere by now."""
        return ConnectTarget(self.address, self.socket_path)

    @property
    def control_url(self) -> str:
        """Where the host calls the plugin itself: a URL of its own, if it gave one."""
        return self.metadata.get(wire.CONTROL_URL_KEY, "") or self.base_url

    @property
    def control_way(self) -> ConnectTarget:
        """How the host gets there. At the plugin's socket, and at the same name, is what was checked."""
        return ConnectTarget(
            self.address if same_host(self.control_url, self.base_url) else "", self.socket_path
        )

    @property
    def endpoint_url(self) -> str:
        """Where callers reach it, relative to the host's URL."""
        return f"/services/{self.service_type}/{self.runtime_id}"


def same_host(url: str, other: str) -> bool:
    """Whether two URLs name the same host; what is no URL names none."""
    try:
        return Origin.parse(url)[0].host == Origin.parse(other)[0].host
    except ValueError:
        return False


@attrs.frozen
class Health:
    """What a plugin last said of itself. One that said nothing counts as healthy."""

    state: pb.HealthState = pb.HEALTH_STATE_UNSPECIFIED
    reason: str = ""
    unavailable_dependencies: tuple[str, ...] = ()

    @property
    def callable(self) -> bool:
        """Whether the plugin gets calls."""
        return self.state != _UNHEALTHY


class HealthMessage(Protocol):
    """A report of a plugin, or its answer to a probe."""

    @property
    def state(self) -> pb.HealthState: ...

    @property
    def reason(self) -> str: ...

    @property
    def unavailable_dependencies(self) -> Sequence[str]: ...


def health_of(said: HealthMessage) -> Health:
    """Return the health that a message tells. Raises: wire.InvalidError for one that makes no sense."""
    if said.state not in pb.HealthState.values():
        raise wire.InvalidError(f"unknown health state: {said.state}")
    if len(said.reason.encode()) > _MAX_REASON_BYTES:
        raise wire.InvalidError(f"reason too long (max: {_MAX_REASON_BYTES} bytes)")
    if len(said.unavailable_dependencies) > _MAX_DEPENDENCIES:
        raise wire.InvalidError(f"too many unavailable dependencies (max: {_MAX_DEPENDENCIES})")
    for dependency in said.unavailable_dependencies:
        wire.validate_service_type(dependency)
    return Health(said.state, said.reason, tuple(said.unavailable_dependencies))


@attrs.frozen
class ServiceStatus:
    """What a watcher of a service type is told: its state, and the provider to call, if there is one."""

    state: pb.ServiceState
    provider: Registration | None = None


class InFlight(Protocol):
    """A call on its way. Compared by identity."""

    def cancel(self) -> None:
        """End it: its provider is gone, or its caller."""


_SILENT = Health()
_MAX_REASON_BYTES = 4096
_MAX_DEPENDENCIES = 100
_MOST_MINIMA = 4  # minimum versions of one type for which the good providers are remembered


@attrs.define
class _Plugin:
    """What one plugin has registered."""

    share: str
    """Which address it counts for (see `shares`)."""
    by_type: dict[str, Registration] = attrs.field(factory=dict)
    metadata_bytes: int = 0


class _Providers:
    """The providers of one service type, in the order of their registration."""

    __slots__ = ("by_plugin", "good")

    def __init__(self) -> None:
        self.by_plugin: dict[str, Registration] = {}
        self.good: dict[str, Sequence[Registration]] = {}
        """Those that get calls, by minimum version; forgotten at each change to the type."""

    def add(self, registration: Registration) -> None:
        """Add a registration, which is the newest unless it is restored."""
        newest = next(reversed(self.by_plugin.values()), None)
        self.by_plugin[registration.runtime_id] = registration
        if newest is not None and newest.sequence > registration.sequence:
            in_order = sorted(self.by_plugin.items(), key=lambda item: item[1].sequence)
            self.by_plugin = dict(in_order)

    def remember_good(self, min_version: str, good: Sequence[Registration]) -> None:
        if len(self.good) >= _MOST_MINIMA:
            self.good.clear()
        self.good[min_version] = good


class Registry:
    """The registrations of all plugins.

    `selection` is the strategy for each service type; others get `default_selection`. `rng` decides where
    chance does. `calls_elsewhere` tells how many calls a provider is busy with that are not routed.
    `share_of` tells by a runtime id which address a plugin counts for.
    """

    def __init__(
        self,
        *,
        selection: Mapping[str, Selection] | None = None,
        default_selection: Selection = Selection.FIRST,
        limits: Limits | None = None,
        calls_elsewhere: Callable[[str], int] = lambda _: 0,
        share_of: Callable[[str], str] = lambda _: "",
        rng: random.Random | None = None,
    ) -> None:
        self._selection = dict(selection or {})
        self._default_selection = default_selection
        self._limits = limits or Limits()
        self._calls_elsewhere = calls_elsewhere
        self._share_of = share_of
        self._rng = rng or random.SystemRandom()
        self._by_type: dict[str, _Providers] = {}
        self._by_id: dict[str, Registration] = {}
        self._by_plugin: dict[str, _Plugin] = {}
        self._plugins = Shares("plugins that have registered something", self._limits.max_plugins)
        self._registrations = Shares("registrations", self._limits.max_registrations)
        self._metadata_bytes = Shares("bytes of metadata", self._limits.max_metadata_bytes)
        self._health: dict[str, Health] = {}
        self._health_held: dict[str, tuple[str, int]] = {}  # whose address holds how many bytes for a reason
        self._health_bytes = Shares("bytes of health reports", self._limits.max_health_bytes)
        self._calls: dict[str, set[InFlight]] = {}  # by provider
        self._calls_made: dict[str, set[InFlight]] = {}  # by caller
        self._last_turn: dict[tuple[str, str], int] = {}  # by who asks, and for what
        self._sequence = 0
        self._lapsed: dict[str, Health] = {}
        self._revision = 0
        self._registrations_revision = 0
        self.id = secrets.token_hex(8)
        """Random id of this registry. A new one means that the state was lost."""
        self._listeners = Listeners[[str]]("the registry")
        self._plugin_listeners = Listeners[[str]]("what plugins register")
        self._gone_listeners = Listeners[[str]]("plugins that are gone")

    @property
    def revision(self) -> int:
        """A number that grows with each change that is announced."""
        return self._revision

    @property
    def registrations_revision(self) -> int:
        """A number that grows with each registration that comes or goes, and not with what plugins report."""
        return self._registrations_revision

    def subscribe(self, listener: Callable[[str], object]) -> None:
        """Call `listener` with a service type after each change to its providers or their health."""
        self._listeners.add(listener)

    def subscribe_gone(self, listener: Callable[[str], object]) -> None:
        """Call `listener` with the runtime id of each plugin whose calls are cancelled."""
        self._gone_listeners.add(listener)

    def watched_plugins(self, listener: Callable[[str], object]) -> AbstractContextManager[None]:
        """Within the block, call `listener` with a runtime id after each change to what it has registered."""
        return self._plugin_listeners.added(listener)

    def register(
        self,
        runtime_id: str,
        service_type: str,
        version: str,
        endpoint_path: str,
        metadata: Mapping[str, str],
        *,
        address: str = "",
        socket_path: str = "",
    ) -> Registration:
        """Add a service. A plugin has one registration for each type: a second replaces the first.

        Raises: wire.InvalidError or LimitError, and then nothing has changed.
        """
        wire.validate_registration(service_type, version, endpoint_path, metadata)
        replaced = self.provider(service_type, runtime_id)
        if replaced is None:
            self._check_room(runtime_id)
        self._check_metadata(runtime_id, _size(metadata) - (_size(replaced.metadata) if replaced else 0))
        registration = Registration(
            id=f"reg-{secrets.token_hex(8)}",
            runtime_id=runtime_id,
            service_type=service_type,
            version=version,
            endpoint_path=endpoint_path,
            metadata=dict(metadata),
            sequence=self._sequence + 1,
            address=address,
            socket_path=socket_path,
        )
        self.restore(registration)
        return registration

    def restore(self, registration: Registration) -> None:
        """Take a registration (back) as it is, in place of what its plugin has registered for its type."""
        service_type, runtime_id = registration.service_type, registration.runtime_id
        self._sequence = max(self._sequence, registration.sequence)
        if (replaced := self.provider(service_type, runtime_id)) is not None:
            self._drop(replaced)
        size = _size(registration.metadata)
        plugin = self._by_plugin.get(runtime_id)
        if plugin is None:
            plugin = self._by_plugin[runtime_id] = _Plugin(self._share_of(runtime_id))
            self._plugins.add(plugin.share)
        plugin.metadata_bytes += size
        self._metadata_bytes.add(plugin.share, size)
        self._registrations.add(plugin.share)
        plugin.by_type[service_type] = self._by_id[registration.id] = registration
        self._by_type.setdefault(service_type, _Providers()).add(registration)
        self._registrations_revision += 1
        self._announce([service_type])
        self._announce_plugin(runtime_id)

    def unregister(self, runtime_id: str, registration_id: str) -> Registration:
        """Remove a plugin's own registration. Raises: UnknownRegistrationError."""
        registration = self._by_id.get(registration_id)
        if registration is None or registration.runtime_id != runtime_id:
            raise UnknownRegistrationError(f"registration not found: {registration_id}")
        self._remove(registration)
        if not self.registrations(runtime_id):
            self._lapsed.pop(runtime_id, None)  # it is not supervised any more; another lease would be new
        self._announce([registration.service_type])
        self._announce_plugin(runtime_id)
        return registration

    def remove_plugin(self, runtime_id: str) -> None:
        """Remove all that a plugin registered and said."""
        mine = self.registrations(runtime_id)
        for registration in mine:
            self._remove(registration)
        self._drop_health(runtime_id)
        self._lapsed.pop(runtime_id, None)
        self._announce(r.service_type for r in mine)
        self._announce_plugin(runtime_id)

    def report_health(self, runtime_id: str, health: Health) -> None:
        """Note what a plugin says of itself; where there is no room for the reason, the state alone."""
        before = self._health.get(runtime_id)
        self._drop_health(runtime_id)
        share, size = self._share_of(runtime_id), _reason_size(health)
        try:
            self._health_bytes.check(share, size)
        except LimitError:
            health, size = Health(health.state), 0
        if size:
            self._health_held[runtime_id] = share, size
            self._health_bytes.add(share, size)
        self._health[runtime_id] = health
        if before != health:
            self._announce(r.service_type for r in self.registrations(runtime_id))

    def _drop_health(self, runtime_id: str) -> None:
        self._health.pop(runtime_id, None)
        self._health_bytes.remove(*self._health_held.pop(runtime_id, ("", 0)))

    def forget_health(self, runtime_id: str) -> None:
        """Forget what a plugin has said of itself, unless it has registered something."""
        if not self.has_registered(runtime_id):
            self._drop_health(runtime_id)

    def last_report(self, runtime_id: str) -> Health | None:
        """Return what a plugin last said of itself: another object for each time that it did."""
        return self._health.get(runtime_id)

    def set_lapsed(self, runtime_id: str, why: str) -> None:
        """Note why a plugin is not believed to be alive: UNHEALTHY, until `why` is empty."""
        if why:
            self._lapsed[runtime_id] = Health(_UNHEALTHY, why)
        else:
            self._lapsed.pop(runtime_id, None)
        self._announce(r.service_type for r in self.registrations(runtime_id))

    def has_lapsed(self, runtime_id: str) -> bool:
        """Whether a plugin is not believed to be alive."""
        return runtime_id in self._lapsed

    def health(self, runtime_id: str) -> Health:
        """Return how a plugin is: UNHEALTHY if it has lapsed, otherwise what it last said of itself."""
        return self._lapsed.get(runtime_id) or self._health.get(runtime_id, _SILENT)

    def provider(self, service_type: str, runtime_id: str) -> Registration | None:
        """Return a plugin's registration for a type, healthy or not."""
        providers = self._by_type.get(service_type)
        return providers.by_plugin.get(runtime_id) if providers is not None else None

    def registrations(self, runtime_id: str) -> Sequence[Registration]:
        """Return what a plugin has registered."""
        plugin = self._by_plugin.get(runtime_id)
        return list(plugin.by_type.values()) if plugin is not None else []

    def has_registered(self, runtime_id: str) -> bool:
        """Whether a plugin has registered something."""
        return runtime_id in self._by_plugin

    def has_called(self, runtime_id: str) -> bool:
        """Whether a call that a plugin has made is in flight."""
        return runtime_id in self._calls_made

    def plugins(self) -> Sequence[str]:
        """Return the runtime ids of those that have registered something."""
        return list(self._by_plugin)

    def available(self, service_type: str) -> bool:
        """Whether a caller would be offered a provider. Asking changes nobody's turn."""
        return bool(self._good(service_type))

    def provides(self, service_type: str) -> bool:
        """Whether somebody has registered a type."""
        return service_type in self._by_type

    def service_types(self) -> Sequence[str]:
        """Return the types that somebody has registered."""
        return sorted(self._by_type)

    def discover(self, service_type: str, min_version: str = "") -> tuple[Registration, bool]:
        """Choose a provider; tell also whether there was nobody else to choose.

        Raises: NoProviderError; wire.InvalidError for a minimum that is no version.
        """
        if min_version:
            wire.validate_version(min_version)
        good = self._good(service_type, min_version)
        if not good:
            raise NoProviderError(self._why_none(service_type, min_version))
        return self._choose("discover", service_type, good), len(good) == 1

    def status(
        self, service_type: str, current: Registration | None = None, min_version: str = ""
    ) -> ServiceStatus:
        """Return the status of a type for one watcher. Watchers have turns of their own.

        It keeps its `current` provider for as long as that gets calls, so that a change elsewhere does not
        move it. Raises: wire.InvalidError for a minimum that is no version.
        """
        provider = current
        if provider is None or not self._is_good(provider, service_type, min_version):
            good = self._good(service_type, min_version)
            if not good:
                return ServiceStatus(pb.SERVICE_STATE_UNAVAILABLE)
            provider = self._choose("watch", service_type, good)
        degraded = self.health(provider.runtime_id).state == _DEGRADED
        return ServiceStatus(pb.SERVICE_STATE_DEGRADED if degraded else pb.SERVICE_STATE_AVAILABLE, provider)

    def begin_call(self, caller: str, provider: str, call: InFlight) -> None:
        """Hold a call while it is in flight."""
        _hold(self._calls_made, caller, call)
        _hold(self._calls, provider, call)

    def end_call(self, caller: str, provider: str, call: InFlight) -> None:
        """Hold a call no longer."""
        _release(self._calls_made, caller, call)
        _release(self._calls, provider, call)

    def calls(self, runtime_id: str) -> Sequence[InFlight]:
        """Return the routed calls that a provider is busy with."""
        return list(self._calls.get(runtime_id, ()))

    def cancel_calls(self, runtime_id: str) -> None:
        """Cancel the calls to a provider that is gone, wherever they are."""
        for call in self.calls(runtime_id):
            call.cancel()
        self._gone_listeners.tell(runtime_id)

    def cancel_calls_made(self, runtime_id: str) -> None:
        """Cancel the calls of a caller that may make none any more."""
        for call in list(self._calls_made.get(runtime_id, ())):
            call.cancel()

    def calls_in_flight(self, runtime_id: str) -> int:
        """Return how many calls a provider is busy with, as far as it is known."""
        return len(self._calls.get(runtime_id, ())) + self._calls_elsewhere(runtime_id)

    def providers(self, service_type: str) -> Sequence[Registration]:
        """Return all providers of a type, healthy or not, in the order of their registration."""
        providers = self._by_type.get(service_type)
        return list(providers.by_plugin.values()) if providers is not None else []

    def _check_room(self, runtime_id: str) -> None:
        """Check that a plugin may have another registration. Raises: LimitError."""
        each, plugin = self._limits.max_registrations_per_plugin, self._by_plugin.get(runtime_id)
        if plugin is None:
            self._plugins.check(self._share_of(runtime_id))
        elif len(plugin.by_type) >= each:
            raise LimitError("registrations of one plugin", each)
        self._registrations.check(self._share(runtime_id))

    def _check_metadata(self, runtime_id: str, more: int) -> None:
        """Check that a plugin may have so many bytes of metadata more. Raises: LimitError."""
        each, plugin = self._limits.max_metadata_bytes_per_plugin, self._by_plugin.get(runtime_id)
        if (plugin.metadata_bytes if plugin is not None else 0) + more > each:
            raise LimitError("bytes of metadata of one plugin", each)
        if more > 0:
            self._metadata_bytes.check(self._share(runtime_id), more)

    def _share(self, runtime_id: str) -> str:
        """Return which address a plugin counts for; that of its first registration as long as it has one."""
        plugin = self._by_plugin.get(runtime_id)
        return plugin.share if plugin is not None else self._share_of(runtime_id)

    def _good(self, service_type: str, min_version: str = "") -> Sequence[Registration]:
        """Return the providers of a type that get calls and are new enough. The list is shared."""
        providers = self._by_type.get(service_type)
        if providers is None:
            return ()
        good = providers.good.get(min_version)
        if good is None:
            compatible = _compatible(providers, min_version)
            good = [r for r in compatible if self.health(r.runtime_id).callable]
            providers.remember_good(min_version, good)
        return good

    def _is_good(self, registration: Registration, service_type: str, min_version: str) -> bool:
        """Whether a registration is among the good ones of a type, without a look at all the others."""
        return (
            self.provider(service_type, registration.runtime_id) is registration
            and self.health(registration.runtime_id).callable
            and wire.satisfies(registration.version, min_version)
        )

    def _why_none(self, service_type: str, min_version: str) -> str:
        providers = self._by_type.get(service_type)
        if providers is None:
            return f'no providers for service "{service_type}"'
        if not _compatible(providers, min_version):
            return f'no compatible providers for service "{service_type}" (min version: {min_version})'
        return f'no available providers for service "{service_type}" (all unhealthy)'

    def _choose(self, asker: str, service_type: str, good: Sequence[Registration]) -> Registration:
        match self._selection.get(service_type, self._default_selection):
            case Selection.FIRST:
                return good[0]
            case Selection.ROUND_ROBIN:
                return self._next_turn((asker, service_type), good)
            case Selection.RANDOM:
                return self._rng.choice(good)
            case Selection.WEIGHTED:
                weights = [1 / (1 + self.calls_in_flight(r.runtime_id)) for r in good]
                return self._rng.choices(good, weights)[0]

    def _next_turn(self, turn: tuple[str, str], good: Sequence[Registration]) -> Registration:
        # The turn is kept by sequence number, not by index: providers come and go, and nobody is skipped.
        last = self._last_turn.get(turn, 0)
        after = bisect_right(good, last, key=lambda r: r.sequence)
        chosen = good[after] if after < len(good) else good[0]
        self._last_turn[turn] = chosen.sequence
        return chosen

    def _remove(self, registration: Registration) -> None:
        """Remove a registration, and what there is for as long as its type, or its plugin, has one."""
        self._drop(registration)
        self._registrations_revision += 1
        if not (plugin := self._by_plugin[registration.runtime_id]).by_type:
            self._plugins.remove(plugin.share)
            del self._by_plugin[registration.runtime_id]
        if not self._by_type[registration.service_type].by_plugin:
            del self._by_type[registration.service_type]
            for asker in ("discover", "watch"):
                self._last_turn.pop((asker, registration.service_type), None)

    def _drop(self, registration: Registration) -> None:
        size = _size(registration.metadata)
        plugin = self._by_plugin[registration.runtime_id]
        plugin.metadata_bytes -= size
        self._metadata_bytes.remove(plugin.share, size)
        self._registrations.remove(plugin.share)
        del plugin.by_type[registration.service_type]
        del self._by_id[registration.id]
        del self._by_type[registration.service_type].by_plugin[registration.runtime_id]

    def _announce_plugin(self, runtime_id: str) -> None:
        self._plugin_listeners.tell(runtime_id)

    def _announce(self, service_types: Iterable[str]) -> None:
        changed = dict.fromkeys(service_types)
        for service_type in changed:  # before anybody looks: a listener may ask about another type
            if (providers := self._by_type.get(service_type)) is not None:
                providers.good.clear()
        for service_type in changed:
            self._revision += 1
            self._listeners.tell(service_type)


def _compatible(providers: _Providers, min_version: str) -> list[Registration]:
    return [r for r in providers.by_plugin.values() if wire.satisfies(r.version, min_version)]


def _hold(held: dict[str, set[InFlight]], runtime_id: str, call: InFlight) -> None:
    calls = held.get(runtime_id)
    if calls is None:
        calls = held[runtime_id] = set()
    calls.add(call)


def _release(held: dict[str, set[InFlight]], runtime_id: str, call: InFlight) -> None:
    calls = held[runtime_id]
    calls.remove(call)
    if not calls:
        del held[runtime_id]


def _reason_size(health: Health) -> int:
    """Return how many bytes what a plugin says beside its state takes in memory."""
    said = [text for text in (health.reason, *health.unavailable_dependencies) if text]
    return held_bytes(*said)


def _size(metadata: Mapping[str, str]) -> int:
    """Return how many bytes metadata takes in memory."""
    return sum(held_bytes(*entry) for entry in metadata.items())
