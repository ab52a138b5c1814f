"""What the host says to anybody who asks: a plugin that provides nothing, and only looks."""

from __future__ import annotations

import attrs
import httpx

from cpg_trio.http import Pool
from cpg_trio.plugin._hosts import Hosts
from cpg_trio.plugin._session import Introduction, Session, handshake
from cpg_trio.protos.connectplugin.health.v1.health_pb2 import HealthCheckRequest
from cpg_trio.protos.connectplugin.health.v1.health_trio import HealthServiceClient
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import ClientConfig, Code, ConnectError
from tests._gen.echo.v1.echo_trio import EchoServiceClient

NOBODY = "nobody"
OTHERS = " and others"

_TIMEOUT_S = 5.0


@attrs.define
class Observer:
    """Each question raises ConnectError while the host cannot answer it."""

    host_url: str
    pool: Pool
    http: httpx.AsyncClient
    _session: Session | None = None

    async def session(self) -> Session:
        """Return its standing with the host; a new one if the host has forgotten it."""
        if self._session is None or self._session.void.is_set():
            self._session = await handshake(
                Hosts([self.host_url], self.pool), Introduction("observer", "1.0.0")
            )
        return self._session

    async def picture(self, *service_types: str) -> dict[str, str]:
        """Return what a watcher of each type is told."""
        return {service_type: await self.told(service_type) for service_type in service_types}

    async def told(self, service_type: str) -> str:
        """Return what a watcher of a type is told: AVAILABLE, DEGRADED or UNAVAILABLE."""
        session = await self.session()
        try:
            request = pb.WatchServiceRequest(service_type=service_type)
            async with session.registry.watch_service(request, timeout_s=_TIMEOUT_S) as events:
                async for event in events:
                    return pb.ServiceState.Name(event.state).removeprefix("SERVICE_STATE_")
        except ConnectError as error:
            self._note(session, error)
            raise
        raise ConnectError(Code.UNAVAILABLE, "the watch ended without a word")

    async def offered(self, service_type: str) -> str:
        """Return the runtime id that is offered for a type, or NOBODY; OTHERS follows if it is not alone."""
        session = await self.session()
        try:
            request = pb.DiscoverServiceRequest(service_type=service_type)
            found = await session.registry.discover_service(request, timeout_s=_TIMEOUT_S)
        except ConnectError as error:
            self._note(session, error)
            if error.code != Code.NOT_FOUND:
                raise
            return NOBODY
        return found.endpoint.provider_id + ("" if found.single_provider else OTHERS)

    async def known(self, service_type: str) -> bool:
        """Return whether anybody has registered a type, as the host's health service says."""
        try:
            health = HealthServiceClient(self.host_url, self.http)
            await health.check(HealthCheckRequest(service=service_type), timeout_s=_TIMEOUT_S)
        except ConnectError as error:
            if error.code != Code.NOT_FOUND:
                raise
            return False
        return True

    async def routed(self, service_type: str, runtime_id: str) -> int:
        """Return with which status the router answers a call of a method that no provider has."""
        session = await self.session()
        url = f"{self.host_url}/services/{service_type}/{runtime_id}/NoSuchMethod"
        return (await self.http.post(url, headers=session.headers, json={})).status_code

    async def echo(self, service_type: str, runtime_id: str) -> EchoServiceClient:
        """Return a client of a provider of the tests' echo service, through the router."""
        session = await self.session()
        address = f"{self.host_url}/services/{service_type}/{runtime_id}"
        return EchoServiceClient(address, self.http, ClientConfig(headers=session.headers))

    def _note(self, session: Session, error: ConnectError) -> None:
        if error.code == Code.UNAUTHENTICATED:
            session.void.set()
