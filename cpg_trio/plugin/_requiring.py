"""What a plugin and a session have in common: they require services, and have clients of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TypeVar

from cpg_trio.calls import CallPolicy
from cpg_trio.plugin._dependencies import Dependencies
from cpg_trio.plugin.dependency import Dependency
from cpg_trio.rpc import ClientConfig, Interceptor, ServiceClient
from cpg_trio.rpc.given import check_client_class, check_service_type, check_texts, described
from cpg_trio.rpc.interceptors import checked_interceptors
from cpg_trio.versions import Requirement

_C = TypeVar("_C", bound=ServiceClient)


class Requiring(ABC):
    """Requires services."""

    @abstractmethod
    def require(
        self,
        service_type: str,
        *,
        version: str = "",
        min_version: str = "",
        policy: CallPolicy | None = None,
    ) -> Dependency:
        """Require a service."""

    @abstractmethod
    def _required(self) -> Dependencies:
        """Return what is required by now."""

    def _requirement(
        self,
        owner: str,
        service_type: str,
        version: str,
        min_version: str,
        policy: CallPolicy | None,
    ) -> Requirement:
        """Return which versions are required of a service that is not required yet. Raises: as `require`."""
        check_service_type("require", service_type)
        if service_type in self._required():
            raise ValueError(
                f"{owner} requires {service_type} already: keep what require() has returned, which may have"
                " several clients"
            )
        if policy is not None and not isinstance(policy, CallPolicy):
            raise TypeError(f"policy is a CallPolicy, and not {described(policy)}")
        check_texts(version=version, min_version=min_version)
        return Requirement.parse(min_version, version)

    def client(
        self,
        service_type: str,
        client_class: type[_C],
        *,
        version: str = "",
        min_version: str = "",
        policy: CallPolicy | None = None,
        interceptors: Iterable[Interceptor] = (),
        config: ClientConfig | None = None,
    ) -> _C:
        """Return a client of a service: `require`, unless it is required already, and `Dependency.client`.

        `interceptors` see the calls of this client only, inside of those of the dependency. What is required
        already is as it was required if no version and no policy are given.

        Raises: as `require`; ValueError for another version or policy than it is required with; TypeError for
        what is no generated class, or no interceptor.
        """
        check_service_type("client", service_type)
        check_client_class(client_class)
        if not isinstance(config, ClientConfig | None):
            raise TypeError(f"config is a ClientConfig, and not {described(config)}")
        interceptors = checked_interceptors(interceptors)
        service = self._required().agreeing(
            service_type, version=version, min_version=min_version, policy=policy
        )
        if service is None:
            return self.require(service_type, version=version, min_version=min_version, policy=policy).client(
                client_class, config, interceptors=interceptors
            )
        return service.client(client_class, config, interceptors=interceptors)
