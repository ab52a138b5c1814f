"""What comes with a call goes on with the calls that a plugin makes: through the host, directly, to it."""

from __future__ import annotations

import pytest
import trio

from cpg_trio.call_record import Call
from cpg_trio.host import Capability, HostConfig
from cpg_trio.http import Pool
from cpg_trio.plugin import Plugin
from cpg_trio.rpc import ConnectError, ResponseMetadata
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import eventually, goes_directly, hosting, plugged
from tests.rpc.echo import Echo
from tests.rpc.test_call_context import FIELDS, Passing, context_of


@pytest.mark.parametrize("direct", [False, True])
async def test_a_context_goes_on_from_plugin_to_plugin(direct: bool) -> None:  # noqa: FBT001
    echo, provider, caller = Echo(), Plugin("echo-plugin", version="1.0.0"), Plugin("front", version="1.0.0")
    provider.provide("echo", echo)
    dependency = caller.require("echo")
    caller.provide("front", Passing(dependency.client(EchoServiceClient)), public=True)
    calls, metadata = list[Call](), ResponseMetadata()
    async with (
        hosting() as (host, url),
        plugged(provider, url),
        plugged(caller, url, direct_calls=direct) as front,
        Pool() as pool,
    ):
        host.calls.ended.add(calls.append)
        with trio.fail_after(10):
            await dependency.wait_available()
        if direct:
            await goes_directly(dependency)
            dependency._service.direct.calls.ended.add(calls.append)
        client = EchoServiceClient(front, pool)
        await client.echo(pb.EchoRequest(text="x"), headers=FIELDS, metadata=metadata)
        async with client.count(pb.CountRequest(to=1), headers=FIELDS) as stream:
            assert [message.number async for message in stream] == [0]
        await eventually(lambda: len(calls) == 2)
    assert [context_of(ctx) for ctx in echo.contexts] == [FIELDS] * 2
    assert [call.request_id for call in calls] == ["r-1"] * 2
    assert metadata.headers["x-request-id"] == "r-1"


async def test_a_context_goes_on_to_a_capability_of_the_host() -> None:
    echo, caller, calls = Echo(), Plugin("front", version="1.0.0"), list[Call]()
    capability = caller.capability("echo").client(EchoServiceClient)
    caller.provide("front", Passing(capability), public=True)
    config = HostConfig(capabilities=[Capability.of("echo", "1.0.0", echo)])
    async with hosting(config) as (host, url), plugged(caller, url) as front, Pool() as pool:
        host.calls.ended.add(calls.append)
        client = EchoServiceClient(front, pool)
        with trio.fail_after(10):
            while True:
                try:
                    await client.echo(pb.EchoRequest(text="x"), headers=FIELDS)
                except ConnectError:  # it has not registered yet
                    await trio.sleep(0.01)
                else:
                    break
    assert context_of(echo.contexts[0]) == FIELDS
    assert [call.request_id for call in calls] == ["r-1"]
