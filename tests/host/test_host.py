"""Where plugins may send the host."""

from __future__ import annotations

import pytest

from cpg_trio.host import BaseUrls
from cpg_trio.host.access.identity import Identity
from cpg_trio.host.directory.endpoint_validation import EndpointValidator
from cpg_trio.rpc import Code, ConnectError

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
