"""The calls that the host itself makes to the services of plugins: through its own router, in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import attrs

from cpg_trio import wire
from cpg_trio.host.access import Identity
from cpg_trio.host.directory import LocalPlugins
from cpg_trio.rpc import AppClient, Duplex, HttpClient, HttpRequest, HttpResponse, WholeResponse


class OwnCalls:
    """Sends the host's own calls. `host_id` returns the id of the host, which its runtime id has."""

    def __init__(self, local: LocalPlugins, host_id: Callable[[], str]) -> None:
        self._local = local
        self._host_id = host_id

    def identity(self) -> Identity:
        """Return the host as a caller."""
        return Identity(f"{wire.HOST_NAME}-{self._host_id()}", wire.HOST_NAME)

    def to(self, endpoint_url: str) -> HttpClient:
        """Return what sends requests to a service at its path on the host."""
        return _ToPlugin(self._local.client(self.identity()), endpoint_url)


@attrs.frozen
class _ToPlugin:
    """An `HttpClient` that calls one service of a plugin as the host."""

    http: AppClient
    endpoint_url: str

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """See `HttpClient.unary`."""
        return await self.http.unary(self._sent(request), max_bytes)

    def stream(self, request: HttpRequest) -> AbstractAsyncContextManager[HttpResponse]:
        """See `HttpClient.stream`."""
        return self.http.stream(self._sent(request))

    def duplex(self, request: HttpRequest) -> AbstractAsyncContextManager[Duplex]:
        """See `DuplexClient.duplex`."""
        return self.http.duplex(self._sent(request))

    def _sent(self, request: HttpRequest) -> HttpRequest:
        return attrs.evolve(request, url=f"{self.endpoint_url}{request.url[request.url.rindex('/') :]}")
