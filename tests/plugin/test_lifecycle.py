"""A plugin's life: it listens, registers, reports, follows its host and dependencies, and leaves in order."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import trio
import trio.testing

from cpg_trio._cell import Cell
from cpg_trio._gen.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.asgi import Receive, Scope, Send, send_text
from cpg_trio.host import Action, Host, HostConfig, Keys, LeaseConfig
from cpg_trio.http import BindError, StartError
from cpg_trio.plugin import Plugin, PluginConfig, RefusedError, _session
from cpg_trio.rpc import Code, ConnectError
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.calls import DISCOVER
from tests.http.apps import served
from tests.plugin.running import (
    DEGRADED,
    HEALTHY,
    echo_plugin,
    eventually,
    hosting,
    is_healthy,
    meddled,
    plugged,
    state_of,
    until,
    unused_port,
)
from tests.rpc.echo import Echo, canned


async def test_a_plugin_listens_before_it_registers_and_registers_before_it_is_healthy() -> None:
    seen: list[tuple[bool, int]] = []

    def look(service_type: str) -> None:
        provider = host.registry.status(service_type).provider
        assert provider
        where = urlsplit(provider.base_url)
        with socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=5):
            seen.append((True, host.registry.health(provider.runtime_id).state))

    async with hosting() as (host, url):
        host.registry.subscribe(look)
        async with plugged(echo_plugin(), url):
            await until(host, lambda: state_of(host, "echo") == HEALTHY)
            assert seen == [(True, 0), (True, HEALTHY)]


async def test_its_base_url_is_made_of_its_host_name_and_port() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url) as plugin_url:
        await until(host, lambda: host.registry.available("echo"))
        registration, _ = host.registry.discover("echo")
        assert registration.base_url == plugin_url
        assert registration.endpoint_path == "/echo.v1.EchoService/"


async def test_a_plugin_that_starts_before_its_host_finds_it(caplog: pytest.LogCaptureFixture) -> None:
    port = unused_port()
    async with plugged(echo_plugin(), f"http://127.0.0.1:{port}"):
        while "cannot reach the host" not in caplog.text:
            await trio.testing.wait_all_tasks_blocked(0.01)
        async with hosting(bind=f"127.0.0.1:{port}") as (host, _):
            await until(host, lambda: state_of(host, "echo") == HEALTHY)
    assert [r.levelname for r in caplog.records].count("WARNING") == 1  # not at each try


async def test_a_plugin_whose_host_has_forgotten_it_registers_anew() -> None:
    port = unused_port()
    plugin = echo_plugin()
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        config = PluginConfig(host_url=f"http://127.0.0.1:{port}", hostname="127.0.0.1", heartbeat_s=0.05)
        await nursery.start(partial(plugin.serve, stop, config=config))
        names = set()
        for _ in range(3):
            async with hosting(bind=f"127.0.0.1:{port}") as (host, _):
                await until(host, partial(is_healthy, host, "echo"))
                names.add(host.registry.discover("echo")[0].runtime_id)
        assert len(names) == 3
        stop.set()


async def test_a_token_is_renewed_before_it_expires_and_the_identity_stays() -> None:
    renewed: list[str] = []
    async with hosting(HostConfig(token_ttl_s=0.5)) as (host, url):
        host.audit.subscribe(lambda e: renewed.append(e.subject) if e.action is Action.RENEW else None)
        async with plugged(echo_plugin(), url):
            await until(host, lambda: state_of(host, "echo") == HEALTHY)
            first = host.registry.discover("echo")[0].runtime_id
            await eventually(lambda: len(renewed) >= 5)
            assert set(renewed) == {first}
            assert host.registry.discover("echo")[0].runtime_id == first


@pytest.mark.parametrize("same_key", [True, False])
async def test_to_a_host_that_has_forgotten_all_a_plugin_comes_back_as_who_it_was_if_it_is_believed(
    same_key: bool,  # noqa: FBT001
) -> None:
    port, names = unused_port(), []
    keys = Keys(["k" * 32])
    async with plugged(echo_plugin(), f"http://127.0.0.1:{port}", heartbeat_s=0.05):
        for _ in range(2):
            config = HostConfig(keys=keys if same_key else Keys())
            async with hosting(config, bind=f"127.0.0.1:{port}") as (host, _):
                await until(host, lambda: host.registry.available("echo"))
                names.append(host.registry.discover("echo")[0].runtime_id)
    assert (names[0] == names[1]) == same_key


async def test_a_plugin_of_one_host_is_known_to_another_that_has_its_key() -> None:
    config = HostConfig(keys=Keys(["k" * 32]))
    plugin = echo_plugin()
    async with hosting(config) as (host, url), hosting(config) as (_, other), plugged(plugin, url):
        await until(host, lambda: host.registry.available("echo"))
        identity, token = host.identities.issue("caller")
        proof = {"X-Plugin-Runtime-ID": identity.runtime_id, "Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient() as http:
            answer = await http.post(f"{other}{DISCOVER}", json={"serviceType": "echo"}, headers=proof)
    assert answer.json()["code"] == "not_found"  # and not unauthenticated: who asks is known


async def test_an_identity_that_is_revoked_is_replaced_before_anyone_notices() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url, heartbeat_s=0.05):
        await until(host, lambda: state_of(host, "echo") == HEALTHY)
        first = host.registry.discover("echo")[0].runtime_id
        await host.revoke_identity(first)
        await until(host, lambda: host.registry.available("echo") and state_of(host, "echo") == HEALTHY)
        assert host.registry.discover("echo")[0].runtime_id != first


async def test_a_plugin_that_stops_unregisters_and_no_registration_piles_up() -> None:
    async with hosting() as (host, url):
        for _ in range(5):
            async with plugged(echo_plugin(), url):
                await until(host, lambda: state_of(host, "echo") == HEALTHY)
            assert host.registry.service_types() == []


async def test_a_missing_dependency_degrades_a_plugin_until_it_is_there() -> None:
    plugin = echo_plugin("needy", "needs")
    plugin.require("echo", min_version="1.0.0")
    plugin.require("nice-to-have", required=False)
    async with hosting() as (host, url), plugged(plugin, url):
        await until(host, lambda: state_of(host, "needs") == DEGRADED)
        needy = host.registry.discover("needs")[0].runtime_id
        health = host.registry.health(needy)
        assert (health.reason, health.unavailable_dependencies) == ("waiting for echo", ("echo",))
        async with plugged(echo_plugin(), url):
            await until(host, lambda: state_of(host, "needs") == HEALTHY)
            assert host.registry.health(needy).unavailable_dependencies == ()
        await until(host, lambda: state_of(host, "needs") == DEGRADED)


async def test_a_plugin_says_itself_that_it_is_of_no_use() -> None:
    plugin = echo_plugin()
    async with hosting() as (host, url), plugged(plugin, url):
        await until(host, lambda: host.registry.available("echo"))
        plugin.set_health(pb.HEALTH_STATE_UNHEALTHY, "the disk is full")
        await until(host, lambda: not host.registry.available("echo"))
        plugin.set_health(pb.HEALTH_STATE_HEALTHY)
        await until(host, lambda: host.registry.available("echo"))


async def test_a_stop_while_the_host_is_away_is_prompt() -> None:
    with trio.fail_after(5):
        async with plugged(echo_plugin(), f"http://127.0.0.1:{unused_port()}"):
            await trio.testing.wait_all_tasks_blocked(0.05)


async def test_a_stop_before_the_start_is_prompt() -> None:
    stop = trio.Event()
    stop.set()
    with trio.fail_after(5):
        async with hosting() as (host, url), plugged(echo_plugin(), url, stop=stop):
            pass
        assert host.registry.service_types() == []


async def test_a_stop_does_not_wait_for_a_host_that_does_not_answer() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass

    stop = trio.Event()
    async with hosting() as (host, url):
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    partial(
                        echo_plugin().serve, stop, config=PluginConfig(host_url=url, hostname="127.0.0.1")
                    )
                )
                await until(host, lambda: state_of(host, "echo") == HEALTHY)
                # the host hangs: its registry answers nobody any more
                host.registry.report_health = lambda *_: trio.lowlevel.current_task()  # type: ignore[method-assign, assignment]
                stop.set()


async def test_a_host_that_will_not_have_a_plugin_ends_it_with_the_reason() -> None:
    refusal = canned(
        400,
        b'{"code": "failed_precondition", "message": "version mismatch"}',
        content_type="application/json",
    )
    async with served(refusal) as url:
        with pytest.raises(RefusedError, match="the host refuses: version mismatch"):
            await echo_plugin().serve(config=PluginConfig(host_url=url))


async def test_a_port_that_is_taken_ends_it_with_the_reason() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BindError, match="in use"):
            await echo_plugin().serve(config=PluginConfig(bind=f"127.0.0.1:{taken.getsockname()[1]}"))


SHORT = LeaseConfig(heartbeat_s=0.05, lease_s=0.3, probe_timeout_s=0.1)


async def test_a_plugin_that_dies_without_a_word_is_out_of_the_registry_after_two_leases() -> None:
    async with hosting(HostConfig(leases=SHORT)) as (host, url):
        with trio.CancelScope() as death:
            async with plugged(echo_plugin(), url):
                await until(host, lambda: state_of(host, "echo") == HEALTHY)
                assert len(host.registry.registrations(host.registry.discover("echo")[0].runtime_id)) == 1
                death.cancel()
        await until(host, lambda: not host.registry.available("echo"))
        await until(host, lambda: host.registry.service_types() == [])


async def test_a_plugin_reports_as_often_as_its_host_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    often = HostConfig(leases=LeaseConfig(heartbeat_s=0.02, lease_s=30.0))
    async with hosting(often) as (host, url), plugged(echo_plugin(), url, heartbeat_s=None):
        beats = Cell(0)
        monkeypatch.setattr(host._liveness, "beat", lambda _: beats.set(beats.value + 1))
        with trio.fail_after(20):
            async for count in beats.reader():
                if count >= 10:
                    break


@pytest.mark.parametrize(
    ("announced", "seconds"), [("5000", 5.0), ("20", 0.02), ("", 5.0), ("0", 5.0), ("-1", 5.0), ("soon", 5.0)]
)
def test_a_host_that_asks_for_nothing_sensible_gets_the_usual(announced: str, seconds: float) -> None:
    assert _session._seconds(announced, 5.0) == seconds


PROBES = ("/health", "/healthz", "/readyz")


async def _until_it_says(http: httpx.AsyncClient, *expected: tuple[int, str]) -> None:
    """Wait until the probes say something: what a plugin has heard, nobody but it can tell."""
    said: list[tuple[int, str]] = []
    with trio.move_on_after(20):
        while said != [*expected]:
            answers = [await http.get(path) for path in PROBES]
            said = [(answer.status_code, answer.text) for answer in answers]
    assert said == [*expected]


async def test_the_probes_say_whether_it_has_begun_whether_it_turns_and_whether_its_lease_is_fresh() -> None:
    port = unused_port()
    short = HostConfig(leases=LeaseConfig(lease_s=0.3))
    no_handshake = (503, "not ready: no handshake with a host yet")
    async with (
        plugged(echo_plugin(), f"http://127.0.0.1:{port}", heartbeat_s=None) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        await _until_it_says(http, no_handshake, (200, "ok"), no_handshake)
        async with hosting(short, bind=f"127.0.0.1:{port}"):
            await _until_it_says(http, (200, "OK"), (200, "ok"), (200, "ready"))
        stale = (503, "not ready: no heartbeat has reached the host in the last 0.3 s")
        await _until_it_says(http, (200, "OK"), (200, "ok"), stale)
        async with hosting(short, bind=f"127.0.0.1:{port}"):
            await _until_it_says(http, (200, "OK"), (200, "ok"), (200, "ready"))


async def test_a_plugin_that_has_shaken_hands_is_not_ready_before_its_host_has_heard_it() -> None:
    async def no_reports(scope: Scope, _receive: Receive, send: Send) -> bool:
        if silent := str(scope["path"]).endswith("/ReportHealth"):
            await send_text(send, 503, "not now")
        return silent

    async with (
        meddled(no_reports) as (host, host_url),
        plugged(echo_plugin(), host_url) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        await until(host, lambda: host.registry.providers("echo"))
        unheard = (503, "not ready: no heartbeat has reached the host in the last 15 s")
        await _until_it_says(http, (200, "OK"), (200, "ok"), unheard)


async def test_a_plugin_that_says_that_it_is_unhealthy_is_alive_and_not_ready() -> None:
    plugin = echo_plugin()
    async with (
        hosting() as (_, host_url),
        plugged(plugin, host_url) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        await _until_it_says(http, (200, "OK"), (200, "ok"), (200, "ready"))
        plugin.set_health(pb.HEALTH_STATE_UNHEALTHY, "the disk is full")
        await _until_it_says(http, (200, "OK"), (200, "ok"), (503, "not ready: the disk is full"))
        plugin.set_health(pb.HEALTH_STATE_DEGRADED, "the disk is slow")
        await _until_it_says(http, (200, "OK"), (200, "ok"), (200, "ready"))


async def test_a_plugin_that_takes_its_leave_is_alive_and_not_ready() -> None:
    leaving, leave, stop = trio.Event(), trio.Event(), trio.Event()

    async def hold(scope: Scope, _receive: Receive, _send: Send) -> bool:
        if scope["path"].endswith("/UnregisterService"):
            leaving.set()
            await leave.wait()
        return False

    async with meddled(hold) as (host, host_url), plugged(echo_plugin(), host_url, stop=stop) as url:
        await until(host, lambda: is_healthy(host, "echo"))
        stop.set()
        await leaving.wait()
        async with httpx.AsyncClient(base_url=url) as http:
            await _until_it_says(http, (200, "OK"), (200, "ok"), (503, "not ready: stopping"))
        leave.set()


async def test_what_it_does_not_serve_is_404() -> None:
    async with plugged(echo_plugin(), None) as url, httpx.AsyncClient(base_url=url) as http:
        response = await http.post("/nope.v1.Nope/Nope", json={})
    assert (response.status_code, response.text) == (404, "404 page not found\n")


async def test_calls_in_flight_finish_within_the_grace_that_the_host_gives() -> None:
    class Slow(Echo):
        def __init__(self) -> None:
            super().__init__()
            self.entered, self.release = trio.Event(), trio.Event()

        async def echo(self, request, ctx, /):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            self.entered.set()
            await self.release.wait()
            return await super().echo(request, ctx)

    slow, plugin, answers = Slow(), Plugin("slow", version="1.0.0"), list[str]()
    plugin.provide("slow", slow, public=True)
    async with hosting() as (host, url), httpx.AsyncClient() as http, trio.open_nursery() as nursery:
        (plugin_url,) = await nursery.start(
            partial(plugin.serve, config=PluginConfig(host_url=url, hostname="127.0.0.1", grace_s=0.0))
        )
        await until(host, lambda: state_of(host, "slow") == HEALTHY)

        async def call() -> None:
            answers.append((await EchoServiceClient(plugin_url, http).echo(EchoRequest(text="done"))).text)

        nursery.start_soon(call)
        await slow.entered.wait()
        await host.shut_down_plugin(
            host.registry.discover("slow")[0].runtime_id, grace_s=20, reason="replaced"
        )
        await until(host, lambda: not host.registry.available("slow"))
        slow.release.set()
    assert answers == ["done"]


async def test_calls_in_flight_end_when_the_grace_is_over() -> None:
    plugin = echo_plugin(public=True)
    with trio.fail_after(10):
        async with hosting() as (host, url), httpx.AsyncClient() as http, trio.open_nursery() as nursery:
            config = PluginConfig(host_url=url, hostname="127.0.0.1")
            (plugin_url,) = await nursery.start(partial(plugin.serve, config=config))
            await until(host, lambda: state_of(host, "echo") == HEALTHY)

            async def call() -> None:
                with pytest.raises(ConnectError) as caught:
                    await EchoServiceClient(plugin_url, http).echo(EchoRequest(text="hang"))
                assert caught.value.code in {Code.UNAVAILABLE, Code.CANCELED}

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await host.shut_down_plugin(host.registry.discover("echo")[0].runtime_id, grace_s=0)


async def test_a_host_cannot_stop_what_it_does_not_know() -> None:
    with pytest.raises(ConnectError) as caught:
        await Host().shut_down_plugin("nobody-0")
    assert caught.value.code == Code.NOT_FOUND


@pytest.mark.parametrize(
    "environment",
    [{"PORT": "http"}, {"PORT": "65536"}, {"PORT": "-1"}, {"PORT": "²"}, {"HOST_URL": "localhost:8080"}],
)
def test_an_environment_that_makes_no_sense_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(StartError, match=f"^{next(iter(environment))}"):
        PluginConfig.from_environment(8081, environment)


def test_an_empty_file_of_an_enrolment_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("\n")
    with pytest.raises(StartError, match=r"^ENROLMENT_TOKEN_FILE: .* is empty$"):
        PluginConfig.from_environment(8081, {"ENROLMENT_TOKEN_FILE": str(path)})


def test_the_environment_says_where_a_plugin_runs() -> None:
    environment = {
        "PORT": "9",
        "HOST_URL": "http://host:8080/",
        "HOSTNAME": "storage",
        "SOCKET_DIR": "/sockets",
    }
    assert PluginConfig.from_environment(8081, environment) == PluginConfig(
        bind=["[::]:9"], host_url="http://host:8080", hostname="storage", socket_dir=Path("/sockets")
    )
    assert PluginConfig.from_environment(8081, {}) == PluginConfig(bind=["[::]:8081"])


@pytest.mark.parametrize(
    "host_url",
    [
        "http://localhost:1",
        "http://LOCALHOST.:1",
        "http://127.0.0.1:1",
        "http://127.9.9.9:1",
        "https://[::1]:1",
    ],
)
def test_a_plugin_whose_host_is_on_loopback_listens_there_only(host_url: str) -> None:
    assert PluginConfig.from_environment(8081, {"HOST_URL": host_url}).bind == ["localhost:8081"]
    for elsewhere in ("0.0.0.0", "10.0.0.7"):
        environment = {"HOST_URL": host_url, "BIND": elsewhere}
        assert PluginConfig.from_environment(8081, environment).bind == [f"{elsewhere}:8081"]


def test_what_listens_on_loopback_is_not_called_by_a_name_that_is_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    local = {"HOST_URL": "http://localhost:8080"}
    for hostname in ("localhost", "127.0.0.1", "::1"):
        assert PluginConfig.from_environment(1, {**local, "HOSTNAME": hostname}).hostname == hostname
    assert not caplog.records
    assert PluginConfig.from_environment(1, {**local, "HOSTNAME": "machine"}).hostname == "localhost"
    assert "HOSTNAME=machine is not used" in caplog.text
    asked = {**local, "HOSTNAME": "machine", "BIND": "::"}
    assert PluginConfig.from_environment(1, asked).hostname == "machine"


def test_what_is_served_with_tls_is_served_wherever_its_name_is() -> None:
    environment = {"HOST_URL": "https://localhost:1", "HOSTNAME": "machine", "TLS_CERT": "c.pem"}
    config = PluginConfig.from_environment(1, environment)
    assert (config.bind, config.hostname) == (["[::]:1"], "machine")


def test_a_declaration_is_checked_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="self_id"):
        Plugin("my plugin", version="1.0.0")
    with pytest.raises(ValueError, match="semantic version"):
        Plugin("p", version="1")
    plugin = echo_plugin()
    with pytest.raises(ValueError, match="provided already"):
        plugin.provide("echo", Echo())
    with pytest.raises(ValueError, match="service type"):
        plugin.provide("a/b", Echo())
    plugin.require("t")
    with pytest.raises(ValueError, match="required already"):
        plugin.require("t")
    with pytest.raises(ValueError, match="semantic version"):
        plugin.require("u", min_version="latest")
