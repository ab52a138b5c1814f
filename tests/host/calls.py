"""A host in memory, and calls to it as plugins that speak only the wire protocol make them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx

from cpg_trio.host import Host, HostConfig
from cpg_trio.rpc import AsgiTransport

COOKIE = {"magicCookieKey": "CONNECT_PLUGIN", "magicCookieValue": "d3f40b3c2e1a5f8b9c4d7e6a1b2c3d4e"}
VERSIONS = {"coreProtocolVersion": 1, "appProtocolVersion": 1}
HANDSHAKE = "/connectplugin.v1.HandshakeService/Handshake"
REGISTER = "/connectplugin.v1.ServiceRegistry/RegisterService"
UNREGISTER = "/connectplugin.v1.ServiceRegistry/UnregisterService"
DISCOVER = "/connectplugin.v1.ServiceRegistry/DiscoverService"
WATCH = "/connectplugin.v1.ServiceRegistry/WatchService"
REPORT = "/connectplugin.v1.PluginLifecycle/ReportHealth"
CHECK = "/connectplugin.health.v1.HealthService/Check"
HEALTH_WATCH = "/connectplugin.health.v1.HealthService/Watch"

Answer = tuple[int, Any]
Headers = dict[str, str]


@attrs.frozen
class Caller:
    """A host, and how to call it."""

    host: Host
    http: httpx.AsyncClient

    async def post(self, path: str, body: dict[str, Any], headers: Headers | None = None) -> Answer:
        response = await self.http.post(path, json=body, headers=headers or {})
        return response.status_code, response.json()

    async def plugin(self, self_id: str) -> Headers:
        """Return the headers that prove a new identity."""
        status, answer = await self.post(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": self_id})
        assert status == 200
        return {
            "X-Plugin-Runtime-ID": answer["runtimeId"],
            "Authorization": f"Bearer {answer['runtimeToken']}",
        }

    async def provider(
        self, service_type: str, base_url: str = "", version: str = "1.0.0", path: str = "/demo.v1.D/"
    ) -> Headers:
        """Return the headers of a new plugin that provides a service."""
        headers = await self.plugin(f"{service_type}-plugin")
        await self.register(headers, service_type, base_url, version, path)
        return headers

    async def register(
        self,
        headers: Headers,
        service_type: str,
        base_url: str = "",
        version: str = "1.0.0",
        path: str = "/d/",
    ) -> str:
        metadata = {"base_url": base_url} if base_url else {}
        status, answer = await self.post(
            REGISTER,
            {"serviceType": service_type, "version": version, "endpointPath": path, "metadata": metadata},
            headers,
        )
        assert status == 200
        return str(answer["registrationId"])


def runtime_id(headers: Headers) -> str:
    return headers["X-Plugin-Runtime-ID"]


@asynccontextmanager
async def running(
    config: HostConfig | None = None, client: tuple[str, int] = ("127.0.0.1", 5)
) -> AsyncIterator[Caller]:
    host = Host(config)
    async with (
        host.application() as app,
        httpx.AsyncClient(transport=AsgiTransport(app, client), base_url="http://host") as http,
    ):
        yield Caller(host, http)
