"""Which plugin provides what, how healthy it is, and which provider a caller gets.

Plain synchronous state, changed between checkpoints of one thread, so it needs no locks. Each change is told
to the listeners as a change of one provider, and costs the same however many providers there are.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import attrs

from cpg_trio import wire
from cpg_trio._listeners import Listeners
from cpg_trio.host.access import LimitError, Limits, Shares, held_bytes
from cpg_trio.host.directory.calls_in_flight import CallsInFlight
from cpg_trio.host.directory.providers import Providers, why_incompatible
from cpg_trio.host.directory.registration import (
    Change,
    ChangeKind,
    Health,
    NoProviderError,
    Registration,
    ServiceStatus,
    UnknownRegistrationError,
)
from cpg_trio.host.directory.selection import Selection, Selector
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.states import HealthState
from cpg_trio.versions import ANY_VERSION, Requirement

_NOT_REPORTED = Health()


@attrs.frozen
class RegistryStatistics:
    """Numbers of a registry: `plugins` and `registrations` now, `registered` and `lapses` since it began."""

    plugins: int
    registrations: int
    registered: int
    lapses: int


@attrs.define
class _Plugin:
    """What one plugin has registered."""

    name: str
    share: str
    """Which address it counts for (see `shares`)."""
    by_type: dict[str, Registration] = attrs.field(factory=dict)
    metadata_bytes: int = 0


class Registry:
    """The registrations of all plugins, indexed by plugin and by service type.

    `selection` is the strategy for each service type; others get `default_selection`. `rng` decides where
    chance does. `calls` are those in flight. `share_of` returns by a runtime id which address a plugin counts
    for, `name_of` its own name.
    """

    def __init__(
        self,
        *,
        selection: Mapping[str, Selection] | None = None,
        default_selection: Selection = Selection.FIRST,
        limits: Limits | None = None,
        calls: CallsInFlight | None = None,
        share_of: Callable[[str], str] = lambda _: "",
        name_of: Callable[[str], str] = lambda _: "",
        rng: random.Random | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self.calls = calls or CallsInFlight()
        self._share_of = share_of
        self._name_of = name_of
        rng = rng or random.SystemRandom()
        self._selector = Selector(selection or {}, default_selection, self.calls.count, rng)
        self._by_type: dict[str, Providers] = {}
        self._by_id: dict[str, Registration] = {}
        self._by_plugin: dict[str, _Plugin] = {}
        self.callable_ids: set[str] = set()
        """The ids of the registrations whose plugins get calls."""
        self._plugins = Shares("plugins that have registered something", self._limits.max_plugins)
        self._registrations = Shares("registrations", self._limits.max_registrations)
        self._metadata_bytes = Shares("bytes of metadata", self._limits.max_metadata_bytes)
        self._reports: dict[str, Health] = {}
        self._report_bytes: dict[str, tuple[str, int]] = {}  # whose address holds how many bytes for a report
        self._health_bytes = Shares("bytes of health reports", self._limits.max_health_bytes)
        self._lapsed: dict[str, Health] = {}
        self._lapses = 0
        self._drained: dict[str, str] = {}  # why, by runtime id
        self._sequence = 0
        self._registered = 0
        self.revision = 0
        """Grows with each change; in a shared directory it is that of the store, up to which all is known."""
        self.counts_changes = True
        """Whether `revision` grows with each change that is made here."""
        self.id = secrets.token_hex(8)
        """Random id of the directory. A new one means that the state was lost."""
        self.changes = Listeners[Change]("the registry")
        self.gone = Listeners[str]("plugins that are gone")
        """Told the runtime id of each plugin whose calls are cancelled."""
        self.health_changes = Listeners[str]("the health of plugins")
        """Told the runtime id of each plugin whose health is another, whether it has registered or not."""

    # Registrations

    def register(
        self,
        runtime_id: str,
        service_type: str,
        version: str,
        endpoint_path: str,
        metadata: Mapping[str, str],
        *,
        addresses: tuple[str, ...] = ("",),
    ) -> Registration:
        """Add a service. A plugin has one registration for each type: a second replaces the first.

        Raises: wire.InvalidError or LimitError, and then nothing has changed.
        """
        wire.validate_registration(service_type, version, endpoint_path, metadata)
        self._check_room(self._plugin(runtime_id), service_type, _size(metadata))
        registration = Registration(
            id=f"reg-{secrets.token_hex(8)}",
            runtime_id=runtime_id,
            service_type=service_type,
            version=version,
            endpoint_path=endpoint_path,
            metadata=dict(metadata),
            sequence=self._sequence + 1,
            addresses=addresses,
        )
        self.add(registration)
        return registration

    def add(self, registration: Registration) -> None:
        """Take a registration that is new, as `restore` does."""
        if self.provides(registration.service_type):
            self._selector.note_new(registration)
        self.restore(registration)

    def restore(self, registration: Registration) -> None:
        """Take a registration (back) as it is, in place of what its plugin has registered for its type."""
        service_type, runtime_id = registration.service_type, registration.runtime_id
        self._sequence = max(self._sequence, registration.sequence)
        plugin = self._plugin(runtime_id)
        if not plugin.by_type:
            self._by_plugin[runtime_id] = plugin
            self._plugins.add(plugin.share)
        if (replaced := plugin.by_type.get(service_type)) is not None:
            self._drop(plugin, replaced)
        size = _size(registration.metadata)
        plugin.metadata_bytes += size
        self._metadata_bytes.add(plugin.share, size)
        self._registrations.add(plugin.share)
        plugin.by_type[service_type] = self._by_id[registration.id] = registration
        providers = self._by_type.get(service_type)
        if providers is None:
            providers = self._by_type[service_type] = Providers(self.callable_ids)
        providers.add(registration, plugin.name)
        self._update(registration)
        self._registered += 1
        self._tell(ChangeKind.REGISTERED, [registration])

    def unregister(self, runtime_id: str, registration_id: str) -> Registration:
        """Remove a plugin's own registration. Raises: UnknownRegistrationError."""
        registration = self._by_id.get(registration_id)
        if registration is None or registration.runtime_id != runtime_id:
            raise UnknownRegistrationError(f"registration not found: {registration_id}")
        self._remove(registration)
        if not self.has_registered(runtime_id):
            self._lapsed.pop(runtime_id, None)  # its lease has ended; another one would be new
        self._tell(ChangeKind.UNREGISTERED, [registration])
        return registration

    def remove_plugin(self, runtime_id: str) -> None:
        """Remove all that a plugin has registered and reported."""
        registrations = self.registrations(runtime_id)
        for registration in registrations:
            self._remove(registration)
        self._drop_report(runtime_id)
        self._lapsed.pop(runtime_id, None)
        self._tell(ChangeKind.UNREGISTERED, registrations)

    def provider(self, service_type: str, runtime_id: str) -> Registration | None:
        """Return a plugin's registration for a type, healthy or not."""
        providers = self._by_type.get(service_type)
        return providers.by_plugin.get(runtime_id) if providers is not None else None

    def providers(self, service_type: str) -> Sequence[Registration]:
        """Return all providers of a type, healthy or not, in the order of their registration."""
        providers = self._by_type.get(service_type)
        return providers.in_order() if providers is not None else []

    def at_place_of(self, registration: Registration) -> Collection[Registration]:
        """Return the providers of the same type at the same place, itself included; none if it names none."""
        providers, place = self._by_type.get(registration.service_type), registration.place
        return providers.at(place) if providers is not None and place is not None else ()

    def provider_names(self, service_type: str) -> Collection[str]:
        """Return the names of the plugins that provide a type, as far as they are known."""
        providers = self._by_type.get(service_type)
        return providers.names.keys() - {""} if providers is not None else ()

    def registrations(self, runtime_id: str) -> Sequence[Registration]:
        """Return what a plugin has registered."""
        plugin = self._by_plugin.get(runtime_id)
        return list(plugin.by_type.values()) if plugin is not None else []

    def has_registered(self, runtime_id: str) -> bool:
        """Whether a plugin has registered something."""
        return runtime_id in self._by_plugin

    def plugins(self) -> Sequence[str]:
        """Return the runtime ids of those that have registered something."""
        return list(self._by_plugin)

    def provides(self, service_type: str) -> bool:
        """Whether a type is registered."""
        return service_type in self._by_type

    def service_types(self) -> Sequence[str]:
        """Return the types that are registered."""
        return sorted(self._by_type)

    def statistics(self) -> RegistryStatistics:
        """Return the numbers of this moment."""
        plugins, registrations = self._plugins.total, self._registrations.total
        return RegistryStatistics(plugins, registrations, self._registered, self._lapses)

    # Health

    def report_health(self, runtime_id: str, health: Health) -> None:
        """Note what a plugin reports of itself; where there is no room for the reason, the state alone."""
        reported, before = self._reports.get(runtime_id), self.health(runtime_id)
        self._drop_report(runtime_id)
        share = self._share_of(runtime_id)
        size = held_bytes(*filter(None, (health.reason, *health.unavailable_dependencies)))
        try:
            self._health_bytes.check(share, size)
        except LimitError:
            health, size = Health(health.state), 0
        if size:
            self._report_bytes[runtime_id] = share, size
            self._health_bytes.add(share, size)
        self._reports[runtime_id] = health
        if reported != health:
            self._health_changed(runtime_id, before)

    def forget_health(self, runtime_id: str) -> None:
        """Forget what a plugin has reported of itself, unless it has registered something."""
        if not self.has_registered(runtime_id):
            self._drop_report(runtime_id)

    def last_report(self, runtime_id: str) -> Health | None:
        """Return what a plugin last reported of itself: another object for each report."""
        return self._reports.get(runtime_id)

    def set_lapsed(self, runtime_id: str, why: str) -> None:
        """Note why a plugin is not believed to be alive: UNHEALTHY, until `why` is empty."""
        before = self.health(runtime_id)
        if why:
            self._lapses += runtime_id not in self._lapsed
            self._lapsed[runtime_id] = Health(HealthState.UNHEALTHY, why)
        else:
            self._lapsed.pop(runtime_id, None)
        self._health_changed(runtime_id, before)

    def why_lapsed(self, runtime_id: str) -> str:
        """Return why a plugin is not believed to be alive; empty if it is."""
        lapsed = self._lapsed.get(runtime_id)
        return lapsed.reason if lapsed is not None else ""

    def has_lapsed(self, runtime_id: str) -> bool:
        """Whether a plugin is not believed to be alive."""
        return runtime_id in self._lapsed

    def health(self, runtime_id: str) -> Health:
        """Return how a plugin is: UNHEALTHY if it has lapsed, otherwise what it last reported of itself."""
        return self._lapsed.get(runtime_id) or self._reports.get(runtime_id, _NOT_REPORTED)

    # Drains

    def drain(self, runtime_id: str, why: str) -> None:
        """Give a plugin no new calls, whatever it registers, until `undrain`. Calls in flight go on."""
        self._drained[runtime_id] = why
        self._callable_changed(runtime_id)

    def undrain(self, runtime_id: str) -> bool:
        """Give a plugin calls again, if its health allows it; return whether it was drained."""
        if self._drained.pop(runtime_id, None) is None:
            return False
        self._callable_changed(runtime_id)
        return True

    def forget_drain(self, runtime_id: str) -> None:
        """Forget the drain of a plugin whose identity has ended. What it has registered is removed next."""
        self._drained.pop(runtime_id, None)

    def drained(self) -> Collection[str]:
        """Return the runtime ids of the plugins that are drained."""
        return list(self._drained)

    def is_drained(self, runtime_id: str) -> bool:
        """Whether a plugin is drained."""
        return runtime_id in self._drained

    def why_drained(self, runtime_id: str) -> str:
        """Return why a plugin is drained; empty if it is not."""
        return self._drained.get(runtime_id, "")

    # Discovery

    def available(self, service_type: str) -> bool:
        """Whether a caller would be offered a provider. Asking takes no turn."""
        return bool(self._good(service_type))

    def callable_count(self, service_type: str) -> int:
        """Return how many providers of a type get calls."""
        return len(self._good(service_type))

    def discover(
        self, service_type: str, requirement: Requirement = ANY_VERSION
    ) -> tuple[Registration, bool]:
        """Choose a provider; return also whether it was the only one that could be chosen.

        Raises: NoProviderError.
        """
        good = self._good(service_type, requirement)
        if not good:
            raise NoProviderError(self._why_none(service_type, requirement))
        return self._selector.choose("discover", service_type, good), len(good) == 1

    def status(
        self,
        service_type: str,
        current: Registration | None = None,
        requirement: Requirement = ANY_VERSION,
    ) -> ServiceStatus:
        """Return the status of a type for one watcher. Watchers have turns of their own.

        It keeps its `current` provider for as long as that gets calls, so that a change elsewhere does not
        move it.
        """
        provider = current
        if provider is None or not self._is_good(provider, requirement):
            good = self._good(service_type, requirement)
            if not good:
                has_range = bool(requirement.version_range.text)
                reason = self._why_none(service_type, requirement) if has_range else ""
                return ServiceStatus(pb.SERVICE_STATE_UNAVAILABLE, None, reason)
            provider = self._selector.choose("watch", service_type, good)
        return ServiceStatus(self.health(provider.runtime_id).service_state, provider)

    def choose(self, service_type: str, tried: Collection[str] = ()) -> Registration | None:
        """Choose a provider for one call: a degraded one only while no other is there. None if there is none.

        Calls have turns of their own. `tried` has the runtime ids of plugins that are not chosen.
        """
        good = self._good(service_type)
        if tried:
            good = [provider for provider in good if provider.runtime_id not in tried]
        if not good:
            return None
        chosen = self._selector.choose("call", service_type, good)
        if chosen.base_url and not self._is_degraded(chosen):
            return chosen
        reachable = [provider for provider in good if provider.base_url]
        well = [provider for provider in reachable if not self._is_degraded(provider)]
        return self._selector.choose("call", service_type, well or reachable) if reachable else None

    def _is_degraded(self, registration: Registration) -> bool:
        return self.health(registration.runtime_id).state is HealthState.DEGRADED

    def selection_of(self, service_type: str) -> Selection:
        """Return the strategy that selects a provider of a type."""
        return self._selector.strategy(service_type)

    def cancel_calls(self, runtime_id: str) -> None:
        """Cancel the calls to a provider that is gone, wherever they are."""
        self.calls.cancel_of_provider(runtime_id)
        self.gone.tell(runtime_id)

    def versions(self, service_type: str) -> dict[str, int]:
        """Return how many providers of a type there are of each version, the latest version last."""
        providers = self._by_type.get(service_type)
        return providers.versions if providers is not None else {}

    def _good(self, service_type: str, requirement: Requirement = ANY_VERSION) -> Sequence[Registration]:
        """Return the providers of a type that get calls and satisfy a requirement. Not to be changed."""
        providers = self._by_type.get(service_type)
        return providers.callable(requirement) if providers is not None else ()

    def _is_good(self, registration: Registration, requirement: Requirement) -> bool:
        """Whether a registration is still there, gets calls, and satisfies a requirement."""
        return registration.id in self.callable_ids and requirement.admits(registration.version)

    def _why_none(self, service_type: str, requirement: Requirement) -> str:
        providers = self._by_type.get(service_type)
        if providers is None:
            return f'no providers for service "{service_type}"'
        if not providers.are_compatible(requirement):
            why = f"min version: {requirement.min_version}"  # in the words of the protocol
            if requirement.version_range.text:
                why = why_incompatible(providers.versions, requirement)
            return f'no compatible providers for service "{service_type}" ({why})'
        return f'no available providers for service "{service_type}" (all unhealthy)'

    # Limits

    def _plugin(self, runtime_id: str) -> _Plugin:
        """Return a plugin; a new one if it has registered nothing."""
        return self._by_plugin.get(runtime_id) or _Plugin(
            self._name_of(runtime_id), self._share_of(runtime_id)
        )

    def _check_room(self, plugin: _Plugin, service_type: str, size: int) -> None:
        """Check that a plugin may have a registration with so many bytes of metadata. Raises: LimitError."""
        limits, replaced = self._limits, plugin.by_type.get(service_type)
        if not plugin.by_type:
            self._plugins.check(plugin.share)
        if replaced is not None:
            size -= _size(replaced.metadata)
        elif len(plugin.by_type) >= limits.max_registrations_per_plugin:
            raise LimitError("registrations of one plugin", limits.max_registrations_per_plugin)
        else:
            self._registrations.check(plugin.share)
        if plugin.metadata_bytes + size > limits.max_metadata_bytes_per_plugin:
            raise LimitError("bytes of metadata of one plugin", limits.max_metadata_bytes_per_plugin)
        if size > 0:
            self._metadata_bytes.check(plugin.share, size)

    # Changes

    def _remove(self, registration: Registration) -> None:
        """Remove a registration, and what is kept only while its plugin, or its type, has one."""
        plugin = self._by_plugin[registration.runtime_id]
        self._drop(plugin, registration)
        if not plugin.by_type:
            self._plugins.remove(plugin.share)
            del self._by_plugin[registration.runtime_id]
        if not self._by_type[registration.service_type].by_plugin:
            del self._by_type[registration.service_type]
            self._selector.forget(registration.service_type)

    def _drop(self, plugin: _Plugin, registration: Registration) -> None:
        size = _size(registration.metadata)
        plugin.metadata_bytes -= size
        self._metadata_bytes.remove(plugin.share, size)
        self._registrations.remove(plugin.share)
        del plugin.by_type[registration.service_type]
        del self._by_id[registration.id]
        self.callable_ids.discard(registration.id)
        self._by_type[registration.service_type].remove(registration, plugin.name)

    def _drop_report(self, runtime_id: str) -> None:
        self._reports.pop(runtime_id, None)
        self._health_bytes.remove(*self._report_bytes.pop(runtime_id, ("", 0)))

    def _health_changed(self, runtime_id: str, before: Health) -> None:
        """Bring the providers up to date with a plugin's health, and tell of it."""
        registrations, now = self.registrations(runtime_id), self.health(runtime_id)
        for registration in registrations:
            self._update(registration)
        is_same = now.service_state == before.service_state
        self._tell(ChangeKind.REPORT if is_same else ChangeKind.HEALTH, registrations)
        self.health_changes.tell(runtime_id)

    def _callable_changed(self, runtime_id: str) -> None:
        """Bring the providers up to date with a drain, and tell of it."""
        registrations = self.registrations(runtime_id)
        for registration in registrations:
            self._update(registration)
        self._tell(ChangeKind.HEALTH, registrations)
        self.health_changes.tell(runtime_id)

    def _update(self, registration: Registration) -> None:
        """Bring up to date whether a registration gets calls."""
        runtime_id = registration.runtime_id
        if self.health(runtime_id).callable and runtime_id not in self._drained:
            self.callable_ids.add(registration.id)
        else:
            self.callable_ids.discard(registration.id)
        self._by_type[registration.service_type].update(registration)

    def _tell(self, kind: ChangeKind, registrations: Iterable[Registration]) -> None:
        for registration in registrations:
            self.revision += self.counts_changes
            self.changes.tell(Change(kind, registration))


def _size(metadata: Mapping[str, str]) -> int:
    """Return how many bytes metadata takes in memory."""
    return sum(held_bytes(*entry) for entry in metadata.items())
