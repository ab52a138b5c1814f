"""A dependency: whether a required service is available, from which provider, and a client that calls it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TypeVar

import httpx
import trio

from cpg_trio import wire
from cpg_trio._cell import Cell
from cpg_trio.call_record import Calls
from cpg_trio.http import Pool
from cpg_trio.plugin._calling import ToProvider
from cpg_trio.plugin._session import Provider, Session
from cpg_trio.plugin.direct import Direct
from cpg_trio.rpc import (
    ClientConfig,
    Code,
    ConnectError,
    HttpClient,
    Interceptor,
    ServiceClient,
    check_client_class,
    checked_interceptors,
    http_client_of,
)
from cpg_trio.versions import satisfies

_log = logging.getLogger("cpg_trio.plugin")

_C = TypeVar("_C", bound=ServiceClient)
_CHANGE_S = 1.0  # how long to wait for the provider to change


class Dependency:
    """A service that a plugin requires.

    It has what the host has told last, and keeps that while the host cannot be reached.
    """

    def __init__(
        self,
        owner: str,
        service_type: str,
        min_version: str,
        *,
        required: bool,
        interceptors: Iterable[Interceptor] = (),
    ) -> None:
        wire.validate_service_type(service_type)
        if min_version:
            wire.validate_version(min_version)
        self._owner = owner
        self.service_type = service_type
        self.min_version = min_version
        self.required = required
        self.interceptors = checked_interceptors(interceptors)
        """Those of all its clients, outside of each client's own."""
        self._provider: Cell[Provider | None] = Cell(None)
        self.providers: Cell[Mapping[str, Provider]] = Cell({})
        """The providers that the host tells of, by runtime id."""
        self.calls = Calls()
        """The calls through the host. A call is recorded if somebody listens."""
        self.direct = Direct(owner, service_type)

    @property
    def provider(self) -> Provider | None:
        """The provider now, or None."""
        return self._provider.value

    @property
    def available(self) -> bool:
        """Whether there is a provider now."""
        return self.provider is not None

    @property
    def degraded(self) -> bool:
        """Whether the provider reports that it is degraded."""
        return self.provider is not None and self.provider.degraded

    async def wait_available(self) -> Provider:
        """Wait until the service can be called; return its provider.

        It cannot be called while the plugin has lost its host and registers again.
        """
        async for provider in self._provider.reader():
            if provider is not None and not provider.session.void.is_set():
                return provider
        raise AssertionError("the cell of a dependency is never closed")  # pragma: no cover

    @property
    def changes(self) -> Cell[Provider | None]:
        """The cell behind `provider`, to wait on."""
        return self._provider

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
        grants it. They raise ConnectError `unavailable` at once while there is no provider. With `http`, that
        sends the calls, always through the host, in place of the plugin's own connections.
        """
        check_client_class(client_class)
        calling = ToProvider(self, None if http is None else http_client_of(http))
        return client_class("", calling, config, interceptors=(*self.interceptors, *interceptors))

    def callable_provider(self) -> Provider:
        """Return the provider to call now. Raises: ConnectError `unavailable` if there is none."""
        provider = self._provider.value
        if provider is None:
            raise ConnectError(Code.UNAVAILABLE, f"no provider of {self.service_type} is available")
        if provider.session.void.is_set():
            raise ConnectError(Code.UNAVAILABLE, "the plugin is registering with its host anew")
        return provider

    async def wait_changed(self, provider: Provider) -> bool:
        """Wait a while for the provider to change; return whether there is another one."""
        with trio.move_on_after(_CHANGE_S):
            async for now in self._provider.reader():
                if now != provider:
                    return now is not None
        return False

    def forget(self) -> None:
        """Have no provider any more. Called by the plugin when it has ended."""
        self._provider.set(None)

    def suits(self, provider: Provider) -> bool:
        """Whether a provider is new enough."""
        try:
            return satisfies(provider.version, self.min_version)
        except wire.InvalidError:
            return False

    def update(self, session: Session, provider: Provider | None) -> None:
        """Take the provider that the host tells of. Called by the plugin.

        A host that has just started may not know all plugins yet. So the provider of a session before stays
        until the new host tells of another one, or until `settle`.
        """
        if provider is not None or not self._is_of_former_session(session):
            self._set(provider)

    def settle(self, session: Session) -> None:
        """Drop a provider of a session before this one. Called by the plugin after a while."""
        if self._is_of_former_session(session):
            self._set(None)

    def _is_of_former_session(self, session: Session) -> bool:
        return self.provider is not None and self.provider.session is not session

    def _set(self, provider: Provider | None) -> None:
        before = self.provider
        if not self._provider.set(provider):
            return
        self.providers.set({} if provider is None else {provider.runtime_id: provider})
        if provider is None:
            _log.info("%s: %s is not available", self._owner, self.service_type)
        elif before is None or before.runtime_id != provider.runtime_id:
            _log.info("%s: %s is provided by %s", self._owner, self.service_type, provider.runtime_id)
