"""A dependency: whether a required service is available, from which provider, and a client that calls it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TypeVar

import attrs
import httpx
import trio

from cpg_trio import wire
from cpg_trio._cell import Cell
from cpg_trio.call_record import Calls
from cpg_trio.http import Pool
from cpg_trio.plugin._recording import RecordedCalls
from cpg_trio.plugin._redirecting import Discard, RedirectingClient, ResponseT, Send, redirected
from cpg_trio.plugin._session import CALL_TIMEOUT_S, Provider, Session
from cpg_trio.plugin.direct import Direct, NotDeliveredError
from cpg_trio.rpc import (
    ClientConfig,
    Code,
    ConnectError,
    Duplex,
    HttpClient,
    HttpRequest,
    HttpResponse,
    HttpResponseHead,
    ServiceClient,
    check_client_class,
    http_client_of,
    send_duplex,
)

_log = logging.getLogger("cpg_trio.plugin")

_C = TypeVar("_C", bound=ServiceClient)
_MAX_TRIES = 10  # of a call that no provider has seen: several providers may be killed in quick succession
_MAX_TRIES_AT_ONE = 2  # while the host does not tell that the provider has changed
_CHANGE_S = 1.0  # how long to wait for that
_BAD_GATEWAY = 502
_UNAUTHORIZED = 401
_UNDELIVERED = wire.UNDELIVERED_HEADER.lower()
_PROVIDER_IS_AWAY = frozenset({404, 502, 503})
_GOES_BY_HOST = suppress(NotDeliveredError)  # one for all calls, as it is reentrant


class Dependency:
    """A service that a plugin requires.

    It has what the host has told last, and keeps that while the host cannot be reached.
    """

    def __init__(self, owner: str, service_type: str, min_version: str, *, required: bool) -> None:
        wire.validate_service_type(service_type)
        if min_version:
            wire.validate_version(min_version)
        self._owner = owner
        self.service_type = service_type
        self.min_version = min_version
        self.required = required
        self._provider: Cell[Provider | None] = Cell(None)
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
    ) -> _C:
        """Return a typed client that calls the provider at the time of each call.

        Its calls go through the host, or directly if the plugin's configuration allows that and the host
        grants it. They raise ConnectError `unavailable` at once while there is no provider. With `http`, that
        sends the calls, always through the host, in place of the plugin's own connections.
        """
        check_client_class(client_class)
        return client_class("", _ToProvider(self, None if http is None else http_client_of(http)), config)

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
            return wire.satisfies(provider.version, self.min_version)
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
        if provider is None:
            _log.info("%s: %s is not available", self._owner, self.service_type)
        elif before is None or before.runtime_id != provider.runtime_id:
            _log.info("%s: %s is provided by %s", self._owner, self.service_type, provider.runtime_id)


class _ToProvider(RedirectingClient):
    """An `HttpClient` of a dependency. A call that its provider has not seen is sent to the next provider.

    Nothing is requested for a call: the dependency knows the provider already.
    """

    def __init__(self, dependency: Dependency, http: HttpClient | None) -> None:
        self._dependency = dependency
        self._http = http

    async def _send(self, request: HttpRequest, send: Send[ResponseT], discard: Discard) -> ResponseT:
        for tries_left in reversed(range(_MAX_TRIES)):
            provider = self._dependency.callable_provider()
            if self._http is None and (grant := self._dependency.direct.grant_for(provider)) is not None:
                with _GOES_BY_HOST:
                    return await send(grant, request)
            response = await send(self._routed_calls(provider, request.url), _routed(request, provider))
            await _check_known(response, provider.session)
            if not (tries_left and await self._is_tried_again(request, response, provider, tries_left)):
                break
            await discard()
        return response

    def _routed_calls(self, provider: Provider, method: str) -> HttpClient:
        http, calls = self._http or provider.session.calls, self._dependency.calls
        if not calls.ended:
            return http
        return RecordedCalls(calls, http, provider, self._dependency.service_type, method)

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        """See `DuplexClient.duplex`."""
        provider = self._dependency.callable_provider()
        async with AsyncExitStack() as stack:
            if self._http is None and (grant := self._dependency.direct.grant_for(provider)) is not None:
                with _GOES_BY_HOST:
                    yield await stack.enter_async_context(grant.duplex(request))
                    return
            http = self._routed_calls(provider, request.url)
            duplex = await stack.enter_async_context(send_duplex(http, _routed(request, provider)))
            yield _CheckedDuplex(duplex, provider.session)

    async def _is_tried_again(
        self,
        request: HttpRequest,
        response: HttpResponseHead,
        provider: Provider,
        tries_left: int,
    ) -> bool:
        """Whether to send a request again: no provider has seen it, and there may be another provider.

        If the host does not tell of another one, it may be slow, or it may keep the provider because it was
        overloaded itself. So a few tries go to the same provider.
        """
        if not _is_undelivered(request, response):
            return False
        if await self._dependency.wait_changed(provider):
            return True
        is_first = tries_left >= _MAX_TRIES - _MAX_TRIES_AT_ONE
        return is_first and response.status == _BAD_GATEWAY and self._dependency.provider == provider


@attrs.frozen
class _CheckedDuplex:
    """A request whose response may be the host's, which does not know this plugin any more."""

    duplex: Duplex
    session: Session

    async def response(self) -> HttpResponse:
        """See `Duplex`."""
        response = await self.duplex.response()
        await _check_known(response, self.session)
        return response


def _routed(request: HttpRequest, provider: Provider) -> HttpRequest:
    """Return a request as it is sent through the host to a provider."""
    # The host adds the path of the service, and some hosts put all of the called path behind it.
    method = request.url[request.url.rindex("/") :]
    return redirected(request, provider.base_url + method, provider.session.headers)


async def _check_known(response: HttpResponseHead, session: Session) -> None:
    """Check whether a 401 is the host's, because it does not know this plugin any more.

    A provider may answer 401, too. Raises: ConnectError `unavailable` if it is the host's.
    """
    if response.status != _UNAUTHORIZED:
        return
    if session.host_id:
        if response.header(_UNDELIVERED):
            session.void.set()
    elif response.header("content-type").startswith("text/plain"):
        # The answer of such a host does not tell whose it is, so the host itself is asked.
        with trio.move_on_after(CALL_TIMEOUT_S), suppress(ConnectError):
            await session.check_token()
    if session.void.is_set():
        raise ConnectError(Code.UNAVAILABLE, "the host does not know this plugin any more")


def _is_undelivered(request: HttpRequest, response: HttpResponseHead) -> bool:
    """Whether no provider has seen a request, as the host says, and it can be sent again as it is."""
    return (
        response.status in _PROVIDER_IS_AWAY
        and response.header(_UNDELIVERED) == "true"
        and isinstance(request.body, bytes)
    )
