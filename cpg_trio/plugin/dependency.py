"""A dependency: a service that a plugin or a session requires, as its author sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import httpx

from cpg_trio.calls.dependency import AnyDependency
from cpg_trio.http import Pool
from cpg_trio.plugin._required_service import RequiredService
from cpg_trio.rpc import ClientConfig, HttpClient, Interceptor, ServiceClient

_C = TypeVar("_C", bound=ServiceClient)


class Dependency(AnyDependency[RequiredService]):
    """A service that a plugin or a session requires. Made by `require`.

    It knows what the host has told last, and keeps that while the host cannot be reached.
    """

    @property
    def required(self) -> bool:
        """Whether the plugin is DEGRADED while there is no provider."""
        return self._service.required

    def client(
        self,
        client_class: type[_C],
        config: ClientConfig | None = None,
        *,
        http: httpx.AsyncClient | Pool | HttpClient | None = None,
        interceptors: Iterable[Interceptor] = (),
    ) -> _C:
        """Return a typed client that calls the provider at the time of each call.

        Its calls pass the dependency's interceptors and then these, before a provider is chosen.

        Its calls go through the host, or directly if the plugin's configuration allows that and the host
        grants it. They raise CallError `unavailable` at once while there is no provider. With `http`, that
        sends the calls, always through the host, in place of the plugin's own connections.
        """
        return self._service.client(client_class, config, http=http, interceptors=interceptors)
