"""A host that knows the wire protocol and nothing beside it, as implementations in other languages do.

It says nothing of heartbeats, leases or itself, has no websocket, and checks a token only where calls are
routed. A routed call goes to the path of the service with the rest of the called path behind it, whatever
that is.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import httpx

from cpg_trio._cell import Cell
from cpg_trio.asgi import Receive, Scope, Send, header, no_websocket, send_response, send_text
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import (
    HandshakeService,
    PluginLifecycleService,
    ServiceRegistryService,
)
from cpg_trio.rpc import Code, ConnectError, Context, application
from tests.http.apps import served

ROUTED = "/services/"


@attrs.define
class PlainHost:
    """Its state. `forget` makes it another host, as a restart does."""

    http: httpx.AsyncClient
    tokens: dict[str, str] = attrs.field(factory=dict)
    registered: dict[str, tuple[str, pb.RegisterServiceRequest]] = attrs.field(factory=dict)
    changes: Cell[int] = attrs.field(factory=lambda: Cell(0))
    watches: int = 0
    """How often a stream was opened."""
    ends_streams: bool = False
    """Whether each stream ends at once, in good order."""

    def forget(self) -> None:
        self.tokens.clear()
        self.registered.clear()
        self.changed()

    def changed(self) -> None:
        self.changes.set(self.changes.value + 1)

    def provider(self, service_type: str) -> tuple[str, pb.RegisterServiceRequest] | None:
        of_type = (entry for entry in self.registered.values() if entry[1].service_type == service_type)
        return next(of_type, None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
        elif scope["path"].startswith(ROUTED):
            await self.route(scope, receive, send)
        else:
            await application([_Handshake(self), _Lifecycle(), _Registry(self)])(scope, receive, send)

    async def route(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, provider_id, method = scope["path"].removeprefix(ROUTED).split("/", 2)
        caller = (header(scope, b"x-plugin-runtime-id") or b"").decode()
        token = (header(scope, b"authorization") or b"").decode().removeprefix("Bearer ")
        if self.tokens.get(caller) != token:
            await send_text(send, 401, "invalid token\n")
            return
        found = next((r for runtime_id, r in self.registered.values() if runtime_id == provider_id), None)
        if found is None:
            await send_text(send, 404, f"provider not found: {provider_id}\n")
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = [(k, v) for k, v in scope["headers"] if k not in (b"authorization", b"x-plugin-runtime-id")]
        url = f"{found.metadata['base_url']}{found.endpoint_path}{method}"
        answer = await self.http.request(scope["method"], url, content=body, headers=headers)
        typed = [(b"content-type", answer.headers["content-type"].encode())]
        await send_response(send, answer.status_code, answer.content, typed)


class _Handshake(HandshakeService):
    def __init__(self, host: PlainHost) -> None:
        self._host = host

    async def handshake(self, request: pb.HandshakeRequest, _ctx: Context, /) -> pb.HandshakeResponse:
        runtime_id, token = f"{request.self_id}-{secrets.token_hex(2)}", secrets.token_urlsafe(32)
        self._host.tokens[runtime_id] = token
        return pb.HandshakeResponse(
            core_protocol_version=1,
            app_protocol_version=1,
            runtime_id=runtime_id,
            runtime_token=token,
            server_metadata={"server_version": "0.1.0"},
        )


class _Lifecycle(PluginLifecycleService):
    async def report_health(
        self, _request: pb.ReportHealthRequest, _ctx: Context, /
    ) -> pb.ReportHealthResponse:
        return pb.ReportHealthResponse()


class _Registry(ServiceRegistryService):
    def __init__(self, host: PlainHost) -> None:
        self._host = host

    async def register_service(
        self, request: pb.RegisterServiceRequest, ctx: Context, /
    ) -> pb.RegisterServiceResponse:
        registration_id = f"reg-{secrets.token_hex(8)}"
        self._host.registered[registration_id] = ctx.request_headers["x-plugin-runtime-id"], request
        self._host.changed()
        return pb.RegisterServiceResponse(registration_id=registration_id)

    async def unregister_service(
        self, request: pb.UnregisterServiceRequest, _ctx: Context, /
    ) -> pb.UnregisterServiceResponse:
        self._host.registered.pop(request.registration_id, None)
        self._host.changed()
        return pb.UnregisterServiceResponse()

    async def discover_service(
        self, request: pb.DiscoverServiceRequest, _ctx: Context, /
    ) -> pb.DiscoverServiceResponse:
        if (found := self._host.provider(request.service_type)) is None:
            raise ConnectError(Code.NOT_FOUND, "nobody")
        return pb.DiscoverServiceResponse(endpoint=_endpoint(*found))

    async def watch_service(
        self, request: pb.WatchServiceRequest, _ctx: Context, /
    ) -> AsyncIterator[pb.WatchServiceEvent]:
        host = self._host
        host.watches += 1
        async for _ in host.changes.reader():
            found = host.provider(request.service_type)
            yield pb.WatchServiceEvent(
                service_type=request.service_type,
                state=pb.SERVICE_STATE_AVAILABLE if found else pb.SERVICE_STATE_UNAVAILABLE,
                endpoint=_endpoint(*found) if found else None,
            )
            if host.ends_streams:
                return


def _endpoint(runtime_id: str, request: pb.RegisterServiceRequest) -> pb.ServiceEndpoint:
    url = f"{ROUTED}{request.service_type}/{runtime_id}"
    return pb.ServiceEndpoint(provider_id=runtime_id, version=request.version, endpoint_url=url)


@asynccontextmanager
async def plain_host() -> AsyncIterator[tuple[PlainHost, str]]:
    """Serve such a host; yield it and its URL."""
    async with httpx.AsyncClient() as http:
        host = PlainHost(http)
        async with served(host) as url:
            yield host, url
