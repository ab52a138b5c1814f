"""A host on a socket that offers capabilities, and plugins that ask its broker for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import trio

from cpg_trio.host import Capability, Host, HostConfig
from cpg_trio.host.access.audit import Action, AuditEvent
from cpg_trio.rpc import ClientConfig
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.calls import Answer, Headers, WireCaller
from tests.host.routed import hosting
from tests.rpc.echo import Echo

BROKER = "/connectplugin.v1.CapabilityBroker/RequestCapability"
LOGGER = "/capability.logger.v1.Logger/Log"


@attrs.frozen
class Brokering(WireCaller):
    """A host that offers `echo` and `logger`, and how to call it."""

    host: Host
    url: str
    echo: Echo
    events: list[AuditEvent]

    async def ask(self, headers: Headers, **request: Any) -> Answer:
        return await self.post(BROKER, request, headers)

    async def granted(self, headers: Headers, capability_type: str = "echo", **request: Any) -> Any:
        """Return a grant, as it travels in JSON."""
        status, answer = await self.ask(headers, capabilityType=capability_type, **request)
        assert status == 200, answer
        return answer["grant"]

    def client(self, grant: Any) -> EchoServiceClient:
        """Return a client of the capability `echo`, as whoever has a grant uses it."""
        config = ClientConfig(headers=bearer(grant))
        return EchoServiceClient(grant["endpointUrl"], self.http, config)

    def audited(self, action: Action, *, allowed: bool = True) -> list[AuditEvent]:
        return [event for event in self.events if event.action == action and event.allowed == allowed]


def bearer(grant: Any) -> Headers:
    return {"Authorization": f"Bearer {grant['bearerToken']}"}


@asynccontextmanager
async def brokering(config: HostConfig | None = None, **changes: Any) -> AsyncIterator[Brokering]:
    echo = Echo()
    offered = [Capability.of("echo", "1.2.0", echo), *(config or HostConfig()).capabilities]
    config = attrs.evolve(config or HostConfig(), capabilities=offered, **changes)
    async with hosting(config) as (host, url), httpx.AsyncClient(base_url=url) as http:
        events: list[AuditEvent] = []
        host.audit.subscribe(events.append)
        yield Brokering(http, host, url, echo, events)
        with trio.CancelScope(shield=True):
            await http.aclose()
