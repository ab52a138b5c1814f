"""TLS from end to end: who is let in, what an application is told, and certificates that change."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h2.events
import httpx
import pytest
import trio
import trio.testing
import trustme

from cpg_trio._cell import Cell
from cpg_trio.asgi import Receive, Scope, Send, send_text
from cpg_trio.check import check
from cpg_trio.demo import client as demo_client
from cpg_trio.host import Host, HostConfig, host_config
from cpg_trio.http import (
    Clients,
    ConnectFailedError,
    Origin,
    Pool,
    Request,
    ServeConfig,
    StartError,
    TlsConfig,
    UpstreamError,
    serve,
)
from cpg_trio.http.client.connect import connect as open_channel
from cpg_trio.http.server.config import Http1Engine
from cpg_trio.plugin import Plugin, PluginConfig
from cpg_trio.process import bind_from_environment, config_from_environment
from tests import _wire
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests._wire import HANDSHAKE, Http2Wire, connect, dial
from tests.certificates import LOCAL, WORKLOAD, Files
from tests.plugin.running import echo_plugin, hosting, plugged

GET = Request(b"GET", b"/", [(b"host", b"test")])
LANES = pytest.mark.parametrize("http1_engine", Http1Engine)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Certificates that a test may change."""
    return Files.write(tmp_path, trustme.CA(), *LOCAL, WORKLOAD)


class Seen:
    """Answers, and keeps what it was told."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
        else:
            await send_text(send, 200, "hello")

    def told(self) -> tuple[str, tuple[str, ...], int]:
        """Return the scheme, the client's names, and how many certificates it has shown."""
        scope = self.scopes[-1]
        return (
            scope["scheme"],
            scope["state"]["peer_names"],
            len(scope["extensions"]["tls"]["client_cert_chain"]),
        )


@asynccontextmanager
async def served(files: Files, app: Any = None, bind: str = "127.0.0.1:0", **said: Any) -> AsyncIterator[str]:
    """Serve with TLS; yield the URL."""
    config, stop = ServeConfig(**{"tls": files.config(), **said}), trio.Event()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(partial(serve, app or Seen(), bind=bind, config=config, stop=stop))
            yield url
            stop.set()


def origin_of(url: str) -> Origin:
    return Origin.parse(url)[0]


def trusting(monkeypatch: pytest.MonkeyPatch, context: ssl.SSLContext) -> None:
    monkeypatch.setattr(_wire, "TRUST", [context])


# What an application is told


@LANES
@pytest.mark.parametrize("show", [True, False])
async def test_an_application_is_told_what_its_client_has_proved(
    files: Files, monkeypatch: pytest.MonkeyPatch, *, http1_engine: Http1Engine, show: bool
) -> None:
    trusting(monkeypatch, files.client_context(show=show))
    names = (*(name for name in LOCAL if name[0].isalpha()), WORKLOAD) if show else ()
    seen = Seen()
    async with served(files, seen, http1_engine=http1_engine) as url:
        assert url.startswith("https://127.0.0.1:")
        async with dial(url) as wire:
            assert (await wire.get()).body == b"hello"
        assert seen.told() == ("https", names, int(show))
        assert seen.scopes[-1]["extensions"]["tls"]["tls_version"] == 0x0304
        async with dial(url) as wire:
            assert (await wire.get("/", HANDSHAKE)).status == 403
        assert seen.told() == ("wss", names, int(show))


@LANES
async def test_clients_that_can_speak_http2_are_offered_it(
    files: Files, monkeypatch: pytest.MonkeyPatch, *, http1_engine: Http1Engine
) -> None:
    context = files.client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    trusting(monkeypatch, context)
    seen = Seen()
    async with served(files, seen, http1_engine=http1_engine) as url:
        stream = await connect(url)
        assert isinstance(stream, trio.SSLStream)
        assert stream.selected_alpn_protocol() == "h2"
        async with stream:
            wire = Http2Wire(stream)
            wire.h2.initiate_connection()
            await wire.flush()
            assert (await wire.response(await wire.request())).body == b"hello"
            await wire.until(h2.events.SettingsAcknowledged)
    assert seen.told()[0] == "https"
    assert WORKLOAD in seen.told()[1]


async def test_what_comes_by_a_unix_socket_is_plain(files: Files, short_path: Path) -> None:
    seen = Seen()
    async with served(files, seen, f"unix:{short_path / 'socket'}") as url, dial(url) as wire:
        assert (await wire.get()).body == b"hello"
    assert seen.scopes[0]["scheme"] == "http"
    assert seen.scopes[0]["state"]["peer_names"] == ()
    assert "tls" not in seen.scopes[0]["extensions"]


# Who is let in, and what the others cannot do


@LANES
@pytest.mark.parametrize("said", [b"", b"\0\1 nothing\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_client_that_does_not_shake_hands_is_let_go_and_hurts_nobody(
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    said: bytes,
    *,
    http1_engine: Http1Engine,
) -> None:
    trusting(monkeypatch, files.client_context())
    async with (
        served(files, http1_engine=http1_engine, header_timeout_s=0.2) as url,
        await connect(url.replace("https:", "http:")) as stream,
    ):
        await stream.send_all(said)
        async with dial(url) as wire:
            assert (await wire.get()).body == b"hello"
        while await stream.receive_some():
            pass
    assert caplog.messages == []


async def test_a_handshake_does_not_hold_up_the_end(files: Files) -> None:
    async with served(files, grace_s=3600) as url:
        stream = await connect(url.replace("https:", "http:"))
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert await stream.receive_some() == b""
    await stream.aclose()


@LANES
async def test_a_client_without_a_certificate_is_let_in_unless_one_is_required(
    files: Files, *, http1_engine: Http1Engine
) -> None:
    contexts = {show: partial(files.client_context, show=show) for show in (True, False)}
    for clients in Clients:
        async with served(files, tls=files.config(clients), http1_engine=http1_engine) as url:
            async with Pool(ssl_context=contexts[True]) as pool:
                assert (await pool.fetch(origin_of(url), GET)).status == 200
            async with Pool(ssl_context=contexts[False]) as pool:
                if clients is not Clients.REQUIRED:
                    assert (await pool.fetch(origin_of(url), GET)).status == 200
                    continue
                with pytest.raises(UpstreamError, match="CERTIFICATE_REQUIRED"):
                    await pool.fetch(origin_of(url), GET)


async def test_large_bodies_go_both_ways(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    async def echo(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    body = bytes(range(256)) * 2**14
    async with served(files, echo) as url, Pool(ssl_context=files.client_context) as pool:
        framed = [(b"host", b"test"), (b"content-length", b"%d" % len(body))]
        answer = await pool.fetch(origin_of(url), Request(b"POST", b"/", framed, body), max_body_bytes=2**23)
        assert answer.body == body


# Certificates that change


async def test_new_files_are_taken_for_new_connections_and_old_ones_go_on(
    files: Files, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting(monkeypatch, files.client_context())
    ca = trustme.CA()
    async with served(files) as url, dial(url) as old:
        assert (await old.get()).status == 200
        files.issue(ca, *LOCAL)
        ca.cert_pem.write_to_path(files.ca)
        async with dial(url) as wire:  # it is not looked for at each connection
            assert (await wire.get()).status == 200
        mock_clock.jump(1)
        with pytest.raises(trio.BrokenResourceError):
            await connect(url)
        trusting(monkeypatch, files.client_context())
        async with dial(url) as wire:
            assert (await wire.get()).status == 200
        assert (await old.get()).status == 200


async def test_renewals_under_load_lose_no_call(
    tmp_path: Path, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ca = trustme.CA()
    files = Files.write(tmp_path, ca, *LOCAL)
    contexts, answered, done = files.config().client_contexts(), Cell(0), False

    async def load(pool: Pool, origin: Origin) -> None:
        while not done:
            assert (await pool.fetch(origin, GET)).status == 200
            answered.set(answered.value + 1)

    caplog.set_level(logging.INFO)
    tls = files.config(Clients.REQUIRED)
    # Some go on with the connection that they have, others connect for each call.
    async with served(files, tls=tls) as url, Pool(ssl_context=contexts) as kept:
        async with Pool(ssl_context=contexts, max_idle_per_origin=0) as fresh, trio.open_nursery() as nursery:
            for pool in (kept, kept, fresh, fresh):
                nursery.start_soon(load, pool, origin_of(url))
            for _ in range(10):
                files.issue(ca, *LOCAL)
                mock_clock.jump(1)
                enough = answered.value + 20
                async for calls in answered.reader():
                    if calls >= enough:
                        break
            done = True
        assert kept.statistics().opened == 2
    assert sum("read anew" in message for message in caplog.messages) >= 10
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


@pytest.mark.parametrize("wrong", ["another's key", "no PEM", "nothing there"])
async def test_new_files_that_are_of_no_use_change_nothing_and_are_told_once(
    files: Files, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    contexts = files.config().server_contexts()
    before = contexts()
    right = files.key.read_bytes()
    if wrong == "another's key":
        files.key.write_bytes(trustme.CA().private_key_pem.bytes())
    elif wrong == "no PEM":
        files.key.write_bytes(b"nonsense")
    else:
        files.key.unlink()
    for _ in range(3):
        mock_clock.jump(1)
        assert contexts() is before
    assert len(caplog.messages) == 1
    assert str(files.key) in caplog.text
    assert "what was there before goes on" in caplog.text
    files.key.write_bytes(right)
    mock_clock.jump(1)
    assert contexts() is not before


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("key", "the key is not the certificate's"),
        ("cert", "is not there in PEM"),
        ("missing", "no such file or directory"),
        ("password", "the key has a password"),
    ],
)
async def test_files_that_are_of_no_use_keep_a_server_from_starting(
    files: Files, wrong: str, why: str
) -> None:
    if wrong == "key":
        files.key.write_bytes(trustme.CA().private_key_pem.bytes())
    elif wrong == "cert":
        files.cert.write_bytes(b"nonsense")
    elif wrong == "missing":
        files.cert.unlink()
    else:
        files.encrypt_key()
    with pytest.raises(StartError, match=why) as caught:
        await serve(Seen(), config=ServeConfig(tls=files.config()))
    assert str(files.cert) in str(caught.value)


# Hosts and plugins


@pytest.mark.parametrize("clients", [Clients.OPTIONAL, Clients.REQUIRED])
async def test_a_call_goes_from_plugin_to_host_to_plugin_with_tls_all_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients: Clients
) -> None:
    files = Files.write(tmp_path, trustme.CA(), *LOCAL, "caller", "echo-plugin")
    watches: list[Origin] = []
    told = connect_of_websockets(monkeypatch, watches)
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    serving = ServeConfig(tls=files.config(clients))
    with trio.fail_after(20):
        async with (
            hosting(HostConfig(serve=serving)) as (host, url),
            plugged(caller, url, serve=serving),
            plugged(echo_plugin(), url, serve=serving) as echo_url,
        ):
            await echo.wait_available()
            said = await echo.client(EchoServiceClient).echo(EchoRequest(text="✓"))
            assert said.text == "✓"
            (provider,) = host.registry.providers("echo")
            assert provider.base_url == echo_url
            assert echo_url.startswith("https://")
            await told.wait()
            await host.shut_down_plugin(provider.runtime_id)
    assert {origin.scheme for origin in watches} == {"https"}


def connect_of_websockets(monkeypatch: pytest.MonkeyPatch, origins: list[Origin]) -> trio.Event:
    """Note where websockets connect to; return an event for the first that has."""
    told = trio.Event()

    async def noting(origin: Origin, *args: Any, **named: Any) -> Any:
        channel = await open_channel(origin, *args, **named)
        origins.append(origin)
        told.set()
        return channel

    monkeypatch.setattr("cpg_trio.plugin._websocket.connect", noting)
    return told


async def test_a_plugin_that_knows_its_hosts_authority_needs_no_certificate(files: Files) -> None:
    config = HostConfig(serve=ServeConfig(tls=files.config()))
    serving = ServeConfig(tls=TlsConfig(ca_file=files.ca))
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    with trio.fail_after(20):
        async with (
            hosting(config) as (_, url),
            plugged(caller, url, serve=serving),
            plugged(echo_plugin(), url, serve=serving) as echo_url,
        ):
            assert echo_url.startswith("http://")
            await echo.wait_available()
            assert (await echo.client(EchoServiceClient).echo(EchoRequest(text="✓"))).text == "✓"


async def test_a_host_that_a_plugin_has_no_reason_to_trust_gets_nothing_of_it(
    files: Files, certificates: Files
) -> None:
    async with (
        hosting(HostConfig(serve=ServeConfig(tls=files.config()))) as (_, url),
        Pool(ssl_context=certificates.config().client_contexts()) as pool,
    ):
        with pytest.raises(ConnectFailedError, match="its certificate is not accepted: self-signed"):
            await pool.fetch(origin_of(url), GET)


@pytest.mark.parametrize(
    "bind", ["0.0.0.0:0", ":0", "[::]:0", "some.host.test:0", ["127.0.0.1:0", "0.0.0.0:0"]]
)
async def test_a_host_that_others_reach_does_not_start_without_tls(bind: str | list[str]) -> None:
    with pytest.raises(StartError, match=r"without TLS.*TLS_CERT.*BIND=127\.0\.0\.1.*ALLOW_PLAINTEXT=true"):
        await Host().serve(bind=bind)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "localhost:0", "127.1.2.3:0"])
async def test_a_host_that_only_its_machine_reaches_needs_no_tls(bind: str, short_path: Path) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(Host().serve, stop, bind=[bind, f"unix:{short_path / 's'}"]))
        stop.set()


@pytest.mark.parametrize("how", ["tls", "said"])
async def test_a_host_that_others_reach_has_tls_or_says_that_it_has_none(files: Files, how: str) -> None:
    serving = ServeConfig(tls=files.config()) if how == "tls" else ServeConfig()
    config, stop = HostConfig(serve=serving, allow_plaintext=how == "said"), trio.Event()
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(Host(config).serve, stop, bind="0.0.0.0:0"))
        assert url.startswith("https://0.0.0.0:" if how == "tls" else "http://0.0.0.0:")
        stop.set()


async def test_a_host_whose_files_are_of_no_use_does_not_start(tmp_path: Path) -> None:
    tls = TlsConfig(ca_file=tmp_path / "none.pem")
    with pytest.raises(StartError, match=r"none\.pem for TLS: no such file"):
        await Host(HostConfig(serve=ServeConfig(tls=tls))).serve(bind="127.0.0.1:0")
    with pytest.raises(StartError, match=r"none\.pem for TLS: no such file"):
        await echo_plugin().serve(config=PluginConfig(serve=ServeConfig(tls=tls)))


# The environment


@pytest.mark.parametrize(
    ("environment", "config"),
    [
        ({}, TlsConfig()),
        ({"TLS_CA": "ca"}, TlsConfig(ca_file=Path("ca"))),
        ({"TLS_CERT": "c"}, TlsConfig(cert_file=Path("c"))),
        ({"TLS_CERT": "c", "TLS_KEY": "k"}, TlsConfig(cert_file=Path("c"), key_file=Path("k"))),
        (
            {"TLS_CERT": "c", "TLS_CA": "ca"},
            TlsConfig(cert_file=Path("c"), ca_file=Path("ca"), clients=Clients.OPTIONAL),
        ),
        (
            {"TLS_CERT": "c", "TLS_CA": "ca", "TLS_CLIENTS": "required"},
            TlsConfig(cert_file=Path("c"), ca_file=Path("ca"), clients=Clients.REQUIRED),
        ),
        (
            {"TLS_CERT": "c", "TLS_CA": "ca", "TLS_CLIENTS": "none"},
            TlsConfig(cert_file=Path("c"), ca_file=Path("ca")),
        ),
    ],
)
def test_the_environment_says_which_certificates(environment: dict[str, str], config: TlsConfig) -> None:
    assert config_from_environment(environment) == ServeConfig(tls=config)
    assert host_config(environment).serve.tls == config
    assert PluginConfig.from_environment(8081, environment).serve.tls == config


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"TLS_KEY": "k"}, "TLS_KEY needs TLS_CERT"),
        ({"TLS_CLIENTS": "some"}, "TLS_CLIENTS must be one of none, optional, required, not 'some'"),
        ({"TLS_CERT": "c", "TLS_CLIENTS": "optional"}, "TLS_CLIENTS=optional needs TLS_CERT, and TLS_CA"),
        ({"TLS_CA": "ca", "TLS_CLIENTS": "required"}, "TLS_CLIENTS=required needs TLS_CERT, and TLS_CA"),
        ({"ALLOW_PLAINTEXT": "yes"}, "ALLOW_PLAINTEXT must be 'true' or 'false', not 'yes'"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(environment: dict[str, str], why: str) -> None:
    with pytest.raises(StartError, match=why):
        host_config(environment)


def test_a_configuration_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="a key needs its certificate"):
        TlsConfig(key_file=Path("k"))
    with pytest.raises(ValueError, match="a CA that vouches for them"):
        TlsConfig(cert_file=Path("c"), clients=Clients.REQUIRED)


@pytest.mark.parametrize(
    ("environment", "bind"),
    [
        ({}, ["127.0.0.1:8080"]),
        ({"BIND": "0.0.0.0", "PORT": "1"}, ["0.0.0.0:1"]),
        ({"BIND": "::1"}, ["[::1]:8080"]),
        ({"BIND": "[::]"}, ["[::]:8080"]),
        ({"BIND": "some.host"}, ["some.host:8080"]),
        ({"BIND": "127.0.0.1, [fd00::1]"}, ["127.0.0.1:8080", "[fd00::1]:8080"]),
    ],
)
def test_the_environment_says_where_to_listen(environment: dict[str, str], bind: list[str]) -> None:
    assert bind_from_environment("127.0.0.1", 8080, environment) == bind


@pytest.mark.parametrize("bind", ["0.0.0.0:8080", "unix:/s", "[::1]:80", "a b"])
def test_an_address_to_listen_on_has_no_port(bind: str) -> None:
    with pytest.raises(StartError, match="BIND must be an address or a host name without a port"):
        bind_from_environment("127.0.0.1", 8080, {"BIND": bind})


# Commands


@pytest.mark.parametrize("clients", list(Clients))
async def test_a_health_check_asks_with_tls_where_that_is_served(files: Files, clients: Clients) -> None:
    async with served(files, tls=files.config(clients)) as url:
        environment = {**files.environment, "PORT": url.rpartition(":")[2]}
        assert await trio.to_thread.run_sync(check, "live", environment) == 0


async def test_a_health_check_asks_where_the_process_listens() -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        for bind, said in (("127.0.0.2:0", "127.0.0.2"), ("[::1]:0", "::"), ("127.0.0.1:0", "0.0.0.0")):
            (url,) = await nursery.start(partial(serve, Seen(), bind=bind, stop=stop))
            environment = {"PORT": url.rpartition(":")[2], "BIND": said}
            assert await trio.to_thread.run_sync(check, "live", environment) == 0
        stop.set()


async def test_a_health_check_says_which_certificate_it_cannot_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"PORT": "1", "TLS_CERT": str(tmp_path / "none.pem")}
    assert await trio.to_thread.run_sync(check, "live", environment) == 1
    assert "no answer at port 1: [Errno 2] No such file" in capsys.readouterr().err


async def test_the_demos_client_trusts_whom_the_environment_says(
    files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with served(files) as url:
        monkeypatch.setenv("API_URL", url)
        assert await trio.to_thread.run_sync(demo_client.main, ["resolve", "x"]) == 1
        assert "unavailable" in capsys.readouterr().err
        monkeypatch.setenv("TLS_CA", str(files.ca))
        assert await trio.to_thread.run_sync(demo_client.main, ["resolve", "x"]) == 1
        assert "unavailable" not in capsys.readouterr().err  # but not an api
    monkeypatch.setenv("TLS_CA", "nowhere.pem")
    assert await trio.to_thread.run_sync(demo_client.main, ["resolve", "x"]) == 1
    assert "cannot use nowhere.pem for TLS" in capsys.readouterr().err


async def test_an_ordinary_client_is_served(files: Files) -> None:
    async with served(files) as url, httpx.AsyncClient(verify=files.client_context()) as http:
        assert (await http.get(url)).text == "hello"
