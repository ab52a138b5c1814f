"""No client can take the host, or a provider, from the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from cpg_trio.host import HostConfig, LeaseConfig, _config
from cpg_trio.http import ServeConfig
from tests._wire import dial, request
from tests.host.routed import Recorder, Setting, routing, text
from tests.http.peers import OK, Peer

MOST = 6
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


@pytest.fixture(autouse=True)
def _few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_config, "_MAX_PER_PROVIDER", MOST)


async def provider(peer: Peer) -> None:
    """Answer each call but those of `Hang`; what the host itself asks is unknown here."""
    while head := await peer.receive_head():
        if b"/Hang " in head:
            await trio.sleep_forever()
        await peer.send(NOT_FOUND if b"connectplugin.v1" in head else OK)


@asynccontextmanager
async def held(setting: Setting, calls: int) -> AsyncIterator[None]:
    """Have so many calls of the caller open, none of which the provider answers."""
    async with AsyncExitStack() as stack:
        for _ in range(calls):
            wire = await stack.enter_async_context(dial(setting.url))
            await wire.send(setting.head("POST", setting.path("Hang"), "content-length: 0"))
        await in_use(setting, min(calls, MOST // 2))
        yield


async def in_use(setting: Setting, connections: int) -> None:
    """Wait until so many connections of the router are in use."""
    while setting.host.statistics().connections.active < connections:  # noqa: ASYNC110 - there is no event
        await trio.sleep(0.01)


def another(setting: Setting) -> bytes:
    identity, token = setting.host.identities.issue("another")
    lines = [
        f"POST {setting.path()} HTTP/1.1",
        "host: localhost",
        f"X-Plugin-Runtime-ID: {identity.runtime_id}",
        f"Authorization: Bearer {token}",
        "content-length: 0",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_the_open_calls_of_one_caller_take_no_provider_from_the_others() -> None:
    async with routing(provider) as setting, held(setting, 2 * MOST):
        for _ in range(3):
            response = await setting.call(another(setting))
            assert (response.status, response.body) == (200, b"ok")


async def test_the_calls_of_one_caller_that_wait_do_not_keep_others_waiting() -> None:
    async with routing(provider) as setting:
        setting.host._pool._connect_timeout_s = 60
        async with held(setting, 2 * MOST), dial(setting.url) as wire:
            with trio.fail_after(20):  # less than those wait
                await wire.send(another(setting))
                assert (await wire.response()).status == 200


async def test_a_caller_that_has_its_share_is_told_so_and_may_try_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with routing(provider) as setting, held(setting, MOST // 2):
        monkeypatch.setattr(setting.host._pool, "_connect_timeout_s", 0.1)
        response = await setting.call(setting.head("POST", setting.path(), "content-length: 0"))
        assert text(response) == (429, "too many calls in flight to this provider\n")
        assert response.header(b"x-plugin-undelivered") == b"true"
        assert response.header(b"retry-after") == b"1"
        assert setting.host.registry.health(setting.provider).callable


async def test_a_provider_that_the_host_has_to_ask_lives_on_when_its_connections_are_used_up(
    virtual_time: object,
) -> None:
    config = HostConfig(leases=LeaseConfig(lease_s=0.6))
    async with routing(provider, config=config) as setting, AsyncExitStack() as stack:
        await stack.enter_async_context(held(setting, MOST // 2))
        for _ in range(MOST):  # callers, each with less than is left
            wire = await stack.enter_async_context(dial(setting.url))
            await wire.send(another(setting).replace(b"/M ", b"/Hang "))
        await in_use(setting, MOST)
        await trio.sleep(3 * 0.6)
        assert setting.provider in setting.host.registry.plugins()
        assert setting.host.registry.health(setting.provider).callable


# Bodies that do not come

SILENCE_S = 0.2
SILENT = HostConfig(serve=ServeConfig(body_timeout_s=SILENCE_S))


async def test_a_host_waits_for_nobodys_message_for_ever(virtual_time: object) -> None:
    chunked = {"content-type": "application/proto", "transfer-encoding": "chunked"}
    async with routing(provider, config=SILENT) as setting, dial(setting.url) as wire:
        await wire.send(request("POST", "/connectplugin.v1.HandshakeService/Handshake", chunked))
        with trio.fail_after(5):
            assert (await wire.rest()).removesuffix(b"<reset>") == b""


async def test_a_routed_stream_may_be_silent(virtual_time: object) -> None:
    async with routing(Recorder(body_end=b"0\r\n\r\n"), config=SILENT) as setting, dial(setting.url) as wire:
        await wire.send(setting.head("POST", setting.path(), "transfer-encoding: chunked") + b"1\r\nx\r\n")
        await trio.sleep(3 * SILENCE_S)
        await wire.send(b"0\r\n\r\n")
        assert (await wire.response()).status == 200


async def test_a_routed_message_has_its_time(virtual_time: object) -> None:
    async with routing(provider, config=SILENT) as setting, dial(setting.url) as wire:
        await wire.send(setting.head("POST", setting.path("Hang"), "content-length: 100") + b"half")
        with trio.fail_after(5):
            assert (await wire.rest()).removesuffix(b"<reset>") == b""
