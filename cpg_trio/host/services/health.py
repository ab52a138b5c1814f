"""The host's own health, as an RPC service.

It knows the host as a whole (the empty name) and each service type that is registered. A host that is
stopping reports NOT_SERVING.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import attrs

from cpg_trio._cell import Cell, Reader
from cpg_trio.host.access import AccessCheck, Kind, Limits, Shares, check_held_request
from cpg_trio.host.directory import Change, Registry
from cpg_trio.host.services.edges import answering, credentials, peer_of
from cpg_trio.protos.connectplugin.health.v1 import health_pb2 as pb
from cpg_trio.protos.connectplugin.health.v1.health_trio import HealthService
from cpg_trio.rpc import Code, ConnectError, Context


@attrs.define
class _Watched:
    """A service that is watched."""

    status: Cell[pb.ServingStatus]
    watches: int = 0


class HostHealth(HealthService):
    """`connectplugin.health.v1.HealthService`."""

    def __init__(self, access: AccessCheck, registry: Registry, limits: Limits) -> None:
        self._access = access
        self._registry = registry
        self._watches = Shares("watches of health", limits.max_health_watches)
        self.stopping = False
        """Whether the host has begun to stop."""
        self._watched: dict[str, _Watched] = {}
        registry.changes.add(self._changed)

    def stop(self) -> None:
        """Report NOT_SERVING from now on, also to all watches, and end these."""
        self.stopping = True
        for service, watched in self._watched.items():
            watched.status.set(self._status(service))
            watched.status.close()

    async def check(self, request: pb.HealthCheckRequest, _ctx: Context, /) -> pb.HealthCheckResponse:
        """Return a status. Raises: ConnectError `not_found` for a name that is not known."""
        status = self._status(request.service)
        if status == pb.SERVING_STATUS_SERVICE_UNKNOWN:
            raise ConnectError(Code.NOT_FOUND, f"unknown service: {request.service}")
        return pb.HealthCheckResponse(status=status)

    async def watch(
        self, request: pb.HealthCheckRequest, ctx: Context, /
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """Yield the current status, then each change of it.

        Raises: ConnectError `resource_exhausted`; `invalid_argument` for a request that is too long.
        """
        peer = peer_of(ctx)
        with answering(ctx):
            identity = self._access.identify(*credentials(ctx), peer)
            self._access.count(Kind.WATCH, identity.runtime_id if identity else peer.key)
            check_held_request(request)
            with self._watches.held(peer.key), self._watching(request.service) as statuses:
                async for status in statuses:
                    yield pb.HealthCheckResponse(status=status)

    @contextmanager
    def _watching(self, service: str) -> Iterator[Reader[pb.ServingStatus]]:
        """Yield the statuses of a service for as long as the block lasts. All its watches share a cell."""
        watched = self._watched.get(service)
        if watched is None:
            watched = self._watched[service] = _Watched(Cell(self._status(service)))
            if self.stopping:
                watched.status.close()
        watched.watches += 1
        try:
            yield watched.status.reader()
        finally:
            watched.watches -= 1
            if not watched.watches:
                del self._watched[service]

    def _status(self, service: str) -> pb.ServingStatus:
        if service and not self._registry.provides(service):
            return pb.SERVING_STATUS_SERVICE_UNKNOWN
        serving = not self.stopping and (not service or self._registry.available(service))
        return pb.SERVING_STATUS_SERVING if serving else pb.SERVING_STATUS_NOT_SERVING

    def _changed(self, change: Change) -> None:
        service = change.registration.service_type
        if (watched := self._watched.get(service)) is not None:
            watched.status.set(self._status(service))
