"""What a web page in somebody's browser gets from a host and from a plugin, by whatever name it calls.

A page cannot choose its `Origin`, nor the `Host` that it calls; all else it can, once its name leads here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from cpg_trio.host import HostConfig
from cpg_trio.http import ServeConfig, StartError
from cpg_trio.process import config_from_environment
from tests._wire import HANDSHAKE, dial, dial_http2
from tests.plugin.running import echo_plugin, hosting, plugged, until

PAGE = "http://evil.example:8080"
SAYS_HELLO = "/connectplugin.v1.HandshakeService/Handshake"
OF_HOST = [SAYS_HELLO, "/services/echo/x/Echo", "/capabilities/x", "/watch", "/healthz", "/"]
OF_PLUGIN = [
    "/echo.v1.EchoService/Echo",
    "/connectplugin.v1.PluginControl/Shutdown",
    "/connectplugin.v1.PluginIdentity/GetPluginInfo",
    "/healthz",
    "/",
]
USUAL = ServeConfig()
Server = Callable[..., AbstractAsyncContextManager[str]]
Ask = Callable[[str, str, dict[str, str]], Awaitable[tuple[int, bytes]]]


async def http1(url: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    lines = [f"POST {path} HTTP/1.1", "content-length: 0", *(f"{k}: {v}" for k, v in headers.items())]
    async with dial(url) as wire:
        await wire.send("\r\n".join([*lines, "", ""]).encode())
        response = await wire.response()
        return response.status, response.body


async def websocket(url: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    lines = [f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in {**HANDSHAKE, **headers}.items())]
    async with dial(url) as wire:
        await wire.send("\r\n".join([*lines, "", ""]).encode())
        response = await wire.response()
        return response.status, response.body


async def http2(url: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    others = {k: v for k, v in headers.items() if k != "host"}
    async with dial_http2(url) as wire:
        stream = await wire.request(path, *others.items(), method="POST", authority=headers["host"])
        response = await wire.response(stream)
        return response.status, response.body


ASKED = pytest.mark.parametrize("ask", [http1, websocket, http2])


@asynccontextmanager
async def a_host(serve: ServeConfig = USUAL, bind: str = "127.0.0.1:0") -> AsyncIterator[str]:
    config = HostConfig(serve=serve, public_url="https://host.example/", allow_plaintext=True)
    async with hosting(config, bind=bind) as (_, url):
        yield url.replace("0.0.0.0", "127.0.0.1")


@asynccontextmanager
async def a_plugin(serve: ServeConfig = USUAL, bind: str = "127.0.0.1:0") -> AsyncIterator[str]:
    public = echo_plugin(public=True)
    async with plugged(public, None, serve=serve, bind=bind, hostname="plugin.example") as url:
        yield url.replace("0.0.0.0", "127.0.0.1")


BOTH: list[Server] = [a_host, a_plugin]
EITHER = pytest.mark.parametrize(
    ("server", "path"), [*((a_host, path) for path in OF_HOST), *((a_plugin, path) for path in OF_PLUGIN)]
)


@ASKED
@EITHER
@pytest.mark.parametrize("bind", ["127.0.0.1:0", "0.0.0.0:0"])
async def test_a_page_whose_origin_is_not_listed_gets_403_on_every_path_and_address(
    server: Server, path: str, ask: Ask, bind: str
) -> None:
    async with server(USUAL, bind) as url:
        port = url.rpartition(":")[2]
        for host in ("evil.example:8080", f"127.0.0.1:{port}", f"localhost:{port}"):
            status, said = await ask(url, path, {"host": host, "origin": PAGE})
            assert status == 403, host
            assert b"ALLOWED_ORIGINS" in said
        assert (await ask(url, path, {"host": f"localhost:{port}"}))[0] != 403


@ASKED
@EITHER
async def test_a_name_that_was_pointed_at_this_machine_is_refused_where_only_this_machine_gets(
    server: Server, path: str, ask: Ask
) -> None:
    async with server() as url:
        status, said = await ask(url, path, {"host": "evil.example:8080"})
        assert status == 403
        assert b"ALLOWED_HOSTS" in said
        assert (await ask(url, path, {"host": "evil.example:8080", "origin": PAGE}))[0] == 403


@EITHER
async def test_where_other_machines_call_names_are_the_networks_to_give(server: Server, path: str) -> None:
    async with server(bind="0.0.0.0:0") as url:
        assert (await http1(url, path, {"host": "whatever.svc.cluster.local"}))[0] != 403


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "api.localhost", "127.0.0.1", "127.1", "[::1]", "10.0.0.7", "[fd00::7]"],
)
@pytest.mark.parametrize("port", ["", ":8080"])
async def test_a_forwarded_port_is_called_by_localhost_or_an_address(host: str, port: str) -> None:
    """So it is with `kubectl port-forward`, and with whoever opens a page of the plugin's own."""
    for server in BOTH:
        async with server() as url:
            assert (await http1(url, "/", {"host": host + port}))[0] != 403
            own = {"host": host + port, "origin": f"http://{host}{port}"}
            assert (await http1(url, "/", own))[0] != 403


async def test_a_server_is_called_by_the_names_that_it_has() -> None:
    async with a_host() as url:
        assert (await http1(url, "/", {"host": "Host.Example"}))[0] != 403
        assert (await http1(url, "/", {"host": "host.example", "origin": "https://host.example"}))[0] != 403
        assert (await http1(url, "/", {"host": "plugin.example"}))[0] == 403
    async with a_plugin() as url:
        assert (await http1(url, "/", {"host": "plugin.example:8083"}))[0] != 403
        assert (await http1(url, "/", {"host": "host.example"}))[0] == 403


async def test_a_request_at_a_unix_socket_may_name_any_host_since_no_page_gets_there(
    short_path: object,
) -> None:
    async with a_host(bind=f"unix:{short_path}/h.sock") as url:
        assert (await http1(url, "/", {"host": "evil.example"}))[0] != 403


@pytest.mark.parametrize("origin", ["https://app.example", "HTTPS://APP.example"])
async def test_an_origin_that_is_listed_is_let_in(origin: str) -> None:
    listed = ServeConfig(allowed_origins=["https://app.example"])
    for server in BOTH:
        async with server(listed) as url:
            assert (await http1(url, "/", {"host": "localhost", "origin": origin}))[0] != 403
            for other in ("http://app.example", "https://app.example:8443", "null", ""):
                assert (await http1(url, "/", {"host": "localhost", "origin": other}))[0] == 403


async def test_names_that_are_listed_are_the_only_ones_on_every_address() -> None:
    listed = ServeConfig(allowed_hosts=["api"])
    for bind in ("127.0.0.1:0", "0.0.0.0:0"):
        async with a_plugin(listed, bind) as url:
            for host in ("api:8083", "plugin.example", "localhost:1", "127.0.0.1:1"):
                assert (await http1(url, "/", {"host": host}))[0] != 403
            assert (await http1(url, "/", {"host": "evil.example"}))[0] == 403


async def test_two_origins_are_none_that_is_listed() -> None:
    listed = ServeConfig(allowed_origins=["https://app.example"])
    async with a_host(listed) as url, dial(url) as wire:
        await wire.send(
            b"POST /services/a/b/c HTTP/1.1\r\nhost: localhost\r\norigin: https://app.example\r\n"
            b"origin: https://app.example\r\ncontent-length: 0\r\n\r\n"
        )
        assert (await wire.response()).status == 403


async def test_a_page_that_was_refused_has_changed_nothing() -> None:
    async with hosting() as (host, url):
        body = b'{"selfId": "page"}'
        async with dial(url) as wire:
            await wire.send(
                b"POST %b HTTP/1.1\r\nhost: evil.example\r\norigin: http://evil.example\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (SAYS_HELLO.encode(), len(body), body)
            )
            assert (await wire.response()).status == 403
        assert not list(host.registry.plugins())


async def test_the_sdk_is_no_web_page() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url):
        await until(host, lambda: host.registry.available("echo"))


async def test_refusals_are_logged_now_and_then_and_as_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async with a_host() as url:
        for _ in range(5):
            await http1(url, "/", {"host": "localhost", "origin": "http://e/" + "x" * 1000})
    (said,) = [record.getMessage() for record in caplog.records if "web page" in record.getMessage()]
    assert len(said) < 400
    assert said.startswith("refused a request: a web page may call this only if")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ALLOWED_ORIGINS": "app.example"}, "like https://app.example:8443"),
        ({"ALLOWED_ORIGINS": "https://app.example/path"}, "without a path"),
        ({"ALLOWED_HOSTS": "https://app.example"}, "name without a port"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(StartError, match=said):
        config_from_environment(environment)


def test_the_environment_lists_origins_and_names() -> None:
    config = config_from_environment(
        {"ALLOWED_ORIGINS": "https://a.example, http://b.example:8080", "ALLOWED_HOSTS": "api"}
    )
    assert config.allowed_origins == ("https://a.example", "http://b.example:8080")
    assert config.allowed_hosts == ("api",)
