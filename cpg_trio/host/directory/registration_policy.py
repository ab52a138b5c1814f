"""Which plugins may provide which services: the policy, applied to what is registered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import suppress

from cpg_trio.host.access import AccessCheck, Action, Audit, Identities, Identity, Policy, RefusedError, Rules
from cpg_trio.host.directory.registry import Registry

_log = logging.getLogger("cpg_trio.host")


class RegistrationPolicy:
    """Checks registrations, those that are asked for and those that there are."""

    def __init__(
        self,
        access: AccessCheck,
        identities: Identities,
        registry: Registry,
        policy: Policy,
        audit: Audit,
        owns: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Take what it works on. `owns` tells by a runtime id whose registrations this host changes."""
        self._access = access
        self._identities = identities
        self._registry = registry
        self._policy = policy
        self._audit = audit
        self._owns = owns
        self._enforced: Rules | None = None

    def check(self, plugin: Identity, service_type: str) -> None:
        """Check that a plugin may register a service type. Raises: RefusedError `permission_denied`."""
        self._access.check_may_provide(plugin, service_type, self._registry.provider_names(service_type))

    def check_among(self, plugin: Identity, service_type: str, names: Collection[str]) -> None:
        """Check that a plugin may provide what plugins of some names provide. Raises: see `check`."""
        self._access.check_may_provide(plugin, service_type, names)

    def may_join(self, plugin: Identity, service_type: str) -> bool:
        """Whether a plugin may provide a service whatever the names of the others are that provide it."""
        try:
            return self._access.may_join(plugin, service_type, [""])
        except RefusedError:
            return False

    def may_keep(self, plugin: Identity, service_type: str) -> bool:
        """Whether a plugin may still provide what it has provided. A policy that fails permits nothing."""
        try:
            return self._identities.holds(plugin) and self._access.may_provide(plugin, service_type)
        except RefusedError:
            return False

    def enforce(self) -> None:
        """Remove the registrations that new rules deny. A policy that fails is asked again the next time."""
        if self._enforced is (rules := self._policy.rules):
            return
        with suppress(RefusedError):
            for runtime_id in filter(self._owns, self._registry.plugins()):
                self.enforce_for(runtime_id)
            self._enforced = rules

    def enforce_for(self, runtime_id: str) -> None:
        """Remove what the rules deny a plugin. Raises: RefusedError if the policy fails."""
        if (entry := self._identities.entry(runtime_id)) is not None:
            self._enforce(entry.identity)

    def _enforce(self, plugin: Identity) -> None:
        for registration in self._registry.registrations(plugin.runtime_id):
            if self._access.may_provide(plugin, registration.service_type):
                continue
            self._registry.unregister(plugin.runtime_id, registration.id)
            reason = f"{plugin.self_id} may not provide {registration.service_type} any more"
            self._audit.denied(Action.REGISTER, plugin.runtime_id, registration.service_type, reason=reason)
            _log.warning("%s: %s", plugin.runtime_id, reason)
