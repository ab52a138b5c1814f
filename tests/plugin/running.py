"""Hosts and plugins on real sockets, for as long as a block lasts."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cpg_trio._cell import Cell
from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.host import Host, HostConfig
from cpg_trio.plugin import Plugin, PluginConfig
from tests.http.apps import served
from tests.rpc.echo import Echo

HEALTHY, DEGRADED, UNHEALTHY = 1, 2, 3


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
    host.registry.subscribe(lambda _: changes.set(changes.value + 1))
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
    async with host.application() as app:

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            if not await meddle(scope, receive, send):
                await app(scope, receive, send)

        async with served(dispatch) as url:
            yield host, url


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until something holds of which nobody tells."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(0.01)


def state_of(host: Host, service_type: str) -> int | None:
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
    """Return a port that nobody listens on, and that the system will not give to anybody else for a while."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
