"""Processes: the host of a plugin is killed, stopped, or frozen, while the plugin calls another one.

No call fails that was not delivered or may run twice, and the plugin stays who it is.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from cpg_trio.plugin import Dependency, Plugin, PluginConfig
from cpg_trio.rpc import ConnectError
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.chaos_cluster.etcd_cluster import etcd_cluster, need_etcd
from tests.plugin.running import echo_plugin, eventually, unused_port
from tests.processes import Running, running

CALLERS = 8
SETTLED_S = 8.0
KEY = "k" * 32


@attrs.define
class Process:
    """A host."""

    url: str
    running: Running

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.running.process.pid, number)


@attrs.define
class Load:
    """What has become of the calls of a plugin."""

    dependency: Dependency
    calls: int = 0
    failed: list[str] = attrs.field(factory=list)

    def host(self, hosts: list[Process]) -> Process:
        """Return the host that the plugin uses."""
        session = self.dependency._service.link.session
        assert session is not None
        return next(host for host in hosts if host.url == session.host_url)


@asynccontextmanager
async def started(state_url: str, folder: Path, count: int = 3) -> AsyncIterator[list[Process]]:
    """Run hosts of one directory."""
    async with AsyncExitStack() as stack:
        hosts = []
        for number in range(count):
            port = unused_port()
            environment = {
                "PORT": str(port),
                "STATE_URL": state_url,
                "CPG_HOST_KEY": KEY,
                "BASE_URLS": "any",
                "ADMIN_SOCKET": str(folder / f"{number}.sock"),
                "LOG_CALLS": "off",
                "LEASE_S": "9",
            }
            process = await stack.enter_async_context(running("cpg_trio", "host", environment=environment))
            await process.until("host listening on")
            hosts.append(Process(f"http://127.0.0.1:{port}", process))
        yield hosts
        for host in hosts:
            if host.running.process.returncode is None:
                host.signal(signal.SIGCONT)
                host.signal(signal.SIGTERM)


@asynccontextmanager
async def loaded(hosts: list[Process]) -> AsyncIterator[Load]:
    """Have a plugin call another one all the time."""
    plugin, urls = Plugin("needy", version="1.0.0"), ",".join(host.url for host in hosts)
    load, stop = Load(plugin.require("echo")), trio.Event()
    config = PluginConfig(host_url=urls, hostname="127.0.0.1")

    async def call() -> None:
        client = load.dependency.client(EchoServiceClient)
        while not stop.is_set():
            load.calls += 1
            try:
                await client.echo(EchoRequest(text="x"), retry=True)
            except ConnectError as error:
                load.failed.append(str(error))
            await trio.sleep(0.005)

    async with trio.open_nursery() as plugins:
        plugins.start_soon(lambda: echo_plugin().serve(stop, config=config))
        plugins.start_soon(lambda: plugin.serve(stop, config=config))
        with trio.fail_after(20):
            await load.dependency.wait_available()
        async with trio.open_nursery() as callers:
            for _ in range(CALLERS):
                callers.start_soon(call)
            yield load
            stop.set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP], ids=lambda n: n.name)
async def test_no_call_fails_when_the_host_of_a_plugin(number: signal.Signals, tmp_path: Path) -> None:
    need_etcd()
    async with (
        etcd_cluster(1) as etcd,
        started(etcd.url("/cpg/moves"), tmp_path) as hosts,
        loaded(hosts) as load,
    ):
        await eventually(lambda: load.calls > 1500)  # which earn the retries of those in flight
        session, before = load.dependency._service.link.session, load.host(hosts)
        before.signal(number)
        await eventually(lambda: load.host(hosts) is not before)
        await trio.sleep(SETTLED_S)
        assert load.failed == []
        assert load.dependency._service.link.session is session
        assert session is not None
        assert not session.void.is_set()
        calls = load.calls
        await eventually(lambda: load.calls > calls + 100)
