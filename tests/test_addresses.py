"""Addresses as networks have them: IPv6 alone, both families, names of loopback, names with a final dot."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
import trustme

from cpg_trio._addresses import is_loopback
from cpg_trio.check import check
from cpg_trio.host import HostConfig
from cpg_trio.http import ConnectFailedError, Origin, Pool, Request, serve
from cpg_trio.http.client import connect
from cpg_trio.http.server.listen import is_private
from cpg_trio.plugin import PluginConfig
from cpg_trio.probes import Probes
from tests.certificates import Files
from tests.namespaces import in_namespace
from tests.plugin.running import echo_plugin, hosting, plugged, until, unused_port
from tests.processes import running

WELL = Probes(lambda: "")
IPV6_ONLY = ["ip link set lo up", "ip address delete 127.0.0.1/8 dev lo"]
IPV4_ONLY = ["ip link set lo up", "ip address delete ::1/128 dev lo"]


async def answers_at(bind: str | Sequence[str], *places: str) -> list[bool]:
    """Listen on a free port; return whether somebody answers at each of some places."""
    async with trio.open_nursery() as nursery, Pool() as pool:
        stop = trio.Event()
        url, *_ = await nursery.start(partial(serve, WELL, bind=bind, stop=stop))
        port = urlsplit(url).port or 0
        found = [await answers(pool, place, port) for place in places]
        stop.set()
    return found


async def answers(pool: Pool, host: str, port: int) -> bool:
    try:
        whole = await pool.fetch(Origin("http", host, port), Request(b"GET", b"/healthz", [(b"host", b"x")]))
    except ConnectFailedError:
        return False
    return whole.status == 200


# Listening


@pytest.mark.parametrize(
    ("bind", "answering"),
    [
        ("[::]:0", [True, True]),
        (":0", [True, True]),
        ("localhost:0", [True, True]),
        ("127.0.0.1:0", [True, False]),
        ("0.0.0.0:0", [True, False]),
        ("[::1]:0", [False, True]),
    ],
)
async def test_it_listens_on_the_addresses_that_were_asked_for_all_on_one_port(
    bind: str, answering: list[bool]
) -> None:
    assert await answers_at(bind, "127.0.0.1", "::1") == answering


@pytest.mark.parametrize(("network", "place"), [(IPV6_ONLY, "::1"), (IPV4_ONLY, "127.0.0.1")])
def test_a_machine_without_one_of_the_families_is_one_to_listen_on(network: list[str], place: str) -> None:
    assert said_in(network, f"answer_on_both, {place!r}") == "[[True], [True]]\n"


async def answer_on_both(place: str) -> list[list[bool]]:
    return [await answers_at(bind, place) for bind in ("[::]:0", "localhost:0")]


def said_in(network: list[str], what: str) -> str:
    """Return what a process prints that runs something of this module by Trio, in a network of its own.

    In this process, threads that Trio keeps for later would stay in that network.
    """
    program = f"import trio; from tests.test_addresses import *; print(trio.run({what}))"
    command = [sys.executable, "-c", program]
    folder = Path(__file__).parents[1]
    done = in_namespace(
        network, lambda: subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_client_of_ipv4_has_its_own_address_where_both_families_are_served() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"][0], scope["server"][0]))
        await WELL(scope, receive, send)

    async with trio.open_nursery() as nursery, Pool() as pool:
        stop = trio.Event()
        (url,) = await nursery.start(partial(serve, app, bind="[::]:0", stop=stop))
        assert url.startswith("http://[::]:")
        for host in ("127.0.0.1", "::1"):
            assert await answers(pool, host, urlsplit(url).port or 0)
        stop.set()
    assert seen == [("127.0.0.1", "127.0.0.1"), ("::1", "::1")]


# Health checks


@pytest.mark.parametrize(
    ("bind", "said"),
    [
        ("[::]:0", "::"),
        ("[::]:0", ""),
        ("127.0.0.1:0", ""),
        ("127.0.0.1:0", "::"),
        ("[::1]:0", ""),
        ("[::1]:0", "[::1]"),
        ("[::1]:0", "::1, 10.0.0.7"),
        ("localhost:0", "localhost"),
    ],
)
async def test_a_process_is_asked_how_it_is_at_an_address_that_it_listens_on(
    bind: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        url, *_ = await nursery.start(partial(serve, WELL, bind=bind, stop=stop))
        environment = {"PORT": str(urlsplit(url).port), "BIND": said}
        assert await trio.to_thread.run_sync(check, "ready", environment) == 0, capsys.readouterr()
        stop.set()


# A host and its plugins


@pytest.mark.parametrize(
    "host_url", ["http://[::1]:{}", "http://localhost:{}", "http://[0:0:0:0:0:0:0:1]:{}"]
)
@pytest.mark.parametrize("hostname", ["::1", "localhost", "127.0.0.1"])
async def test_a_plugin_registers_and_is_called_over_ipv6_as_over_ipv4(host_url: str, hostname: str) -> None:
    async with hosting(bind="localhost:0") as (host, url):
        at = host_url.format(urlsplit(url).port)
        async with plugged(echo_plugin(), at, hostname=hostname, bind="localhost:0"):
            await until(host, lambda: host.registry.available("echo"))
            registration, _ = host.registry.discover("echo")
            await host.shut_down_plugin(registration.runtime_id, grace_s=0)
            await until(host, lambda: not host.registry.available("echo"))


@pytest.mark.parametrize("host_bind", ["[::1]:0", "127.0.0.1:0"])
@pytest.mark.parametrize("plugin_bind", ["[::1]:0", "127.0.0.1:0"])
async def test_localhost_is_found_whichever_of_its_addresses_somebody_listens_on(
    host_bind: str, plugin_bind: str
) -> None:
    async with hosting(bind=host_bind) as (host, url):
        at = f"http://localhost:{urlsplit(url).port}"
        async with plugged(echo_plugin(), at, hostname="localhost", bind=plugin_bind):
            await until(host, lambda: host.registry.available("echo"))
            registration, _ = host.registry.discover("echo")
            await host.shut_down_plugin(registration.runtime_id, grace_s=0)
            await until(host, lambda: not host.registry.available("echo"))


async def test_a_plugin_that_came_over_ipv4_to_a_socket_of_both_families_may_register_its_address() -> None:
    config = HostConfig(allow_plaintext=True)
    async with hosting(config, bind="[::]:0") as (host, url):
        at = f"http://127.0.0.1:{urlsplit(url).port}"
        async with plugged(echo_plugin(), at, hostname="127.0.0.1"):
            await until(host, lambda: host.registry.available("echo"))


def test_a_system_works_on_a_machine_that_has_only_ipv6() -> None:
    assert said_in(IPV6_ONLY, "system_of_ipv6") == "(0, 'ready\\n')\n"


async def system_of_ipv6() -> tuple[int, str]:
    """Run a host and a plugin, and a health check of the plugin; return what that says."""
    environment = {"PORT": "8080", "BIND": "::", "ALLOW_PLAINTEXT": "true"}
    async with running("cpg_trio", "host", environment=environment) as host:
        await host.until("listening on")
        plugin = {"PORT": "8081", "HOST_URL": "http://[::1]:8080", "HOSTNAME": "::1", "BIND": ""}
        async with running("cpg_trio.demo.logger", environment=plugin) as logger:
            await logger.until("logger-plugin is healthy")
            await host.until("logger-plugin-[0-9a-f]+ reports HEALTHY")
            async with running("cpg_trio", "check", environment=plugin) as asked:
                return await asked.end(), await asked.whole_output()


async def test_a_plugin_whose_host_is_on_loopback_cannot_be_reached_from_elsewhere() -> None:
    config = PluginConfig.from_environment(0, {"HOST_URL": f"http://localhost:{unused_port()}"})
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        urls = await nursery.start(partial(echo_plugin().serve, stop, config=config))
        assert {urlsplit(url).hostname for url in urls} == {"127.0.0.1", "::1"}
        stop.set()


# Connecting


async def test_a_port_where_nobody_listens_is_refused_also_when_tcp_connects_it_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel may choose for the client the very port that it connects to, if that is ephemeral."""
    port = unused_port()
    connected: list[socket.socket] = []

    async def from_the_same_port(host: str, to: int) -> trio.SocketStream:
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await sock.bind((host, to))
        await sock.connect((host, to))
        assert sock.getsockname() == sock.getpeername()
        connected.append(sock)  # type: ignore[arg-type]
        return trio.SocketStream(sock)

    monkeypatch.setattr(trio, "open_tcp_stream", from_the_same_port)
    for scheme in ("http", "https"):
        with pytest.raises(ConnectFailedError, match="connection refused"):
            await connect.connect(Origin(scheme, "127.0.0.1", port), timeout_s=5)
    assert [sock.fileno() for sock in connected] == [-1, -1]


@pytest.mark.parametrize("name", ["host.example.", "host.example"])
async def test_a_name_with_a_final_dot_is_verified_without_it(name: str, tmp_path: Path) -> None:
    files = Files.write(tmp_path, trustme.CA(), "host.example")
    seen: list[str | None] = []
    context = files.server_context()
    context.sni_callback = lambda _, sni, __: seen.append(sni)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_ssl_over_tcp, _hear, 0, context, host="127.0.0.1"))
        port = listeners[0].transport_listener.socket.getsockname()[1]
        origin, _ = Origin.parse(f"https://{name}:{port}")
        channel = await connect.connect(origin.at(("127.0.0.1",)), files.client_context)
        channel.close()
        nursery.cancel_scope.cancel()
    assert seen == ["host.example"]


async def _hear(stream: trio.SSLStream[trio.SocketStream]) -> None:
    with trio.move_on_after(5):
        with suppress(trio.BrokenResourceError):
            await stream.receive_some()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_an_address_of_loopback_is_one_however_it_is_written(address: str) -> None:
    assert is_loopback(address)
    assert is_private(f"[{address}]:80" if ":" in address else f"{address}:80")


@pytest.mark.parametrize("address", ["", "192.0.2.1", "::", "0.0.0.0", "::ffff:192.0.2.1", "localhost", "x"])
def test_what_other_machines_reach_or_is_no_address_is_none_of_loopback(address: str) -> None:
    assert not is_loopback(address)
