"""What a host refuses for now is no reason to end, and what it refuses for good is."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from cpg_trio.asgi import Receive, Scope, Send
from cpg_trio.host.directory import endpoint_validation, unix_sockets
from cpg_trio.plugin import PluginConfig, RefusedError
from cpg_trio.plugin._handshake import REGISTER_TIMEOUT_S
from tests.host.calls import REGISTER
from tests.names import Names
from tests.plugin.running import echo_plugin, eventually, hosting, is_healthy, meddled, plugged, until

ELSEWHERE = "192.0.2.9"


async def test_a_plugin_whose_name_leads_elsewhere_registers_as_soon_as_it_leads_to_it(
    caplog: pytest.LogCaptureFixture, names: Names
) -> None:
    names.known["moved.test"] = [ELSEWHERE]
    async with hosting() as (host, url), plugged(echo_plugin(), url, hostname="moved.test"):
        await eventually(lambda: len(names.asked) >= 3)
        names.known["moved.test"] = ["127.0.0.1"]
        await until(host, lambda: is_healthy(host, "echo"))
    told = [line for line in caplog.messages if "cannot register echo yet, and tries on: base_url" in line]
    assert len(told) == 1


async def test_a_plugin_whose_service_another_provides_registers_when_that_has_gone() -> None:
    async with hosting() as (host, url), trio.open_nursery() as nursery:
        stop = trio.Event()
        async with plugged(echo_plugin("old"), url):
            await until(host, lambda: is_healthy(host, "echo"))
            config = PluginConfig(host_url=url, hostname="127.0.0.1")
            await nursery.start(partial(echo_plugin("new").serve, stop, config=config))
            await eventually(lambda: len(host.identities) == 2)
        await until(
            host, lambda: [p.runtime_id.startswith("new-") for p in host.registry.providers("echo")] == [True]
        )
        stop.set()


async def test_an_address_that_is_not_the_plugins_own_ends_it_with_the_reason() -> None:
    async with hosting() as (_, url):
        with pytest.raises(RefusedError, match=f"base_url http://{ELSEWHERE}"):
            await echo_plugin().serve(config=PluginConfig(host_url=url, hostname=ELSEWHERE))


async def test_a_registration_may_take_as_long_as_its_host_needs() -> None:
    assert REGISTER_TIMEOUT_S > 2 * endpoint_validation._RESOLVE_S + unix_sockets._ASK_S
    asked: list[str] = []

    async def slow(scope: Scope, _receive: Receive, _send: Send) -> bool:
        if scope["path"] == REGISTER:
            asked.append(scope["path"])
            await trio.sleep(2.2)
        return False

    async with meddled(slow) as (host, url), plugged(echo_plugin(), url):
        await until(host, lambda: is_healthy(host, "echo"))
    assert len(asked) == 1


async def test_a_stop_during_a_registration_that_hangs_is_prompt() -> None:
    stop, hangs = trio.Event(), trio.Event()

    async def hang(scope: Scope, receive: Receive, _send: Send) -> bool:
        if scope["path"] != REGISTER:
            return False
        hangs.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        return True

    with trio.fail_after(REGISTER_TIMEOUT_S - 2):
        async with meddled(hang) as (_, url), plugged(echo_plugin(), url, stop=stop):
            await hangs.wait()
            stop.set()
