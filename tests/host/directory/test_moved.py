"""A plugin whose machine has another address now is found there, as who it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from trio.testing import wait_all_tasks_blocked

from cpg_trio.host import BaseUrls, Host, HostConfig
from cpg_trio.rpc import AsgiTransport
from tests.host.calls import COOKIE, HANDSHAKE, REGISTER, REPORT, VERSIONS, Headers, WireCaller, runtime_id
from tests.names import names_of

OLD, NEW = "10.0.0.5", "10.0.0.6"
HEALTHY = {"state": "HEALTH_STATE_HEALTHY"}
NAMED = "http://plugin.test:8082"


@asynccontextmanager
async def host_seen_from(*addresses: str) -> AsyncIterator[tuple[Host, list[WireCaller]]]:
    host = Host()
    async with host.application() as app, AsyncExitStack() as stack:
        transports = [AsgiTransport(app, (address, 5)) for address in addresses]
        clients = [httpx.AsyncClient(transport=each, base_url="http://host") for each in transports]
        yield host, [WireCaller(await stack.enter_async_context(client)) for client in clients]


async def again(caller: WireCaller, me: Headers) -> Headers:
    """Shake hands as who one is; return what proves it from now on."""
    status, answer = await caller.post(HANDSHAKE, {**COOKIE, **VERSIONS, "selfId": "p"}, me)
    assert (status, answer["runtimeId"]) == (200, runtime_id(me))
    return {**me, "Authorization": f"Bearer {answer['runtimeToken']}"}


async def test_one_that_has_moved_and_cannot_be_reached_registers_at_its_new_address_as_who_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with names_of(monkeypatch) as names:
        async with host_seen_from(OLD, NEW) as (host, (before, now)):
            names.known = {"plugin.test": [OLD]}
            me = await before.plugin("p")
            await before.register(me, "t", NAMED)
            names.known = {"plugin.test": [NEW]}
            assert (await now.post(REPORT, HEALTHY, me))[0] == 200  # it can be reached, for all that is known
            host._liveness.lapse(runtime_id(me), "it could not be reached")
            await wait_all_tasks_blocked()
            assert not host.registry.available("t")
            status, answer = await now.post(REPORT, HEALTHY, me)
            assert (status, answer["code"]) == (401, "unauthenticated")
            assert f"does not answer at {OLD}" in answer["message"]
            me = await again(now, me)
            await now.register(me, "t", NAMED)
            assert (await now.post(REPORT, HEALTHY, me))[0] == 200
            await wait_all_tasks_blocked()
            assert host.registry.available("t")
            (provider,) = host.registry.providers("t")
            assert provider.address == NEW


async def test_a_handshake_from_elsewhere_lets_nobody_register_at_an_address_that_is_not_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with names_of(monkeypatch) as names:
        names.known = {"plugin.test": [OLD]}
        async with host_seen_from(OLD, NEW) as (_, (before, now)):
            me = await again(now, await before.plugin("p"))
            registration = {"serviceType": "t", "version": "1.0.0", "endpointPath": "/t/"}
            status, answer = await now.post(REGISTER, {**registration, "metadata": {"base_url": NAMED}}, me)
            assert (status, answer["code"]) == (403, "permission_denied")


async def test_one_that_has_lapsed_and_calls_from_where_it_was_is_back_with_its_next_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with names_of(monkeypatch) as names:
        names.known = {"plugin.test": [OLD]}
        async with host_seen_from(OLD) as (host, (caller,)):
            me = await caller.plugin("p")
            await caller.register(me, "t", NAMED)
            host._liveness.lapse(runtime_id(me), "it could not be reached")
            await wait_all_tasks_blocked()
            assert not host.registry.available("t")
            assert (await caller.post(REPORT, HEALTHY, me))[0] == 200
            await wait_all_tasks_blocked()
            assert host.registry.available("t")


async def test_one_that_comes_through_balancers_is_not_asked_to_shake_hands_for_coming_through_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with names_of(monkeypatch) as names:
        names.known = {"plugin.test": [OLD]}
        host = Host(HostConfig(base_urls=BaseUrls.ANY))
        async with host.application() as app, AsyncExitStack() as stack:
            transports = [AsgiTransport(app, (address, 5)) for address in ("192.0.2.1", "192.0.2.2")]
            clients = [httpx.AsyncClient(transport=each, base_url="http://host") for each in transports]
            one, other = [WireCaller(await stack.enter_async_context(client)) for client in clients]
            me = await one.plugin("p")
            await one.register(me, "t", NAMED)
            host._liveness.lapse(runtime_id(me), "it could not be reached")
            await wait_all_tasks_blocked()
            assert (await other.post(REPORT, HEALTHY, me))[0] == 200
            await wait_all_tasks_blocked()
            assert host.registry.available("t")
