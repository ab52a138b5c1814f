"""Hosts and plugins on real sockets, for as long as a block lasts."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from cpg_trio import HealthState
from cpg_trio._cell import Cell
from cpg_trio.asgi import HeaderList, Receive, Scope, Send, no_websocket, refuse_websocket, send_response
from cpg_trio.host import Host, HostConfig
from cpg_trio.http.relay import Relay
from cpg_trio.plugin import Dependency, Plugin, PluginConfig
from cpg_trio.plugin.direct import Grant
from tests.host.calls import WATCH
from tests.http.apps import read_body, served
from tests.plain_host import PlainHost
from tests.rpc.echo import Echo

RETRY_AFTER = (b"retry-after", b"1")
ASKED_S = 1.0


HEALTHY, DEGRADED, UNHEALTHY = HealthState


@asynccontextmanager
async def hosting(
    config: HostConfig | None = None, bind: str = "127.0.0.1:0", host: Host | None = None
) -> AsyncIterator[tuple[Host, str]]:
    host, stop = host or Host(config), trio.Event()
    async with trio.open_nursery() as nursery:
        url, *_ = await nursery.start(partial(host.serve, stop, bind=bind))
        try:
            yield host, url
        finally:
            stop.set()


@asynccontextmanager
async def plugged(
    plugin: Plugin,
    host_url: str | None,
    *,
    stop: trio.Event | None = None,
    heartbeat_s: float | None = 5.0,
    hostname: str = "127.0.0.1",
    socket_dir: Path | None = None,
    **config: Any,
) -> AsyncIterator[str]:
    """Run a plugin; yield its URL. What else a `PluginConfig` has can be given by name."""
    stop = trio.Event() if stop is None else stop
    configured = PluginConfig(
        host_url=host_url, hostname=hostname, heartbeat_s=heartbeat_s, socket_dir=socket_dir, **config
    )
    async with trio.open_nursery() as nursery:
        url, *_ = await nursery.start(partial(plugin.serve, stop, config=configured))
        try:
            yield url
        finally:
            stop.set()


async def until(host: Host, condition: Callable[[], object]) -> None:
    """Wait until something holds that follows from the host's registry."""
    changes = Cell(0)
    host.registry.changes.add(lambda _: changes.set(changes.value + 1))
    with trio.fail_after(20):
        async for _ in changes.reader():
            if condition():
                return


Meddling = Callable[[Scope, Receive, Send], Awaitable[bool]]
"""Handles a request to the host itself and returns True, or lets it pass."""


@asynccontextmanager
async def meddled(meddle: Meddling, host: Host | None = None) -> AsyncIterator[tuple[Host, str]]:
    """Run a host behind somebody who meddles with what it is sent."""
    host = host or Host()
    async with (
        host.application() as app,
        served(app, relay=Relay(host._router(host._browsers()), host._pool)) as behind,
        httpx.AsyncClient(base_url=behind) as http,
    ):

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            if await meddle(scope, receive, send):
                return
            if scope["path"].startswith("/services/"):  # which no application answers
                body = await read_body(receive)
                request = http.build_request("POST", scope["path"], content=body, headers=scope["headers"])
                passed = await http.send(request, stream=True)
                content = b"".join([part async for part in passed.aiter_raw()])
                await send_response(send, passed.status_code, content, _but_length(passed.headers.raw))
            else:
                await app(scope, receive, send)

        async with served(dispatch) as url:
            yield host, url


def _but_length(headers: HeaderList) -> HeaderList:
    return [(name, value) for name, value in headers if name.lower() != b"content-length"]


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until something holds for which there is no event: look again and again, less and less often."""
    wait_s = 0.005
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(wait_s)
            wait_s = min(1.2 * wait_s, 0.2)


def grant_of(dependency: Dependency) -> Grant | None:
    """Return what a dependency's provider can be called directly with."""
    return (
        None
        if dependency._service.provider is None
        else dependency._service.direct.grant_for(dependency._service.provider)
    )


async def goes_directly(dependency: Dependency) -> None:
    """Wait until the calls of a dependency go directly to its provider."""
    await eventually(lambda: grant_of(dependency) is not None)


def state_of(host: Host, service_type: str) -> HealthState | None:
    """Return the health that the first provider of a type has reported, None if there is no provider."""
    provider = host.registry.status(service_type).provider
    if provider is not None:
        return host.registry.health(provider.runtime_id).state
    return None


def is_healthy(host: Host, service_type: str) -> bool:
    return state_of(host, service_type) == HEALTHY


def echo_plugin(
    name: str = "echo-plugin",
    service_type: str = "echo",
    version: str = "1.0.0",
    *,
    public: bool = False,
    service: Echo | None = None,
) -> Plugin:
    plugin = Plugin(name, version=version)
    plugin.provide(service_type, service or Echo(), public=public)
    return plugin


def unused_port() -> int:
    """Return a port that nobody listens on, and that the system gives to no connection."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(given.read_text().split()[0]) if given.exists() else 32768
    while True:
        port = random.randrange(max(1024, first // 2), first)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def two_services() -> Plugin:
    plugin = Plugin("two", version="1.0.0")
    plugin.provide("a", Echo())
    plugin.provide("b", Echo())
    return plugin


async def error(send: Send, status: int, code: str) -> bool:
    body = json.dumps({"code": code, "message": "meddled with"}).encode()
    await send_response(send, status, body, [(b"content-type", b"application/json")])
    return True


class Busy:
    """A host that answers the first call to a path with the word to come back in a second."""

    def __init__(self, path: str, *, websockets: bool = True) -> None:
        self.path = path
        self.websockets = websockets
        self.asked_at: list[float] = []
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> bool:
        self.paths.append(scope["path"])
        if not self.websockets and scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
            return True
        if scope["path"] != self.path:
            return False
        self.asked_at.append(trio.current_time())
        if len(self.asked_at) > 1:
            return False
        if scope["type"] == "websocket":
            await receive()
            await refuse_websocket(send, 429, "too often", [RETRY_AFTER])
        elif self.path == WATCH:
            end = json.dumps({"error": {"code": "resource_exhausted"}}).encode()
            frame = b"\2" + len(end).to_bytes(4, "big") + end
            await send_response(
                send, 200, frame, [(b"content-type", b"application/connect+proto"), RETRY_AFTER]
            )
        else:
            error = json.dumps({"code": "resource_exhausted", "message": "too often"}).encode()
            await send_response(send, 429, error, [(b"content-type", b"application/json"), RETRY_AFTER])
        return True

    @property
    def waited_s(self) -> float:
        return self.asked_at[1] - self.asked_at[0]


def lines(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == name]


def provides(host: PlainHost, service_type: str) -> bool:
    found = host.provider(service_type)
    return found is not None and found[0] in host.tokens
