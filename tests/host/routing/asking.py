"""A host with a provider that takes direct calls, and plugins that ask for a grant or report their calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import httpx

from cpg_trio import wire
from cpg_trio.host import Host, HostConfig
from cpg_trio.plugin import Plugin
from tests.host.calls import WireCaller
from tests.plugin.running import eventually, hosting, plugged
from tests.rpc.echo import Echo

BROKER = "/connectplugin.v1.CapabilityBroker/RequestCapability"


@attrs.frozen
class Asking(WireCaller):
    """A host with a provider of `echo` that takes direct calls, and how to ask for grants."""

    host: Host
    provider_url: str

    async def ask(self, headers: dict[str, str], service_type: str = "echo", **more: str) -> tuple[int, str]:
        status, answer = await self.post(
            BROKER, {"capabilityType": f"service:{service_type}", **more}, headers
        )
        return status, answer.get("message", "")

    async def declared(self, self_id: str, requires: str) -> dict[str, str]:
        """Return the headers of a plugin that has declared what it requires."""
        said = await self.post(
            "/connectplugin.v1.HandshakeService/Handshake",
            {
                "coreProtocolVersion": 1,
                "appProtocolVersion": 1,
                "magicCookieKey": wire.COOKIE_KEY,
                "magicCookieValue": wire.COOKIE_VALUE,
                "selfId": self_id,
                "clientMetadata": {"requires": requires, "provides": ""},
            },
        )
        return {
            "X-Plugin-Runtime-ID": said[1]["runtimeId"],
            "Authorization": f"Bearer {said[1]['runtimeToken']}",
        }


@asynccontextmanager
async def asking(config: HostConfig | None = None) -> AsyncIterator[Asking]:
    provider = Plugin("echo-plugin", version="1.2.0")
    provider.provide("echo", Echo())
    async with (
        hosting(config) as (host, url),
        plugged(provider, url) as provider_url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        await eventually(lambda: host.registry.available("echo"))
        yield Asking(http, host, provider_url)
