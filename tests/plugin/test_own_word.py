"""Whose word an answer is: the host's own, or that of whoever answered through it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from cpg_trio._cell import Cell
from cpg_trio.asgi import App, Receive, Scope, Send, send_text
from cpg_trio.host import Capability, Host, HostConfig
from cpg_trio.plugin import Plugin
from cpg_trio.rpc import Code, ConnectError
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plain_host import plain_host
from tests.plugin.running import echo_plugin, eventually, hosting, plugged
from tests.rpc.echo import Echo

MARK = (b"X-Plugin-Undelivered", b"true")
STATUSES = [401, 403, 404, 429, 502, 503]


def answering(status: int, *fields: tuple[bytes, bytes]) -> Any:
    """Return a middleware in whose place nothing but a plain-text answer comes."""

    def instead(_: App) -> App:
        async def answer(_scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive()).get("more_body", False):
                pass
            calls.set(calls.value + 1)
            await send_text(send, status, "invalid token\n", list(fields))

        return answer

    calls: Cell[int] = Cell(0)
    instead.calls = calls  # type: ignore[attr-defined] # for the test to read
    return instead


def refusing_plugin(instead: Any) -> Plugin:
    plugin = Plugin("bad-plugin", version="1.0.0")
    plugin.provide("bad", Echo(), middleware=instead)
    return plugin


@asynccontextmanager
async def calling(url: str, instead: Any, **config: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Yield clients of a provider that answers so, and of a good one, and the caller's word on the latter."""
    caller = Plugin("caller", version="1.0.0")
    bad, good = caller.require("bad"), caller.require("echo")
    async with (
        plugged(refusing_plugin(instead), url, **config),
        plugged(echo_plugin(), url, **config),
        plugged(caller, url),
    ):
        with trio.fail_after(20):
            await bad.wait_available()
            await good.wait_available()
        yield bad.client(EchoServiceClient), good.client(EchoServiceClient), good


@pytest.mark.parametrize("fields", [(), (MARK,)], ids=["plain", "forged"])
@pytest.mark.parametrize("status", STATUSES)
async def test_no_answer_of_a_provider_ends_its_callers_session(
    status: int, fields: tuple[tuple[bytes, bytes], ...]
) -> None:
    instead = answering(status, *(fields if status != 401 else ()))
    async with hosting() as (_, url), calling(url, instead) as (bad, good, dependency):
        session = dependency.callable_provider().session
        for number in range(5):
            with pytest.raises(ConnectError) as caught:
                await bad.echo(EchoRequest(text="x"))
            assert caught.value.message == "invalid token"
            assert instead.calls.value == number + 1  # each was sent once
            with pytest.raises(ConnectError):
                async with bad.count(CountRequest(to=1)) as stream:
                    _ = [message async for message in stream]
            instead.calls.set(number + 1)
            assert (await good.echo(EchoRequest(text="y"))).text == "y"
        assert not session.void.is_set()
        assert dependency.callable_provider().session is session


async def test_a_host_that_marks_nothing_is_asked_whose_word_it_was() -> None:
    instead = answering(401)
    async with (
        plain_host() as (host, url),
        calling(url, instead, accept_unsigned=True) as (bad, good, dependency),
    ):
        session = dependency.callable_provider().session
        for _ in range(3):
            with pytest.raises(ConnectError) as caught:
                await bad.echo(EchoRequest(text="x"))
            assert caught.value.code == Code.UNAUTHENTICATED
            assert (await good.echo(EchoRequest(text="y"))).text == "y"
        assert not session.void.is_set()
        host.tokens.clear()
        with pytest.raises(ConnectError) as caught:
            await good.echo(EchoRequest(text="y"))
        assert (caught.value.code, session.void.is_set()) == (Code.UNAVAILABLE, True)


async def test_the_hosts_own_word_ends_the_session_at_once() -> None:
    async with hosting() as (host, url), calling(url, answering(500)) as (_, good, dependency):
        session = dependency.callable_provider().session
        await host.revoke_identity(session.runtime_id)
        with pytest.raises(ConnectError) as caught:
            await good.echo(EchoRequest(text="y"))
        assert caught.value.code == Code.UNAVAILABLE
        assert session.void.is_set()


class Unwilling:
    """A capability that answers its grants' owners as the host answers who has none."""

    def __init__(self, *fields: tuple[bytes, bytes]) -> None:
        self.calls = 0
        self._fields = fields

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        self.calls += 1
        await send_text(send, 401, "grant expired\n", list(self._fields))


@pytest.mark.parametrize("fields", [(), (MARK,)], ids=["plain", "forged"])
async def test_a_call_that_a_capability_has_had_is_not_made_again(
    fields: tuple[tuple[bytes, bytes], ...],
) -> None:
    unwilling = Unwilling(*fields)
    offered = [Capability("unwilling", "1.0.0", unwilling)]
    plugin = Plugin("app", version="1.0.0")
    client = plugin.capability("unwilling").client(EchoServiceClient)
    host = Host(HostConfig(capabilities=offered))
    async with hosting(host=host) as (_, url), plugged(plugin, url):
        await eventually(lambda: len(host.identities))
        assert await _refused(client) == Code.UNAUTHENTICATED
        assert unwilling.calls == 1


async def _refused(client: EchoServiceClient) -> Code:
    """Call until the capability is there, and return the code with which the call is refused then."""
    while True:
        with pytest.raises(ConnectError) as caught:
            await client.echo(EchoRequest(text="x"))
        if caught.value.code != Code.UNAVAILABLE:
            return caught.value.code
        await trio.sleep(0.01)


async def test_a_call_whose_grant_ends_in_it_is_not_made_again() -> None:
    begun = Cell(0)

    async def slow(_scope: Scope, _receive: Receive, _send: Send) -> None:
        begun.set(begun.value + 1)
        await trio.sleep_forever()

    plugin = Plugin("app", version="1.0.0")
    client = plugin.capability("slow").client(EchoServiceClient)
    host = Host(HostConfig(capabilities=[Capability("slow", "1.0.0", slow)]))

    async def call() -> None:
        assert await _refused(client) == Code.UNAUTHENTICATED
        assert begun.value == 1

    async with hosting(host=host) as (_, url), plugged(plugin, url), trio.open_nursery() as nursery:
        nursery.start_soon(call)
        async for calls in begun.reader():
            if calls:
                break
        (owner,) = host._grants._by_owner
        host.revoke_grants(owner)
