"""A host that is short of descriptors takes no provider from its consumers, and is told apart from one."""

from __future__ import annotations

import math

import pytest
import trio

from cpg_trio.calls import BreakerState
from cpg_trio.plugin import Plugin
from cpg_trio.rpc import ClientConfig, Code, ConnectError, Fault, fault_of
from tests._gen.echo.v1.echo_pb2 import EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.descriptors import none_left
from tests.plugin.running import echo_plugin, hosting, plugged
from tests.rpc.echo import Echo


async def test_a_host_without_descriptors_is_at_fault_and_its_providers_stay_callable() -> None:
    caller, echo = Plugin("caller", version="1.0.0"), Echo()
    dependency = caller.require("echo")
    client = dependency.client(EchoServiceClient)
    async with hosting() as (host, url), plugged(echo_plugin(service=echo), url), plugged(caller, url):
        provider = await dependency._service.wait_available()
        await client.echo(EchoRequest(text="x"))  # the caller is connected to its host
        host._pool._close_idle(not_used_since=math.inf)  # the host is not connected to the provider
        session = provider.session
        bare = EchoServiceClient(provider.base_url, session.calls, ClientConfig(headers=session.headers))
        answered = trio.Event()

        async def call() -> None:
            assert (await client.echo(EchoRequest(text="later"))).text == "later"
            answered.set()

        async with trio.open_nursery() as nursery:
            with none_left():
                for _ in range(5):
                    with pytest.raises(ConnectError) as caught:
                        await bare.echo(EchoRequest(text="x"))
                    assert (caught.value.code, fault_of(caught.value)) == (Code.UNAVAILABLE, Fault.HOST)
                nursery.start_soon(call)
                await trio.sleep(0.1)
                assert host.registry.health(provider.runtime_id).callable
                assert dependency.available
                assert not answered.is_set()
                assert [each.breaker.state for each in dependency._service.group.members] == [
                    BreakerState.CLOSED
                ]
            with trio.fail_after(10):
                await answered.wait()
        assert dependency._service.provider is not None
        assert dependency._service.provider.runtime_id == provider.runtime_id
        assert len(echo.contexts) == 2


async def test_what_a_host_refuses_says_whose_failure_it_is() -> None:
    caller = Plugin("caller", version="1.0.0")
    dependency = caller.require("echo")
    async with hosting() as (host, url), plugged(echo_plugin(), url), plugged(caller, url):
        provider = await dependency._service.wait_available()
        session = provider.session

        async def fault(base_url: str, headers: dict[str, str]) -> Fault | None:
            bare = EchoServiceClient(base_url, session.calls, ClientConfig(headers=headers))
            with pytest.raises(ConnectError) as caught:
                await bare.echo(EchoRequest(text="fail"))
            return fault_of(caught.value)

        proof = dict(session.headers)
        assert await fault(provider.base_url, proof) is Fault.HANDLER
        assert await fault(provider.base_url, {**proof, "authorization": "Bearer x"}) is Fault.CALLER
        assert await fault(f"{url}/services/echo/echo-plugin-0", proof) is Fault.HOST
        host._liveness.suspect(provider.runtime_id)
        assert await fault(provider.base_url, proof) is Fault.PROVIDER
