"""The calls of a dependency: each goes to its provider, directly or through the host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import attrs
import trio

from cpg_trio import wire
from cpg_trio.calls import UndeliveredError
from cpg_trio.http import ConnectFailedError
from cpg_trio.plugin._hosts import HostAddress
from cpg_trio.plugin._recording import RecordedCalls
from cpg_trio.plugin._redirecting import Discard, RedirectingClient, ResponseT, Send, redirected
from cpg_trio.plugin._session import CALL_TIMEOUT_S, Session, SessionProvider
from cpg_trio.plugin.direct import NotDeliveredError
from cpg_trio.rpc import (
    CallError,
    Code,
    ConnectError,
    Duplex,
    Fault,
    HttpClient,
    HttpRequest,
    HttpResponse,
    HttpResponseHead,
    WholeResponse,
)
from cpg_trio.rpc.http_client import send_duplex

if TYPE_CHECKING:
    from cpg_trio.plugin._required_service import RequiredService

_UNAUTHORIZED = 401
_UNDELIVERED = wire.UNDELIVERED_HEADER.lower()
_GOES_BY_HOST = suppress(NotDeliveredError)  # one for all calls, as it is reentrant


@attrs.define(eq=False)  # one for each call: a frozen class takes twice as long to make
class ToProvider(RedirectingClient):
    """An `HttpClient` that calls one provider of a dependency: directly if that is granted, or by the host.

    `http` sends the calls through the host; None is the plugin's own connections.
    """

    dependency: RequiredService
    http: HttpClient | None
    provider: SessionProvider

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """See `HttpClient.unary`. What `_send` does, on a shorter way."""
        provider = self.provider
        if self.http is None and (grant := self.dependency.direct.grant_for(provider)) is not None:
            with _GOES_BY_HOST:
                return await grant.unary(request, max_bytes)
        at = provider.session.hosts.current
        try:
            http = self._routed_calls(at, request.url)
            response = await http.unary(_routed(request, provider, at), max_bytes)
        except ConnectError as error:
            self._note_host(at, error)
            raise
        if response.status == _UNAUTHORIZED:
            await _check_known(response, provider.session)
        return response

    async def _send(
        self,
        request: HttpRequest,
        send: Send[ResponseT],
        discard: Discard,  # noqa: ARG002 - each response counts
    ) -> ResponseT:
        provider = self.provider
        if self.http is None and (grant := self.dependency.direct.grant_for(provider)) is not None:
            with _GOES_BY_HOST:
                return await send(grant, request)
        at = provider.session.hosts.current
        try:
            response = await send(self._routed_calls(at, request.url), _routed(request, provider, at))
        except ConnectError as error:
            self._note_host(at, error)
            raise
        if response.status == _UNAUTHORIZED:
            await _check_known(response, provider.session)
        return response

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        """See `DuplexClient.duplex`."""
        provider = self.provider
        async with AsyncExitStack() as stack:
            if self.http is None and (grant := self.dependency.direct.grant_for(provider)) is not None:
                with _GOES_BY_HOST:
                    yield await stack.enter_async_context(grant.duplex(request))
                    return
            at = provider.session.hosts.current
            try:
                http = self._routed_calls(at, request.url)
                duplex = await stack.enter_async_context(send_duplex(http, _routed(request, provider, at)))
            except ConnectError as error:
                self._note_host(at, error)
                raise
            yield _CheckedDuplex(duplex, provider.session)

    def _routed_calls(self, at: HostAddress, method: str) -> HttpClient:
        calls, http = self.dependency.calls, self.http or at.calls
        if not calls.ended:
            return http
        return RecordedCalls(calls, http, self.provider, self.dependency.service_type, method)

    def _note_host(self, at: HostAddress, error: ConnectError) -> None:
        """Note that a client of the author's own could not connect to the host."""
        if self.http is not None and isinstance(error.__cause__, ConnectFailedError):
            at.failed(error.message)


@attrs.frozen
class _CheckedDuplex:
    """A request whose response may be the host's, which does not know this plugin any more."""

    duplex: Duplex
    session: Session

    async def response(self) -> HttpResponse:
        """See `Duplex`."""
        response = await self.duplex.response()
        if response.status == _UNAUTHORIZED:
            await _check_known(response, self.session)
        return response


def _routed(request: HttpRequest, provider: SessionProvider, at: HostAddress) -> HttpRequest:
    """Return a request as it is sent through a host to a provider."""
    # The host adds the path of the service, and some hosts put all of the called path behind it.
    method = request.url[request.url.rindex("/") :]
    return redirected(request, f"{at.url}{provider.endpoint_url}{method}", provider.session.headers)


async def _check_known(response: HttpResponseHead, session: Session) -> None:
    """Check whether a 401 is the host's, because it does not know this plugin any more.

    A provider may answer 401, too. Raises: ConnectError `unavailable` if it is the host's; that is an
    UndeliveredError if no provider has seen the call.
    """
    if session.host_id:
        mark = response.header(_UNDELIVERED)
        if not mark:
            return
        session.void.set()
        undelivered = mark == "true"  # not of a call in flight whose caller has lost its identity
    elif response.header("content-type").startswith("text/plain"):
        # The answer of such a host does not tell whose it is, so the host itself is asked.
        with trio.move_on_after(CALL_TIMEOUT_S), suppress(ConnectError):
            await session.check_token()
        undelivered = session.void.is_set()
        if not undelivered:
            return
    else:
        return
    error = UndeliveredError if undelivered else CallError
    raise error(Code.UNAVAILABLE, "the host does not know this plugin any more", fault=Fault.HOST)
