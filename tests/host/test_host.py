"""Where plugins may send the host."""

from __future__ import annotations

from functools import partial

import httpx
import pytest
import trio
import trio.testing

from cpg_trio.host import BaseUrls, Host, HostConfig
from cpg_trio.host.access.identity import Identity
from cpg_trio.host.directory.endpoint_validation import EndpointValidator
from cpg_trio.http import ServeConfig
from cpg_trio.protos.connectplugin.v1 import connectplugin_pb2 as pb
from cpg_trio.protos.connectplugin.v1.connectplugin_trio import ServiceRegistryClient
from cpg_trio.rpc import ClientConfig, Code, ConnectError
from tests._wire import dial, trusted
from tests.host.routed import USUAL, Setting, hosting
from tests.http.peers import OK, Peer, serving, url_of

CALLER = BaseUrls.CALLER


async def check_base_url(url: str, handshake: str, policy: BaseUrls) -> str:
    return await EndpointValidator(policy).check_base_url(url, Identity("p-1", "p", address=handshake))


@pytest.mark.parametrize("handshake", ["", "127.0.0.1", "::1"])
@pytest.mark.parametrize("url", ["http://127.0.0.1:8081", "http://localhost:8081", "http://[::1]:8081"])
async def test_a_plugin_on_the_hosts_own_machine_may_name_any_address_of_it(handshake: str, url: str) -> None:
    await check_base_url(url, handshake, CALLER)


@pytest.mark.parametrize("handshake", ["", "127.0.0.1", "::1", "192.0.2.7", "unknown"])
@pytest.mark.parametrize(
    "url",
    ["http://192.0.2.1:8081", "http://169.254.169.254/latest", "http://0.0.0.0:1", "http://224.0.0.1:1"],
)
async def test_nobody_makes_the_host_a_proxy_to_somewhere_else(handshake: str, url: str) -> None:
    with pytest.raises(ConnectError) as caught:
        await check_base_url(url, handshake, CALLER)
    assert caught.value.code == Code.PERMISSION_DENIED
    await check_base_url(url, handshake, BaseUrls.ANY)


async def test_a_plugin_elsewhere_may_name_its_own_address_only() -> None:
    with pytest.raises(ConnectError):
        await check_base_url("http://127.0.0.1:8081", "2001:db8::5", CALLER)
    await check_base_url("http://[2001:db8::5]:8081", "2001:db8::5", CALLER)


async def test_what_a_name_led_to_when_it_was_checked_is_where_the_host_goes() -> None:
    assert await check_base_url("http://127.1:8081", "127.0.0.1", CALLER) == "127.0.0.1"
    assert await check_base_url("http://127.0.0.1:8081", "127.0.0.1", CALLER) == ""


async def watch(url: str, credentials: dict[str, str], ended: trio.Event) -> None:
    """Watch a service type until the host ends the watch, which it does in good order."""
    async with httpx.AsyncClient(verify=trusted()) as http:
        registry = ServiceRegistryClient(url, http, ClientConfig(headers=credentials))
        async with registry.watch_service(pb.WatchServiceRequest(service_type="echo")) as events:
            async for _ in events:
                pass
    ended.set()


async def test_a_watch_ends_with_its_connection_and_not_with_the_next_event() -> None:
    async with hosting() as (host, url):
        caller, token = host.identities.issue("caller")
        proof = {"X-Plugin-Runtime-ID": caller.runtime_id, "Authorization": f"Bearer {token}"}
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, url, proof, trio.Event())
                while not host.watches.watchers("echo"):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
        while host.watches.watchers("echo"):
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_host_that_stops_ends_its_watches_and_finishes_its_calls() -> None:
    release, ended = trio.Event(), trio.Event()

    async def slow(peer: Peer) -> None:
        await peer.receive_head()
        await release.wait()
        await peer.send(OK)

    with trio.fail_after(20):
        async with serving(slow) as origin, trio.open_nursery() as nursery:
            host, stop = Host(HostConfig(serve=ServeConfig(**USUAL))), trio.Event()
            (url,) = await nursery.start(partial(host.serve, stop, bind="127.0.0.1:0"))
            caller, token = host.identities.issue("caller")
            host.registry.register("p-1", "echo", "1.0.0", "/", {"base_url": url_of(origin)})
            async with dial(url) as wire:
                s = Setting(host, url, caller.runtime_id, token, "p-1")
                nursery.start_soon(watch, url, s.credentials, ended)
                await wire.send(s.head())
                while not host.registry.calls.count("p-1"):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                while not host.watches.watchers("echo"):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                stop.set()
                await ended.wait()
                release.set()
                assert (await wire.response()).body == b"ok"
