"""A plugin that knows nothing but the wire protocol: plain httpx, no heartbeats, no SDK on its side.

What a plugin in another language does, it does: shake hands, register, watch, call through the router, answer
`GetHealth`. It never reports its health by itself, and never registers again.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import trio
from google.protobuf.message import Message
from trio.testing import MockClock

from cpg_trio._cell import Cell
from cpg_trio.asgi import Receive, Scope, Send, send_response
from cpg_trio.host import Host, HostConfig, LeaseConfig
from cpg_trio.plugin import Plugin
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from tests._gen.echo.v1.echo_pb2 import EchoRequest, EchoResponse
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.host.calls import COOKIE, DISCOVER, HANDSHAKE, REGISTER, VERSIONS, WATCH
from tests.http.apps import served
from tests.plugin.running import echo_plugin, eventually, hosting, is_healthy, plugged, until

LEASE_S = 1.5


@attrs.define
class WirePlugin:
    """It provides `echo`, and says so with the same words to everyone."""

    host_url: str
    http: httpx.AsyncClient
    headers: dict[str, str] = attrs.field(factory=dict)
    state: pb.HealthState = pb.HEALTH_STATE_HEALTHY
    asked: Counter[str] = attrs.field(factory=Counter)
    held_back: trio.Event | None = None
    """Until it is set, the plugin does not answer how it is."""

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = await self.http.post(f"{self.host_url}{path}", json=body, headers=self.headers)
        return answer.json()

    async def register(self, base_url: str) -> None:
        answer = await self.post(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": "wire-plugin"})
        self.headers = {
            "X-Plugin-Runtime-ID": answer["runtimeId"],
            "Authorization": f"Bearer {answer['runtimeToken']}",
        }
        registration = {"serviceType": "echo", "version": "1.0.0", "endpointPath": "/echo.v1.EchoService/"}
        answer = await self.post(REGISTER, {**registration, "metadata": {"base_url": base_url}})
        assert answer["registrationId"]

    async def serve(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer the host's questions and other plugins' calls. An ASGI application."""
        method = scope["path"].rpartition("/")[2]
        self.asked[method] += 1
        said: Message = EchoResponse(text="from the wire")
        if method == "GetHealth":
            if self.held_back is not None:
                await self.held_back.wait()
            said = pb.GetHealthResponse(state=self.state)
        elif method == "GetPluginInfo":
            said = pb.GetPluginInfoResponse(self_id="wire-plugin")
        await send_response(send, 200, said.SerializeToString(), [(b"content-type", b"application/proto")])

    async def watch(self, service_type: str) -> AsyncIterator[str]:
        """Yield the states of a service type, from the stream that the protocol has for it."""
        request = json.dumps({"serviceType": service_type}).encode()
        async with self.http.stream(
            "POST",
            f"{self.host_url}{WATCH}",
            content=struct.pack(">BI", 0, len(request)) + request,
            headers={**self.headers, "content-type": "application/connect+json"},
            timeout=None,
        ) as response:
            buffer = b""
            async for data in response.aiter_raw():
                buffer += data
                while len(buffer) >= 5 and len(buffer) >= (end := 5 + int.from_bytes(buffer[1:5])):
                    event, buffer = json.loads(buffer[5:end]), buffer[end:]
                    yield event["state"].removeprefix("SERVICE_STATE_")


@asynccontextmanager
async def wired(host_url: str) -> AsyncIterator[WirePlugin]:
    async with httpx.AsyncClient() as http:
        plugin = WirePlugin(host_url, http)
        async with served(plugin.serve) as base_url:
            await plugin.register(base_url)
            yield plugin


@asynccontextmanager
async def a_host_with_short_leases() -> AsyncIterator[tuple[Host, str]]:
    with trio.fail_after(60):
        async with hosting(HostConfig(leases=LeaseConfig(lease_s=LEASE_S))) as (host, url):
            yield host, url


async def test_it_lives_for_as_long_as_it_answers_and_is_gone_soon_after(virtual_time: MockClock) -> None:
    async with a_host_with_short_leases() as (host, url):
        async with wired(url) as plugin:
            await eventually(lambda: plugin.asked["GetHealth"] >= 5)  # well beyond a lease
            assert host.registry.available("echo")
        await until(host, lambda: not host.registry.available("echo"))
        await until(host, lambda: not host.registry.service_types())
        assert not len(host.identities)


async def test_what_it_answers_is_how_it_is(virtual_time: MockClock) -> None:
    async with a_host_with_short_leases() as (host, url), wired(url) as plugin:
        plugin.state = pb.HEALTH_STATE_UNHEALTHY
        await until(host, lambda: not host.registry.available("echo"))
        plugin.state = pb.HEALTH_STATE_HEALTHY
        await until(host, lambda: host.registry.available("echo"))


async def test_it_and_a_plugin_on_the_sdk_find_and_call_each_other(virtual_time: MockClock) -> None:
    caller = Plugin("caller", version="1.0.0")
    echo = caller.require("echo")
    async with (
        a_host_with_short_leases() as (host, url),
        wired(url) as plugin,
        plugged(caller, url),
        plugged(echo_plugin("sdk", "other"), url),
    ):
        await echo.wait_available()
        answer = await echo.client(EchoServiceClient).echo(EchoRequest(text="x"))
        assert answer.text == "from the wire"
        await until(host, lambda: is_healthy(host, "other"))
        found = (await plugin.post(DISCOVER, {"serviceType": "other"}))["endpoint"]
        routed = await plugin.post(f"{found['endpointUrl']}/Echo", {"text": "to the SDK"})
        assert routed["text"] == "to the SDK"


async def test_its_watch_tells_it_of_lapses_and_removals(virtual_time: MockClock) -> None:
    async with a_host_with_short_leases() as (_, url), wired(url) as plugin, trio.open_nursery() as nursery:
        states = Cell[tuple[str, ...]](())

        async def follow() -> None:
            async for state in plugin.watch("other"):
                states.set((*states.value, state))

        async def told(*expected: str) -> None:
            async for seen in states.reader():
                if seen == expected:
                    return

        nursery.start_soon(follow)
        await told("UNAVAILABLE")
        async with trio.open_nursery() as dying:
            dying.start_soon(_provide_until_killed, url)
            await told("UNAVAILABLE", "AVAILABLE")
            dying.cancel_scope.cancel()
        await told("UNAVAILABLE", "AVAILABLE", "UNAVAILABLE")
        nursery.cancel_scope.cancel()


async def _provide_until_killed(url: str) -> None:
    async with plugged(echo_plugin("dying", "other"), url):
        await trio.sleep_forever()


async def test_each_time_that_it_restarts_at_its_port_it_takes_the_place_of_who_it_was(
    virtual_time: MockClock,
) -> None:
    def providers() -> list[str]:
        return [provider.runtime_id for provider in host.registry.providers("echo")]

    async with a_host_with_short_leases() as (host, url), httpx.AsyncClient() as http:
        plugin = WirePlugin(url, http)
        async with served(plugin.serve) as base_url:
            for _ in range(7):
                plugin.headers = {}  # a restart
                await plugin.register(base_url)
                found = (await plugin.post(DISCOVER, {"serviceType": "echo"}))["endpoint"]
                assert found["providerId"] == plugin.headers["X-Plugin-Runtime-ID"]
            await until(host, lambda: len(providers()) == 1)
            assert providers() == [plugin.headers["X-Plugin-Runtime-ID"]]
            await eventually(lambda: len(host.identities) == 1)


async def test_an_answer_that_comes_after_its_successor_has_registered_is_no_sign_of_life_of_its_own(
    virtual_time: MockClock,
) -> None:
    async with a_host_with_short_leases() as (host, url), httpx.AsyncClient() as http:
        plugin = WirePlugin(url, http)
        async with served(plugin.serve) as base_url:
            await plugin.register(base_url)
            (before,) = host.registry.providers("echo")
            plugin.held_back = trio.Event()
            await eventually(lambda: plugin.asked["GetHealth"])
            plugin.headers = {}
            await plugin.register(base_url)
            assert not host.registry.health(before.runtime_id).callable
            was_offered: list[bool] = []
            host.registry.changes.add(
                lambda _: was_offered.append(host.registry.health(before.runtime_id).callable)
            )
            held_back, plugin.held_back = plugin.held_back, None
            held_back.set()
            await until(host, lambda: before not in host.registry.providers("echo"))
            assert not any(was_offered[:-1])  # the last time it was not there any more
