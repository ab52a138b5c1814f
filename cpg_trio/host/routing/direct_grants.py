"""Grants for direct calls: a plugin calls a provider without the host in between.

A grant is a statement that the provider can check by itself (see `cpg_trio.assertions`). It names the caller,
the provider and the service. It is good for a short time, in which the host cannot take it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from cpg_trio import wire
from cpg_trio._addresses import is_loopback
from cpg_trio.assertions import LONGEST_S, Assertion, Purpose, sign
from cpg_trio.host.access import Identities, Identity
from cpg_trio.host.directory import NoProviderError, Registration, Registry
from cpg_trio.host.routing.routes import encoded_endpoint
from cpg_trio.http import Origin
from cpg_trio.versions import Requirement, satisfies

GRANT_S = LONGEST_S
"""How long a caller may call a provider directly before it has to ask again, in seconds."""


class NotDirectlyError(Exception):
    """A service cannot be called directly now; the message says why. It can be called through the host."""


@attrs.frozen
class DirectGrant:
    """Permission to call one service of one provider directly."""

    provider: Registration
    endpoint_url: str
    """The provider's own URL and the service's path there."""
    token: str = attrs.field(repr=False)


class DirectGrants:
    """Issues grants. Whether the caller may call the service is checked before."""

    def __init__(
        self, identities: Identities, registry: Registry, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._identities = identities
        self._registry = registry
        self._wall_clock = wall_clock

    def issue(
        self, caller: Identity, service_type: str, min_version: str = "", provider_id: str = ""
    ) -> DirectGrant:
        """Return a grant for a provider: `provider_id`, or the one that discovery selects if that is empty.

        Raises: NotDirectlyError; wire.InvalidError for a minimum that is no version.
        """
        provider = self._provider(service_type, min_version, provider_id)
        entry = self._identities.entry(provider.runtime_id)
        if entry is None or provider.metadata.get(wire.DIRECT_KEY) != "true":
            raise NotDirectlyError(f"{provider.runtime_id} does not take calls but through the host")
        origin, path = _location(provider)
        if _is_local(origin.host) and not (_is_local(caller.address) or not caller.address):
            raise NotDirectlyError(f"{provider.runtime_id} is reached on the host's own machine only")
        url = f"{origin.scheme}://{origin.host_header.decode()}{path}"
        statement = Assertion(
            caller.runtime_id, caller.self_id, provider.runtime_id, path, self._wall_clock() + GRANT_S
        )
        return DirectGrant(provider, url, sign(entry.digest, Purpose.DIRECT, statement))

    def _provider(self, service_type: str, min_version: str, provider_id: str) -> Registration:
        if not provider_id:
            try:
                return self._registry.discover(service_type, Requirement.parse(min_version))[0]
            except NoProviderError as error:
                raise NotDirectlyError(str(error)) from None
        provider = self._registry.provider(service_type, provider_id)
        if provider is None or not satisfies(provider.version, min_version):
            raise NotDirectlyError(f"{provider_id} does not provide {service_type} {min_version}".rstrip())
        if provider.id not in self._registry.callable_ids:
            raise NotDirectlyError(f"{provider_id} gets no calls now")
        return provider


def _location(provider: Registration) -> tuple[Origin, str]:
    """Return where a provider is, and the path of its service there, as it is encoded."""
    try:
        origin, prefix = Origin.parse(provider.base_url)
    except ValueError:
        raise NotDirectlyError(f"{provider.runtime_id} has registered no URL that it is reached at") from None
    if provider.address and origin.scheme == "http":
        # The caller gets the address that was checked: the name may resolve to another one there. With TLS
        # it gets the name, which the certificate is for.
        origin = attrs.evolve(origin, host=provider.address)
    return origin, prefix.decode() + encoded_endpoint(provider)


def _is_local(host: str) -> bool:
    return host == "localhost" or is_loopback(host)
