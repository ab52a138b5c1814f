"""Interceptors that a plugin declares: those of its services, and those of its calls."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from cpg_trio.http import Pool
from cpg_trio.plugin import Plugin
from cpg_trio.rpc import ConnectError, HttpRequest, HttpResponse, PoolClient, WholeResponse
from tests._gen.echo.v1 import echo_pb2 as pb
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import echo_plugin, hosting, plugged
from tests.rpc.echo import Echo
from tests.rpc.intercepting import Noting


async def test_those_of_a_plugin_are_outside_of_those_of_a_service_and_see_who_calls() -> None:
    notes: list[str] = []
    of_plugin, of_service = Noting("plugin", notes), Noting("service", notes)
    provider = Plugin("provider", version="1.0.0", interceptors=[of_plugin])
    provider.provide("echo", Echo(), interceptors=[of_service])
    consumer = Plugin("consumer", version="1.0.0")
    dependency = consumer.require("echo")
    async with hosting() as (_, host_url), plugged(provider, host_url), plugged(consumer, host_url):
        await dependency.wait_available()
        await dependency.client(EchoServiceClient).echo(pb.EchoRequest(text="a"))
        with pytest.raises(ConnectError, match="there it is"):
            await dependency.client(EchoServiceClient).echo(pb.EchoRequest(text="fail"))
    once = ["plugin Echo", "service Echo", "service end", "plugin end"]
    failed = ["plugin Echo", "service Echo", "service already_exists", "plugin already_exists"]
    assert notes == [*once, *failed]
    assert {ctx.caller.name for ctx in of_plugin.contexts} == {"consumer"}


@pytest.mark.parametrize("wrong", [Noting, None, "audit"])
def test_what_is_no_interceptor_is_refused_when_it_is_declared(wrong: Any) -> None:
    with pytest.raises(TypeError, match="intercept"):
        Plugin("p", version="1.0.0", interceptors=[wrong])
    plugin = Plugin("p", version="1.0.0")
    with pytest.raises(TypeError, match="intercept"):
        plugin.provide("echo", Echo(), interceptors=[wrong])


@pytest.mark.parametrize("direct_calls", [False, True])
async def test_those_of_a_dependency_are_outside_of_those_of_its_client_and_see_one_call(
    direct_calls: bool,  # noqa: FBT001
) -> None:
    notes: list[str] = []
    consumer = Plugin("consumer", version="1.0.0")
    dependency = consumer.require("echo", interceptors=[Noting("dependency", notes)])
    client = dependency.client(EchoServiceClient, interceptors=[Noting("client", notes)])
    async with (
        hosting() as (_, host_url),
        plugged(echo_plugin(), host_url),
        plugged(consumer, host_url, direct_calls=direct_calls),
    ):
        with pytest.raises(ConnectError):
            await client.echo(pb.EchoRequest(text="a"))  # there is no provider yet
        assert notes.pop() == "dependency unavailable"
        notes.clear()
        await dependency.wait_available()
        await client.echo(pb.EchoRequest(text="a"))
        async with client.count(pb.CountRequest(to=1)) as counted:
            assert [message.number async for message in counted] == [0]
    once = ["dependency Echo", "client Echo", "client end", "dependency end"]
    assert notes[:4] == once
    assert notes[4:6] == ["dependency Count", "client Count"]


def test_what_is_no_interceptor_of_a_dependency_is_refused() -> None:
    wrong: Any = Noting
    with pytest.raises(TypeError, match="is a class"):
        Plugin("p", version="1.0.0").require("echo", interceptors=[wrong])


async def test_an_interceptor_sees_one_call_however_many_attempts_it_takes() -> None:
    notes: list[str] = []
    consumer = Plugin("consumer", version="1.0.0")
    dependency = consumer.require("echo", interceptors=[Noting("n", notes)])
    async with (
        hosting() as (_, host_url),
        plugged(echo_plugin(), host_url),
        plugged(consumer, host_url),
        Pool() as pool,
    ):
        http = Unlucky(PoolClient(pool))
        client = dependency.client(EchoServiceClient, http=http)
        await dependency.wait_available()
        assert (await client.echo(pb.EchoRequest(text="a"))).text == "a"
    assert http.attempts == 2
    assert notes == ["n Echo", "n end"]


class Unlucky:
    """Sends requests with another client, except the first one, which no provider has received."""

    def __init__(self, http: PoolClient) -> None:
        self.http = http
        self.attempts = 0

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        self.attempts += 1
        if self.attempts == 1:
            fields = [("x-plugin-undelivered", "true"), ("content-type", "text/plain")]
            return WholeResponse(502, fields, b"the provider is not there\n")
        return await self.http.unary(request, max_bytes)

    def stream(self, request: HttpRequest) -> AbstractAsyncContextManager[HttpResponse]:
        return self.http.stream(request)
