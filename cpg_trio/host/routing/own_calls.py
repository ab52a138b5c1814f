"""The calls that the host itself makes to the services of plugins: to where the router would send them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs

from cpg_trio import wire
from cpg_trio.calls import UndeliveredError
from cpg_trio.host.access import AccessCheck, Action, Identity, RefusedError
from cpg_trio.host.routing.routes import Route, Routes, ServicePath
from cpg_trio.http import Pool
from cpg_trio.rpc import (
    Duplex,
    Fault,
    HttpClient,
    HttpRequest,
    HttpResponse,
    PoolClient,
    WholeResponse,
    send_duplex,
)


class OwnCalls:
    """Sends the host's own calls. `host_id` returns the id of the host, which its runtime id has."""

    def __init__(self, access: AccessCheck, routes: Routes, pool: Pool, host_id: Callable[[], str]) -> None:
        self._access = access
        self._routes = routes
        self._pool = pool
        self._host_id = host_id

    def identity(self) -> Identity:
        """Return the host as a caller."""
        return Identity(f"{wire.HOST_NAME}-{self._host_id()}", wire.HOST_NAME)

    def to(self, endpoint_url: str) -> HttpClient:
        """Return what sends requests to a service at its path on the host."""
        return _ToPlugin(self, endpoint_url)

    def sent(self, endpoint_url: str, request: HttpRequest) -> tuple[HttpClient, HttpRequest]:
        """Return a request as it is sent, and by what. Raises: UndeliveredError."""
        raw_path = f"{endpoint_url}{request.url[request.url.rindex('/') :]}".encode()
        path, caller = ServicePath.parse(raw_path), self.identity()
        try:
            route = self._routes.get(raw_path) or self._routes.find(raw_path, path, caller.runtime_id)
        except RefusedError as refused:
            raise UndeliveredError(refused.code, refused.message, fault=refused.fault) from refused
        self._access.record_once(Action.CALL, caller, path.service_type, "the host calls")
        http = PoolClient(self._pool, route.provider.addresses, caller=caller.runtime_id, peer=Fault.PROVIDER)
        return http, self._signed(request, caller, route)

    def _signed(self, request: HttpRequest, caller: Identity, route: Route) -> HttpRequest:
        lines = self._routes.statement(caller, route).lines.decode("latin-1").splitlines()
        stated = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        url = route.provider.base_url.rstrip("/") + route.target.decode("latin-1")
        return attrs.evolve(request, url=url, headers=[*request.headers, *stated])


@attrs.frozen
class _ToPlugin:
    """An `HttpClient` that calls one service of a plugin as the host."""

    calls: OwnCalls
    endpoint_url: str

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """See `HttpClient.unary`."""
        http, sent = self.calls.sent(self.endpoint_url, request)
        return await http.unary(sent, max_bytes)

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        """See `HttpClient.stream`."""
        http, sent = self.calls.sent(self.endpoint_url, request)
        async with http.stream(sent) as response:
            yield response

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        """See `DuplexClient.duplex`."""
        http, sent = self.calls.sent(self.endpoint_url, request)
        async with send_duplex(http, sent) as duplex:
            yield duplex
