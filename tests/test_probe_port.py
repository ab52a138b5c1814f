"""A port that answers probes and nothing else, for who may ask how a process is and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from cpg_trio.host import Host, HostConfig, host_config
from cpg_trio.http import ServeConfig, StartError
from cpg_trio.plugin import PluginConfig
from cpg_trio.rpc import Context
from tests._gen.echo.v1 import echo_pb2 as pb
from tests.certificates import LOCAL, Files
from tests.plugin.running import echo_plugin, hosting, is_healthy, plugged, until, unused_port
from tests.plugin.signing import ECHO
from tests.rpc.echo import Echo

PROBES = ("/health", "/healthz", "/readyz")
OTHERS = (
    "/",
    "/metrics",
    "/services/echo/x/Echo",
    "/echo.v1.EchoService/Echo",
    "/connectplugin.v1.HandshakeService/Handshake",
    "/connectplugin.v1.PluginControl/GetHealth",
    "/capabilities/logger/x/Log",
    "/watch",
)


def local() -> str:
    return f"127.0.0.1:{unused_port()}"


async def _only_probes_are_answered(url: str) -> None:
    async with httpx.AsyncClient() as http:
        for path in PROBES:
            assert (await http.get(url + path)).status_code == 200, path
        for path in OTHERS:
            for method in ("GET", "POST"):
                assert (await http.request(method, url + path)).status_code == 404, path
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        upgrade["sec-websocket-key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        assert (await http.get(f"{url}/watch", headers=upgrade)).status_code == 404


async def test_a_host_answers_probes_there_and_nothing_else() -> None:
    bind = local()
    async with hosting(HostConfig(probe_bind=bind)) as (_, url):
        await _only_probes_are_answered(f"http://{bind}")
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{url}/readyz")).status_code == 200  # beside the rest as well


async def test_a_plugin_answers_probes_there_and_nothing_else() -> None:
    bind = local()
    async with hosting() as (host, url), plugged(echo_plugin(public=True), url, probe_bind=bind):
        await until(host, lambda: is_healthy(host, "echo"))
        await _only_probes_are_answered(f"http://{bind}")


async def test_probes_need_no_tls_where_all_else_does(tmp_path: Path) -> None:
    bind, files = local(), Files.write(tmp_path, trustme.CA(), *LOCAL)
    config = HostConfig(probe_bind=bind, serve=ServeConfig(tls=files.config()))
    async with hosting(config) as (_, url), httpx.AsyncClient() as http:
        assert url.startswith("https://")
        assert (await http.get(f"http://{bind}/healthz")).status_code == 200


async def test_a_plugin_that_finishes_its_calls_is_alive_and_not_ready() -> None:
    bind, stop, begun, finish = local(), trio.Event(), trio.Event(), trio.Event()

    class Slow(Echo):
        async def echo(self, request: pb.EchoRequest, ctx: Context, /) -> pb.EchoResponse:
            begun.set()
            await finish.wait()
            return await super().echo(request, ctx)

    plugin = echo_plugin(public=True, service=Slow())
    async with hosting() as (host, url), plugged(plugin, url, probe_bind=bind, stop=stop) as plugin_url:
        await until(host, lambda: is_healthy(host, "echo"))
        async with httpx.AsyncClient() as http, trio.open_nursery() as nursery:
            nursery.start_soon(partial(http.post, plugin_url + ECHO, json={}))
            await begun.wait()
            stop.set()
            await until(host, lambda: not host.registry.available("echo"))
            assert (await http.get(f"http://{bind}/healthz")).status_code == 200
            not_ready = await http.get(f"http://{bind}/readyz")
            assert (not_ready.status_code, not_ready.text) == (503, "not ready: stopping")
            finish.set()


async def test_a_host_whose_probe_port_is_taken_does_not_start() -> None:
    async with hosting(HostConfig(probe_bind=(bind := local()))):
        with pytest.raises(StartError, match=f"cannot listen on {bind}"):
            await Host(HostConfig(probe_bind=bind)).serve(trio.Event(), bind="127.0.0.1:0")


@pytest.mark.parametrize("read", [host_config, partial(PluginConfig.from_environment, 8080)])
def test_the_environment_says_where(
    read: Callable[[Mapping[str, str]], HostConfig | PluginConfig],
) -> None:
    assert read({}).probe_bind is None
    assert read({"PROBE_BIND": "127.0.0.1"}).probe_bind is None
    assert read({"PROBE_PORT": "9080"}).probe_bind == ["[::]:9080"]
    assert read({"PROBE_PORT": "9080", "PROBE_BIND": "::1"}).probe_bind == ["[::1]:9080"]
    with pytest.raises(StartError, match="PROBE_PORT must be a number"):
        read({"PROBE_PORT": "http"})
