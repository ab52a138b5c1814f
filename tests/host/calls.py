"""A host in memory, and plugins that speak only the wire protocol: what they ask it, and what they answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
from google.protobuf.message import Message

from cpg_trio._cell import Cell
from cpg_trio.asgi import App
from cpg_trio.host import Host, HostConfig
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.rpc import AsgiTransport
from tests.http.peers import Peer

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
class WireCaller:
    """How to call a host, wherever it runs."""

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

    async def discover(self, service_type: str, headers: Headers) -> str:
        """Return who is offered to a plugin, or why nobody is."""
        _, answer = await self.post(DISCOVER, {"serviceType": service_type}, headers)
        return str(answer["endpoint"]["providerId"] if "endpoint" in answer else answer["message"])

    async def first_of_watch(self, service_type: str, headers: Headers) -> str:
        """Return the state that a watch begins with."""
        body = json.dumps({"serviceType": service_type}).encode()
        frame = b"\0" + len(body).to_bytes(4, "big") + body
        stream = {**headers, "content-type": "application/connect+json"}
        async with self.http.stream("POST", WATCH, content=frame, headers=stream) as response:
            async for chunk in response.aiter_bytes():
                return str(json.loads(chunk[5:])["state"])
        raise AssertionError("it ended before it began")


@attrs.frozen
class Caller(WireCaller):
    """A host in memory, and how to call it."""

    host: Host


class Provider:
    """What answers probes at a plugin's address: that plugin, or another process."""

    def __init__(self, self_id: str) -> None:
        self.self_id = self_id
        self.answers = True
        self.asked = Cell(0)

    async def __call__(self, peer: Peer) -> None:
        while head := await peer.receive_head():
            self.asked.set(self.asked.value + 1)
            if not self.answers:
                return  # which closes the connection
            await peer.send(self.answer(head))

    def answer(self, head: bytes) -> bytes:
        said: Message = pb.GetHealthResponse(state=pb.HEALTH_STATE_HEALTHY, reason="asked")
        if b"/GetPluginInfo " in head:
            said = pb.GetPluginInfoResponse(self_id=self.self_id)
        return in_proto(said)


def in_proto(said: Message) -> bytes:
    """Return a message as a plugin answers with it."""
    body = said.SerializeToString()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


def runtime_id(headers: Headers) -> str:
    return headers["X-Plugin-Runtime-ID"]


@asynccontextmanager
async def running(
    config: HostConfig | None = None, client: tuple[str, int] = ("127.0.0.1", 5)
) -> AsyncIterator[Caller]:
    host = Host(config)
    async with host.application() as app, calling(host, app, client) as caller:
        yield caller


@asynccontextmanager
async def calling(host: Host, app: App, client: tuple[str, int]) -> AsyncIterator[Caller]:
    """Call a host's application from an address."""
    transport = AsgiTransport(app, client)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
        yield Caller(http, host)
