"""What a plugin serves, where, and on which port."""

from __future__ import annotations

import socket
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from cpg_trio.host import Host, HostConfig, LeaseConfig
from cpg_trio.http import BindError, Pool
from cpg_trio.plugin import Plugin, PluginConfig
from cpg_trio.rpc import ConnectError, Context
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.calls import DISCOVER, REGISTER, running
from tests.plugin.controlling import GET_HEALTH, INFO, SET_IDENTITY, SHUTDOWN
from tests.plugin.running import (
    echo_plugin,
    hosting,
    is_healthy,
    plugged,
    until,
)
from tests.plugin.signing import ECHO, digest_of, from_caller, from_host
from tests.rpc.echo import Echo

LOOPBACK = "127.0.0.1:0"


async def test_a_port_that_is_taken_ends_it_with_the_reason() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BindError, match="in use"):
            await echo_plugin().serve(config=PluginConfig(bind=f"127.0.0.1:{taken.getsockname()[1]}"))


async def test_what_it_does_not_serve_is_404() -> None:
    async with plugged(echo_plugin(), None) as url, httpx.AsyncClient(base_url=url) as http:
        response = await http.post("/nope.v1.Nope/Nope", json={})
    assert (response.status_code, response.text) == (404, "404 page not found\n")


def registered(host: Host) -> tuple[str, str]:
    """Return the runtime id of the one provider, and its control URL."""
    (registration,) = host.registry.providers("echo")
    return registration.runtime_id, registration.control_url


async def test_control_services_are_served_there_alone_and_nothing_else_is() -> None:
    async with (
        hosting() as (host, host_url),
        plugged(echo_plugin(), host_url, control_bind=LOOPBACK) as url,
        httpx.AsyncClient() as http,
    ):
        await until(host, lambda: is_healthy(host, "echo"))
        me, control_url = registered(host)
        assert control_url.startswith("http://127.0.0.1:")
        assert control_url != url
        for path in (GET_HEALTH, INFO, SET_IDENTITY, SHUTDOWN):
            proof = from_host(host, me, path)
            for headers in ({}, proof):
                assert (await http.post(url + path, json={}, headers=headers)).status_code == 404
            assert (await http.post(control_url + path, json={})).status_code == 401
        for path in (GET_HEALTH, INFO):
            answer = await http.post(control_url + path, json={}, headers=from_host(host, me, path))
            assert answer.status_code == 200
        statement = from_caller(digest_of(host, me), me)
        assert (await http.post(url + ECHO, json={}, headers=statement)).status_code == 200
        assert (await http.post(control_url + ECHO, json={}, headers=statement)).status_code == 404
        for each in (url, control_url):
            assert (await http.get(f"{each}/readyz")).status_code == 200


async def test_the_host_probes_and_stops_the_plugin_there() -> None:
    leases = LeaseConfig(lease_s=30.0, heartbeat_s=0.02)
    async with (
        hosting(HostConfig(leases=leases)) as (host, url),
        plugged(echo_plugin(), url, control_bind=LOOPBACK, heartbeat_s=60.0),
    ):
        await until(host, lambda: is_healthy(host, "echo"))
        me, _ = registered(host)
        assert await host._prober.probe(me)
        await host.shut_down_plugin(me, grace_s=1)
        await until(host, lambda: not host.registry.available("echo"))


async def test_at_a_socket_that_both_share_the_host_finds_out_who_answers(
    short_path: Path,
) -> None:
    config = HostConfig(socket_dir=short_path)
    async with (
        hosting(config) as (host, url),
        plugged(echo_plugin(), url, control_bind=LOOPBACK, socket_dir=short_path),
    ):
        await until(host, lambda: is_healthy(host, "echo"))
        me, _ = registered(host)
        (registration,) = host.registry.registrations(me)
        assert registration.addresses[0].startswith("unix:")
        await host.shut_down_plugin(me, grace_s=1)


async def test_where_it_is_is_the_hosts_to_know_and_nobody_elses() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url, control_bind=LOOPBACK):
        await until(host, lambda: is_healthy(host, "echo"))
        caller, token = host.identities.issue("caller")
        async with httpx.AsyncClient(base_url=url) as http:
            headers = {"X-Plugin-Runtime-ID": caller.runtime_id, "Authorization": f"Bearer {token}"}
            found = (await http.post(DISCOVER, json={"serviceType": "echo"}, headers=headers)).json()
    assert "control_url" not in found["endpoint"].get("metadata", {})


@pytest.mark.parametrize(
    ("control_url", "code"),
    [
        ("http://192.0.2.1:9090", "permission_denied"),
        ("http://169.254.169.254", "permission_denied"),
        ("http://127.1:9090", "invalid_argument"),  # a name that is not the one that was checked
        ("file:///etc/passwd", "invalid_argument"),
    ],
)
async def test_a_plugin_aims_its_host_at_nothing_but_itself(control_url: str, code: str) -> None:
    async with running() as call:
        me = await call.plugin("p")
        metadata = {"base_url": "http://127.0.0.1:8081", "control_url": control_url}
        body = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/t/", "metadata": metadata}
        _, answer = await call.post(REGISTER, body, me)
        assert answer["code"] == code
        assert not call.host.registry.service_types()


async def test_on_all_addresses_it_is_at_the_name_of_the_plugin() -> None:
    async with (
        hosting() as (host, url),
        plugged(Plugin("p", version="1.0.0"), url),
        plugged(echo_plugin(), url, control_bind="0.0.0.0:0", hostname="localhost"),
    ):
        await until(host, lambda: is_healthy(host, "echo"))
        assert registered(host)[1].startswith("http://localhost:")
        with trio.fail_after(5):
            await host.shut_down_plugin(registered(host)[0], grace_s=1)


class Quick(Echo):
    """Says whether it runs in a task; waits, fails or refuses as the text of the request says."""

    async def echo(self, request: pb.EchoRequest, ctx: Context, /) -> pb.EchoResponse:
        if request.text == "wait":
            await _yielding()
        if request.text == "sleep":
            await trio.sleep(0.01)
        if request.text != "where":
            return await super().echo(request, ctx)
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            return pb.EchoResponse(text="in no task")
        return pb.EchoResponse(text="in a task")


@types.coroutine
def _yielding() -> Iterator[None]:
    yield


@asynccontextmanager
async def quick(at_once: Sequence[str] = ("Echo",)) -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """Run the service; yield what calls it, on one connection, and returns the text or the error's code."""
    plugin = Plugin("quick-plugin", version="1.0.0")
    plugin.provide("echo", Quick(), public=True, at_once=at_once)
    async with plugged(plugin, None) as url, Pool() as pool:
        client = EchoServiceClient(url, pool)

        async def call(text: str, timeout_s: float | None = None) -> str:
            try:
                return (await client.echo(pb.EchoRequest(text=text), timeout_s=timeout_s)).text
            except ConnectError as error:
                return error.code.value

        yield call
        assert pool.statistics().opened == 1


async def test_a_method_that_never_waits_is_answered_without_a_task_if_the_plugin_says_so() -> None:
    async with quick() as call:
        assert await call("where") == "in no task"
        assert await call("where", timeout_s=5) == "in no task"
    async with quick(at_once=()) as call:
        assert await call("where") == "in a task"


@pytest.mark.parametrize("text", ["wait", "sleep", "explode"])
async def test_one_that_waits_all_the_same_fails_alone_and_the_log_names_it(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with quick() as call:
        assert await call("a") == "a"
        assert await call(text) == "internal"
        assert await call("b") == "b"
    assert "echo.v1.EchoService/Echo" in caplog.text


async def test_its_own_errors_are_its_caller_s() -> None:
    async with quick() as call:
        assert await call("fail") == "already_exists"


@pytest.mark.parametrize("name", ["echo", "Nothing", "Count", "Sum"])
def test_only_unary_methods_can_be_answered_at_once(name: str) -> None:
    plugin = Plugin("quick-plugin", version="1.0.0")
    with pytest.raises(ValueError, match=f"at_once: '{name}' is no unary method; those of .* are Echo"):
        plugin.provide("echo", Quick(), at_once=[name])
    assert plugin.provides == ()
