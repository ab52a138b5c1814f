"""Names of plugins: looked up once, at their registration, and at nobody else's expense."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from cpg_trio.asgi import App
from cpg_trio.host import BaseUrls, Host, HostConfig, RateLimits
from tests.host.calls import REGISTER, Caller, WireCaller, calling, running
from tests.host.routed import routing
from tests.names import Names
from tests.plugin.running import eventually

STRANGERS = 45


def registering(service_type: str, url: str) -> dict[str, Any]:
    metadata = {"base_url": url}
    return {"serviceType": service_type, "version": "1.0.0", "endpointPath": "/", "metadata": metadata}


async def address_of(host: Caller, url: str, service_type: str = "t") -> str:
    status, answer = await host.post(REGISTER, registering(service_type, url), await host.plugin("p"))
    assert status == 200, answer
    return host.host.registry.discover(service_type)[0].address


async def test_names_that_are_slow_to_look_up_hold_up_no_call_to_another_provider(names: Names) -> None:
    async with routing() as s, httpx.AsyncClient(base_url=s.url) as http, trio.open_nursery() as nursery:
        strangers = WireCaller(http)
        registered = s.host.registry.provider("echo", s.provider)
        assert registered is not None
        here = {"base_url": registered.base_url.replace("127.0.0.1", "localhost")}
        s.host.registry.register(s.provider, "echo", "1.0.0", "/echo.v1.Echo/", here)
        stranger = await strangers.plugin("stranger")
        for number in range(STRANGERS):
            body = registering(f"s{number}", f"http://slow-{number}.test")
            nursery.start_soon(strangers.post, REGISTER, body, stranger)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert names.asked
        assert (await s.call(s.head("GET"))).status == 200
        nursery.cancel_scope.cancel()


async def test_the_names_of_one_plugin_hold_up_no_registration_of_another(names: Names) -> None:
    names.known["good.test"] = ["127.0.0.1"]
    async with running() as host, trio.open_nursery() as nursery:
        stranger = await host.plugin("stranger")
        for number in range(STRANGERS):
            body = registering(f"s{number}", f"http://slow-{number}.test")
            nursery.start_soon(host.post, REGISTER, body, stranger)
        await eventually(lambda: len(names.asked) >= 2)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(names.asked) == 2
        with trio.fail_after(2):
            assert await address_of(host, "http://good.test:1") == "127.0.0.1"
        nursery.cancel_scope.cancel()


async def stranger_at(host: Host, app: App, address: str, number: int) -> None:
    async with calling(host, app, (address, 1)) as stranger:
        body = registering(f"s{number}", f"http://slow-{number}.test")
        await stranger.post(REGISTER, body, await stranger.plugin(f"stranger-{number}"))


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::{number}"])
async def test_all_plugins_at_one_address_hold_up_no_registration_at_another(
    address: str, names: Names
) -> None:
    names.known["good.test"] = ["192.0.2.8"]
    host = Host(HostConfig(base_urls=BaseUrls.ANY, rates=RateLimits(handshake=None)))
    async with (
        host.application() as app,
        calling(host, app, ("192.0.2.8", 1)) as elsewhere,
        trio.open_nursery() as nursery,
    ):
        for number in range(STRANGERS):
            nursery.start_soon(stranger_at, host, app, address.format(number=number), number)
        await eventually(lambda: len(names.asked) >= 8)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(names.asked) == 8
        with trio.fail_after(2):
            assert await address_of(elsewhere, "http://good.test:1") == "192.0.2.8"
        nursery.cancel_scope.cancel()


async def test_what_a_name_led_to_at_the_registration_is_where_calls_go_whatever_is_permitted(
    names: Names,
) -> None:
    names.known["far.test"] = ["2001:db8::9", "192.0.2.9", "192.0.2.10"]
    names.known["both.test"] = ["192.0.2.9", "192.0.2.7"]
    async with running(HostConfig(base_urls=BaseUrls.ANY), ("192.0.2.7", 1)) as host:
        assert await address_of(host, "http://far.test:1") == "192.0.2.9"
        assert await address_of(host, "http://both.test:1", "both") == "192.0.2.7"
        assert await address_of(host, "http://192.0.2.9:1", "literal") == ""
        names.fails = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        unknown = registering("unknown", "http://unknown.test")
        status, answer = await host.post(REGISTER, unknown, await host.plugin("p"))
        assert (status, answer["code"]) == (503, "unavailable")
        assert not host.host.registry.available("unknown")
