"""The calls that the host itself makes to the services of plugins: through its own router, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import trio

from cpg_trio import wire
from cpg_trio.host.access import Identity
from cpg_trio.host.directory import CallsInFlight, LocalPlugins
from cpg_trio.rpc import Duplex, HttpClient, HttpRequest, HttpResponse, WholeResponse
from cpg_trio.rpc.app_client import AppClient


class OwnCalls:
    """Sends the host's own calls. `host_id` returns the id of the host, which its runtime id has."""

    def __init__(self, local: LocalPlugins, in_flight: CallsInFlight, host_id: Callable[[], str]) -> None:
        self._local = local
        self._in_flight = in_flight
        self._host_id = host_id
        self._count = 0
        self._idle = trio.lowlevel.ParkingLot()

    def identity(self) -> Identity:
        """Return the host as a caller."""
        return Identity(f"{wire.HOST_NAME}-{self._host_id()}", wire.HOST_NAME)

    def to(self, endpoint_url: str) -> HttpClient:
        """Return what sends requests to a service at its path on the host."""
        return _ToPlugin(self, self._local.client(self.identity()), endpoint_url)

    async def finish(self, grace_s: float) -> None:
        """Wait until those in flight have ended, which they do at the end of the grace at the latest."""
        with trio.move_on_after(grace_s):
            while self._count:
                await self._idle.park()
        self._in_flight.cancel_of_caller(self.identity().runtime_id)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Within the block, a call is in flight."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._idle.unpark_all()


@attrs.frozen
class _ToPlugin:
    """An `HttpClient` that calls one service of a plugin as the host."""

    calls: OwnCalls
    http: AppClient
    endpoint_url: str

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """See `HttpClient.unary`."""
        with self.calls.counted():
            return await self.http.unary(self._sent(request), max_bytes)

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        """See `HttpClient.stream`."""
        with self.calls.counted():
            async with self.http.stream(self._sent(request)) as response:
                yield response

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        """See `DuplexClient.duplex`."""
        with self.calls.counted():
            async with self.http.duplex(self._sent(request)) as duplex:
                yield duplex

    def _sent(self, request: HttpRequest) -> HttpRequest:
        return attrs.evolve(request, url=f"{self.endpoint_url}{request.url[request.url.rindex('/') :]}")
