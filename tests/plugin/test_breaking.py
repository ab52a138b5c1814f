"""A provider that fails is left alone by those that call its service, and they say so."""

from __future__ import annotations

import logging
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from cpg_trio import Breaking, CallPolicy
from cpg_trio.calls import BreakerState
from cpg_trio.plugin import Plugin
from cpg_trio.rpc import Code, ConnectError, Context
from tests._gen.echo.v1.echo_pb2 import EchoRequest, EchoResponse
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import eventually, hosting, plugged
from tests.rpc.echo import Echo


class Failing(Echo):
    """Fails each call, or none."""

    well = False
    calls = 0

    async def echo(self, request: EchoRequest, ctx: Context, /) -> EchoResponse:
        self.calls += 1
        if self.well:
            return await super().echo(request, ctx)
        raise ConnectError(Code.INTERNAL, "always")


def provider_of(service: Echo) -> Plugin:
    provider = Plugin("echo-plugin", version="1.0.0")
    provider.provide("echo", service)
    return provider


async def test_a_provider_that_fails_every_call_gets_one_in_a_while(
    virtual_time: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cpg_trio.calls")
    caller, failing = Plugin("caller", version="1.0.0"), Failing()
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    async with (
        hosting() as (_, url),
        plugged(provider_of(failing), url),
        plugged(provider_of(Echo()), url),
        plugged(caller, url),
    ):
        await echo.wait_available()
        await eventually(lambda: len(echo._service.group.members) == 2)
        for _ in range(30):
            with suppress(ConnectError):
                await client.echo(EchoRequest(text="x"))
        assert failing.calls == 1
        statistics = echo.statistics()
        out, other = sorted(statistics.providers, key=lambda each: each.calls)
        assert (statistics.calls, statistics.failures, statistics.ejections) == (30, 1, 1)
        assert (out.state, out.calls, out.failures) == (BreakerState.OPEN, 1, 1)
        assert out.why == "its first call has failed (internal)"
        assert (other.state, other.calls, other.failures) == (BreakerState.CLOSED, 29, 0)

        failing.well = True
        await trio.sleep(60)  # time to forget how it was
        calls = 0
        while {each.state for each in echo.statistics().providers} != {BreakerState.CLOSED}:
            await client.echo(EchoRequest(text="x"))
            calls += 1
            assert calls < 200
    assert caplog.messages == [
        f"caller: echo is not called at {out.runtime_id} for 10 s: its first call has failed (internal)",
        f"caller: echo is called at {out.runtime_id} again: it has answered",
    ]


async def test_calls_of_a_provider_that_is_alone_and_fails_are_refused_at_once_for_a_moment(
    virtual_time: MockClock,
) -> None:
    caller, failing = Plugin("caller", version="1.0.0"), Failing()
    echo = caller.require("echo")
    client = echo.client(EchoServiceClient)
    async with hosting() as (_, url), plugged(provider_of(failing), url), plugged(caller, url):
        await echo.wait_available()
        for _ in range(3):
            with pytest.raises(ConnectError, match="always"):
                await client.echo(EchoRequest(text="x"))
        with pytest.raises(ConnectError, match="3 failures in a row") as refusal:
            await client.echo(EchoRequest(text="x"))
        assert refusal.value.code is Code.UNAVAILABLE
        assert failing.calls == 3
        failing.well = True
        await trio.sleep(1.0)
        assert (await client.echo(EchoRequest(text="x"))).text == "x"


async def test_a_policy_may_turn_breakers_off(virtual_time: MockClock) -> None:
    caller, failing = Plugin("caller", version="1.0.0"), Failing()
    echo = caller.require("echo", policy=CallPolicy(breaking=Breaking(max_ejected=0)))
    client = echo.client(EchoServiceClient)
    async with hosting() as (_, url), plugged(provider_of(failing), url), plugged(caller, url):
        await echo.wait_available()
        for _ in range(10):
            with pytest.raises(ConnectError, match="always"):
                await client.echo(EchoRequest(text="x"))
    assert failing.calls == 10
