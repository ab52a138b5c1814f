"""A plugin that shares a directory with its host: what goes by Unix sockets, and what if it cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.host import BaseUrls, Host, HostConfig
from cpg_trio.http import serve
from cpg_trio.http.relay import Relay
from cpg_trio.http.server.exchange import ServerExchange
from cpg_trio.plugin import Dependency, Plugin
from cpg_trio.plugin._session import own_socket
from cpg_trio.store import SqliteStore
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import (
    HEALTHY,
    echo_plugin,
    eventually,
    hosting,
    is_healthy,
    plugged,
    state_of,
    until,
    unused_port,
)
from tests.rpc.echo import Echo

NOT_HERE = "192.0.2.1"  # where nobody can be reached by TCP
HANDSHAKE = "/connectplugin.v1.HandshakeService/Handshake"


@pytest.fixture
def config(short_path: Path) -> HostConfig:
    return HostConfig(socket_dir=short_path, base_urls=BaseUrls.ANY)


def needy_plugin() -> tuple[Plugin, Dependency]:
    plugin = echo_plugin("needy", "needs")
    return plugin, plugin.require("echo")


async def echoed(dependency: Dependency) -> str:
    await dependency.wait_available()
    return (await dependency.client(EchoServiceClient).echo(EchoRequest(text="hi"), timeout_s=5.0)).text


class WatchedRelay(Relay):
    """A relay that notes of each routed call what it asks for, and whether it comes by TCP."""

    seen: list[tuple[str, bool]]

    def begin(self, caller: ServerExchange, /) -> None:
        self.seen.append((caller.head.target.decode(), caller.connection.client is not None))
        super().begin(caller)


@asynccontextmanager
async def watched(config: HostConfig) -> AsyncIterator[tuple[Host, str, list[tuple[str, bool]]]]:
    """Run a host; yield also which paths it was asked for, and whether by TCP."""
    host, stop, seen = Host(config), trio.Event(), list[tuple[str, bool]]()
    async with host.application() as app, trio.open_nursery() as nursery:

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append((scope["path"], scope["client"] is not None))
            await app(scope, receive, send)

        binds = ["127.0.0.1:0", f"unix:{config.socket_dir}/host.sock"]
        relay = WatchedRelay(host._router(host._browsers()), host._pool)
        relay.seen = seen
        url, _ = await nursery.start(partial(serve, dispatch, bind=binds, stop=stop, relay=relay))
        try:
            yield host, url, seen
        finally:
            stop.set()


async def test_after_the_first_handshake_all_that_a_plugin_asks_goes_by_socket(
    short_path: Path, config: HostConfig
) -> None:
    needy, echo = needy_plugin()
    async with (
        watched(config) as (host, url, seen),
        plugged(echo_plugin(), url, socket_dir=short_path),
        plugged(needy, url, socket_dir=short_path),
    ):
        assert await echoed(echo) == "hi"
        await until(host, lambda: is_healthy(host, "needs"))
    assert [path for path, by_tcp in seen if by_tcp] == [HANDSHAKE] * 2
    asked = {path.rpartition("/")[2] for path, by_tcp in seen if not by_tcp}
    assert asked == {"Handshake", "RegisterService", "ReportHealth", "UnregisterService", "watch", "Echo"}


async def test_a_host_calls_its_plugins_at_their_sockets(
    short_path: Path, config: HostConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    service, (needy, echo) = Echo(), needy_plugin()
    plugin = Plugin("echo-plugin", version="1.0.0")
    plugin.provide("echo", service)
    async with (
        hosting(config) as (host, url),
        plugged(plugin, url, hostname=NOT_HERE, socket_dir=short_path),
        plugged(needy, url, hostname=NOT_HERE, socket_dir=short_path),
    ):
        assert await echoed(echo) == "hi"
        assert service.contexts[0].client_address is None
        provider, _ = host.registry.discover("echo")
        assert provider.base_url.startswith(f"http://{NOT_HERE}:")
        assert Path(provider.addresses[0].removeprefix("unix:")).parent == short_path
        assert await host._prober.probe(provider.runtime_id)
        await host.shut_down_plugin(provider.runtime_id)
        await until(host, lambda: not host.registry.available("echo"))
    assert f"on {url} through unix:{short_path / 'host.sock'}" in caplog.text
    assert list(await trio.Path(short_path).iterdir()) == []


async def test_in_another_hosts_directory_a_plugin_keeps_to_tcp_and_says_nothing_there_of_itself(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine, others = short_path / "mine", short_path / "others"
    mine.mkdir()
    others.mkdir()
    async with (
        hosting(HostConfig(socket_dir=mine)) as (host, url),
        watched(HostConfig(socket_dir=others)) as (_, _, seen),
        plugged(echo_plugin(), url, socket_dir=others),
    ):
        await until(host, lambda: is_healthy(host, "echo"))
        (registration,) = host.registry.providers("echo")
        assert (len(registration.addresses), "socket" in registration.metadata) == (1, False)
        assert seen == [(HANDSHAKE, False)]
        assert f"not at its socket '{others / 'host.sock'}': another host answers there" in caplog.text


@pytest.mark.parametrize("with_directory", [True, False])
async def test_without_the_hosts_socket_a_plugin_keeps_to_tcp(
    short_path: Path, caplog: pytest.LogCaptureFixture, *, with_directory: bool
) -> None:
    shared, folder = short_path / "shared", short_path / "folder"
    shared.mkdir()
    folder.mkdir()
    config = HostConfig(socket_dir=shared if with_directory else None)
    async with hosting(config) as (host, url), plugged(echo_plugin(), url, socket_dir=folder):
        await until(host, lambda: is_healthy(host, "echo"))
        (registration,) = host.registry.providers("echo")
        assert "socket" not in registration.metadata
    assert ("no such file or directory" in caplog.text) == with_directory


async def test_a_host_that_is_restarted_is_called_at_its_socket_again_and_by_tcp_if_it_has_none(
    short_path: Path,
) -> None:
    shared = short_path / "shared"
    shared.mkdir()
    with_socket = HostConfig(socket_dir=shared, store=SqliteStore(short_path / "state"))
    without = HostConfig(store=SqliteStore(short_path / "state"))
    bind = f"127.0.0.1:{unused_port()}"
    stop, found = trio.Event(), []
    needy, echo = needy_plugin()
    run = partial(plugged, host_url=f"http://{bind}", socket_dir=shared, heartbeat_s=0.05, stop=stop)
    async with run(echo_plugin()), run(needy):
        for config in (with_socket, with_socket, without, with_socket):
            async with hosting(config, bind) as (host, _):
                await until(host, partial(_are_healthy, host))
                assert await echoed(echo) == "hi"
                (provider,) = host.registry.providers("echo")
                found.append((provider.runtime_id, len(provider.addresses) == 2))
                if len(found) == 4:
                    stop.set()
                    await until(host, lambda: not host.registry.plugins())
    me = found[0][0]
    assert found == [(me, True), (me, True), (me, False), (me, True)]


def _are_healthy(host: Host) -> bool:
    return is_healthy(host, "echo") and is_healthy(host, "needs")


async def test_a_plugin_that_comes_back_has_its_socket_back(short_path: Path, config: HostConfig) -> None:
    paths = []
    async with hosting(config) as (host, url):
        for _ in range(2):
            async with plugged(echo_plugin(), url, hostname=NOT_HERE, socket_dir=short_path):
                await until(host, lambda: state_of(host, "echo") == HEALTHY)
                paths.append(Path(host.registry.providers("echo")[0].addresses[0].removeprefix("unix:")))
                assert paths[-1].is_socket()
            await until(host, lambda: not host.registry.providers("echo"))
            await eventually(lambda: not paths[-1].exists())


def test_replicas_have_sockets_of_their_own_and_each_has_its_own_again_at_its_next_start() -> None:
    fixed = own_socket("storage", "10.0.0.1", ["0.0.0.0:8082"])
    assert fixed == own_socket("storage", "10.0.0.1", ["0.0.0.0:8082"])
    others = [
        own_socket("storage", "10.0.0.2", ["0.0.0.0:8082"]),
        own_socket("storage", "10.0.0.1", ["0.0.0.0:8083"]),
        own_socket("logger", "10.0.0.1", ["0.0.0.0:8082"]),
        *(own_socket("storage", "10.0.0.1", ["127.0.0.1:0"]) for _ in range(2)),
    ]
    assert len({fixed, *others}) == 6
    assert len(own_socket("s" * 128, "h", [])) < 50
