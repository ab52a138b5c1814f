"""The calls of a dependency: each goes to its provider, directly or through the host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import attrs
import trio

from cpg_trio import wire
from cpg_trio.plugin._recording import RecordedCalls
from cpg_trio.plugin._redirecting import Discard, RedirectingClient, ResponseT, Send, redirected
from cpg_trio.plugin._session import CALL_TIMEOUT_S, Provider, Session
from cpg_trio.plugin.direct import NotDeliveredError
from cpg_trio.rpc import (
    Code,
    ConnectError,
    Duplex,
    HttpClient,
    HttpRequest,
    HttpResponse,
    HttpResponseHead,
    send_duplex,
)

if TYPE_CHECKING:
    from cpg_trio.plugin.dependency import Dependency

_MAX_TRIES = 10  # of a call that no provider has seen: several providers may be killed in quick succession
_MAX_TRIES_AT_ONE = 2  # while the host does not tell that the provider has changed
_BAD_GATEWAY = 502
_UNAUTHORIZED = 401
_UNDELIVERED = wire.UNDELIVERED_HEADER.lower()
_PROVIDER_IS_AWAY = frozenset({404, 502, 503})
_GOES_BY_HOST = suppress(NotDeliveredError)  # one for all calls, as it is reentrant


class ToProvider(RedirectingClient):
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
