"""A live dependency: an object that always knows whether a service can be had, and from whom."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TypeVar

import trio

from cpg_trio import wire
from cpg_trio._cell import Cell
from cpg_trio.plugin._handshake import CALL_TIMEOUT_S
from cpg_trio.plugin._provider import Provider
from cpg_trio.plugin._session import Session
from cpg_trio.plugin.direct import Direct
from cpg_trio.rpc import (
    ClientConfig,
    Code,
    ConnectError,
    HttpRequest,
    HttpResponse,
    ServiceClient,
    WholeResponse,
    check_client_class,
)

_log = logging.getLogger("cpg_trio.plugin")

_C = TypeVar("_C", bound=ServiceClient)
_MAX_TRIES = 10  # of a call that nobody has seen: kills in quick succession leave some that are gone
_TRIES_WITHOUT_NEWS = 2
_BAD_GATEWAY = 502
_NEWS_S = 1.0  # for the host's word on a provider that could not be reached
_UNAUTHORIZED = 401
_UNDELIVERED = wire.UNDELIVERED_HEADER.lower()
_PROVIDER_IS_AWAY = frozenset({404, 502, 503})


class Dependency:
    """A service that a plugin requires, followed from the plugin's first registration to its end.

    What it knows is true as of the host's last word. While the host cannot be reached, it keeps to that.
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
        self.direct = Direct(owner, service_type)

    @property
    def provider(self) -> Provider | None:
        """Who provides it now, or None."""
        return self._provider.value

    @property
    def available(self) -> bool:
        """Whether it can be called now."""
        return self.provider is not None

    @property
    def degraded(self) -> bool:
        """Whether who provides it says that it works with less than it needs."""
        return self.provider is not None and self.provider.degraded

    async def wait_available(self) -> Provider:
        """Wait until it can be called; return who provides it.

        While the plugin registers with its host anew, it cannot.
        """
        async for provider in self._provider.reader():
            if provider is not None and not provider.session.void.is_set():
                return provider
        raise AssertionError("the cell of a dependency is never closed")  # pragma: no cover

    @property
    def changes(self) -> Cell[Provider | None]:
        """The cell behind `provider`, for those who wait on it."""
        return self._provider

    def client(self, client_class: type[_C], config: ClientConfig | None = None) -> _C:
        """Return a typed client that calls whoever provides the dependency at the time of each call.

        Its calls go through the host, or directly if the plugin's configuration says so and the host gives
        leave. They raise ConnectError `unavailable` at once while there is nobody.
        """
        check_client_class(client_class)
        return client_class("", _ToProvider(self), config)

    def callable_provider(self) -> Provider:
        """Return who can be called now. Raises: ConnectError `unavailable` if there is nobody."""
        if self.provider is None:
            raise ConnectError(Code.UNAVAILABLE, f"no provider of {self.service_type} is available")
        if self.provider.session.void.is_set():
            raise ConnectError(Code.UNAVAILABLE, "the plugin is registering with its host anew")
        return self.provider

    async def moves_from(self, provider: Provider) -> bool:
        """Wait for news of a provider that could not be reached; return whether there is another now."""
        with trio.move_on_after(_NEWS_S):
            async for now in self._provider.reader():
                if now != provider:
                    return now is not None
        return False

    def forget(self) -> None:
        """Know nothing any more. Run by the plugin, when it has ended."""
        self._provider.set(None)

    def suits(self, provider: Provider) -> bool:
        """Whether a provider is new enough."""
        try:
            return wire.satisfies(provider.version, self.min_version)
        except wire.InvalidError:
            return False

    def hear(self, session: Session, provider: Provider | None) -> None:
        """Take the host's word. Run by the plugin.

        A host that has only just begun may not know everybody yet. Its word that there is nobody is believed
        once that has settled; until then who was there before counts as there.
        """
        if provider is not None or not self._is_of_before(session):
            self._set(provider)

    def settle(self, session: Session) -> None:
        """Forget who was there before this session and has not come back. Run by the plugin."""
        if self._is_of_before(session):
            self._set(None)

    def _is_of_before(self, session: Session) -> bool:
        return self.provider is not None and self.provider.session is not session

    def _set(self, provider: Provider | None) -> None:
        before = self.provider
        if not self._provider.set(provider):
            return
        if provider is None:
            _log.info("%s: %s is not available", self._owner, self.service_type)
        elif before is None or before.runtime_id != provider.runtime_id:
            _log.info("%s: %s is provided by %s", self._owner, self.service_type, provider.runtime_id)


class _ToProvider:
    """An `HttpClient` with whoever provides a dependency now; if a call did not get there, who does then.

    It asks nobody: the dependency knows already, and session and provider have at hand what a call needs.
    """

    def __init__(self, dependency: Dependency) -> None:
        self._dependency = dependency

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        async with AsyncExitStack() as stack:
            for tries_left in reversed(range(_MAX_TRIES)):
                provider = self._dependency.callable_provider()
                if (directly := await self._dependency.direct.open(stack, request, provider)) is not None:
                    response = directly
                    break
                block = provider.session.calls.stream(_routed(request, provider))
                response = await stack.enter_async_context(block)
                await _check_known(response, provider.session)
                if not (tries_left and await self._is_tried_again(request, response, provider, tries_left)):
                    break
                await stack.aclose()
            yield response

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        for tries_left in reversed(range(_MAX_TRIES)):
            provider = self._dependency.callable_provider()
            if (directly := await self._dependency.direct.unary(request, max_bytes, provider)) is not None:
                return directly
            response = await provider.session.calls.unary(_routed(request, provider), max_bytes)
            await _check_known(response, provider.session)
            if not (tries_left and await self._is_tried_again(request, response, provider, tries_left)):
                break
        return response

    async def _is_tried_again(
        self,
        request: HttpRequest,
        response: HttpResponse | WholeResponse,
        provider: Provider,
        tries_left: int,
    ) -> bool:
        """Whether a request is worth another try: no provider has seen it, and there may be another.

        While no news comes of one that could not be reached, the host may be slow to tell, or may not count
        what failed as it was itself held up. So a few tries go to the same provider.
        """
        if not _undelivered(request, response):
            return False
        if await self._dependency.moves_from(provider):
            return True
        is_first = tries_left >= _MAX_TRIES - _TRIES_WITHOUT_NEWS
        return is_first and response.status == _BAD_GATEWAY and self._dependency.provider == provider


def _routed(request: HttpRequest, provider: Provider) -> HttpRequest:
    """Return a request as it is sent through the host to a provider."""
    proof = provider.session.headers
    headers = [header for header in request.headers if header[0] not in proof]
    headers += proof.items()
    # The host knows the path of the service, and some hosts put all that they are asked for behind it.
    method = request.url[request.url.rindex("/") :]
    return HttpRequest(request.method, provider.base_url + method, headers, request.body)


async def _check_known(response: HttpResponse | WholeResponse, session: Session) -> None:
    """Check that a refusal is not the host's, of this plugin; a provider may answer whatever it likes.

    Raises: ConnectError `unavailable` if the host does not know the plugin any more.
    """
    if response.status != _UNAUTHORIZED:
        return
    if session.host_id:
        if response.header(_UNDELIVERED):
            session.void.set()
    elif response.header("content-type").startswith("text/plain"):
        # Whose word it is cannot be seen in an answer of such a host, so the host itself is asked.
        with trio.move_on_after(CALL_TIMEOUT_S), suppress(ConnectError):
            await session.check_token()
    if session.void.is_set():
        raise ConnectError(Code.UNAVAILABLE, "the host does not know this plugin any more")


def _undelivered(request: HttpRequest, response: HttpResponse | WholeResponse) -> bool:
    """Whether the host says that no provider has seen a request, which can be sent again as it is."""
    return (
        response.status in _PROVIDER_IS_AWAY
        and response.header(_UNDELIVERED) == "true"
        and isinstance(request.body, bytes)
    )
