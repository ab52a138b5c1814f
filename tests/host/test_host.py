"""The host as a whole: what it is not, and where plugins may send it."""

from __future__ import annotations

import pytest

from cpg_trio.host import BaseUrls
from cpg_trio.host.egress import check_base_url
from cpg_trio.rpc import Code, ConnectError


@pytest.mark.parametrize("client", [None, "", "127.0.0.1:9", "::1:9", "::ffff:127.0.0.1:9"])
async def test_a_plugin_on_the_hosts_own_machine_may_name_any_url(client: str | None) -> None:
    await check_base_url("http://192.0.2.1:8081", client, BaseUrls.CALLER)


async def test_a_plugin_elsewhere_may_not() -> None:
    with pytest.raises(ConnectError) as caught:
        await check_base_url("http://192.0.2.1:8081", "2001:db8::5:9", BaseUrls.CALLER)
    assert caught.value.code == Code.PERMISSION_DENIED
    await check_base_url("http://192.0.2.1:8081", "2001:db8::5:9", BaseUrls.ANY)
    await check_base_url("http://[2001:db8::5]:8081", "2001:db8::5:9", BaseUrls.CALLER)
