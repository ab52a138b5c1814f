"""A client that provides nothing: it finds and calls services, and leaves nothing behind."""

from __future__ import annotations

import pytest

from cpg_trio.plugin import client_session
from cpg_trio.rpc import ClientConfig, Code, ConnectError
from cpg_trio.rpc.reflection_client import descriptors_of
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import echo_plugin, hosting, is_healthy, plugged, until


async def test_it_calls_a_service_and_its_identity_ends_with_the_block() -> None:
    async with hosting() as (host, url), plugged(echo_plugin(), url, reflection=True):
        await until(host, lambda: is_healthy(host, "echo"))
        async with client_session(url, "visitor", ["echo"]) as session:
            assert host.identities.entry(session.runtime_id) is not None
            provider = await session.discover("echo")
            config = ClientConfig(headers=provider.session.headers)
            client = EchoServiceClient(provider.base_url, provider.session.calls, config)
            assert (await client.echo(pb.EchoRequest(text="a"))).text == "a"
            files = await descriptors_of(provider.base_url, provider.session.calls, config)
            assert [file.name for file in files] == ["echo/v1/echo.proto"]
            assert (await session.discover("echo", "~=1.0")).version == "1.0.0"
            with pytest.raises(ConnectError, match=r"1\.0\.0 is there and >=3 is required"):
                await session.discover("echo", ">=3")
            with pytest.raises(ConnectError) as caught:
                await session.discover("other")
            assert caught.value.code in {Code.NOT_FOUND, Code.PERMISSION_DENIED}
        assert host.identities.entry(session.runtime_id) is None
        total = host.call_table.window().total
        assert (total.calls, total.failed) == (2, 0)


async def test_without_a_host_there_is_no_session() -> None:
    with pytest.raises(ConnectError) as caught:
        async with client_session("http://127.0.0.1:1", "visitor", []):
            raise AssertionError
    assert caught.value.code is Code.UNAVAILABLE
