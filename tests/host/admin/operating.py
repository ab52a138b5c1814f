"""A host without a socket, in memory, and an operator who looks at it and acts on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import httpx
import trio

from cpg_trio import HealthState
from cpg_trio.host import Health, Host, HostConfig, LeaseConfig
from cpg_trio.protos.cpgtrio.admin.v1 import admin_pb2 as pb
from cpg_trio.protos.cpgtrio.admin.v1.admin_trio import AdminServiceClient
from cpg_trio.rpc import AsgiTransport

LEASE_S = 15.0
HEALTHY = Health(HealthState.HEALTHY)


@attrs.frozen
class Operator:
    """An operator of a host."""

    host: Host
    client: AdminServiceClient
    """Of its admin service."""

    def plugin(self, name: str, *requires: str) -> str:
        """Add a plugin that provides a service of its own name, and return its runtime id."""
        identity, _ = self.host.identities.issue(f"{name}-plugin", provides=(name,), requires=requires)
        self.host.registry.register(identity.runtime_id, name, "1.0.0", "/", {})
        self.report(identity.runtime_id, HEALTHY)
        return identity.runtime_id

    def report(self, runtime_id: str, health: Health) -> None:
        self.host.registry.report_health(runtime_id, health)
        self.host._liveness.beat(runtime_id)

    async def wait(self, leases: float, *living: str) -> None:
        """Let time pass in which only some plugins are heard of."""
        for _ in range(round(leases * 10)):
            for runtime_id in living:
                self.host._liveness.beat(runtime_id)
            await trio.sleep(LEASE_S / 10)

    def status(self) -> pb.GetStatusResponse:
        return self.host.admin.view.status(pb.GetStatusRequest())

    def get(self, plugin: str) -> pb.GetPluginResponse:
        return self.host.admin.view.plugin(pb.GetPluginRequest(plugin=plugin))

    def texts(self, *kinds: pb.EventKind) -> list[str]:
        """Return what the events of some kinds say."""
        return [event.text for event in self.host.admin.events if event.kind in kinds]


@asynccontextmanager
async def operating(config: HostConfig | None = None) -> AsyncIterator[Operator]:
    host = Host(config or HostConfig(leases=LeaseConfig(lease_s=LEASE_S)))
    async with host.application():
        transport = AsgiTransport(host.admin.service())
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as http:
            yield Operator(host, AdminServiceClient("http://admin", http))
