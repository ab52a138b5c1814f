"""A capability: what the host offers, called with a grant that the plugin gets and renews by itself."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from cpg_trio._cell import Cell
from cpg_trio.asgi import Receive, Scope, Send, send_text
from cpg_trio.host import Action, AuditEvent, Capability, Host, HostConfig
from cpg_trio.plugin import Plugin
from cpg_trio.protos.capability.logger.v1.logger_pb2 import LogRequest
from cpg_trio.protos.capability.logger.v1.logger_trio import LoggerClient
from cpg_trio.rpc import Code, ConnectError
from tests._gen.echo.v1.echo_pb2 import CountRequest, EchoRequest
from tests._gen.echo.v1.echo_trio import EchoServiceClient
from tests.plugin.running import eventually, hosting, plugged
from tests.rpc.echo import Echo

MARK = (b"X-Plugin-Undelivered", b"true")


class Offered:
    """A host that offers `echo`, and a plugin that uses it."""

    def __init__(self, host: Host, echo: Echo, client: EchoServiceClient) -> None:
        self.host = host
        self.echo = echo
        self.client = client
        self.events: list[AuditEvent] = []
        host.audit.subscribe(self.events.append)

    def count(self, action: Action) -> int:
        return len([event for event in self.events if event.action == action and event.allowed])

    @property
    def runtime_id(self) -> str:
        (grant, *_) = self.host._grants._by_owner
        return grant


@asynccontextmanager
async def offering(**config: Any) -> AsyncIterator[Offered]:
    echo, plugin = Echo(), Plugin("app", version="1.0.0")
    offered = [Capability.of("echo", "1.0.0", echo)]
    client = plugin.capability("echo", min_version="1.0.0").client(EchoServiceClient)
    async with hosting(HostConfig(capabilities=offered, **config)) as (host, url):
        found = Offered(host, echo, client)
        async with plugged(plugin, url):
            await eventually(lambda: found.count(Action.HANDSHAKE))
            await _call(client)
            yield found


async def _call(client: EchoServiceClient) -> None:
    with trio.fail_after(10):
        await _until_registered(lambda: client.echo(EchoRequest(text="x")))


async def _until_registered(call: Any) -> None:
    """Call until the plugin has heard that it is registered. Raises: what it is told then."""
    while True:
        try:
            await call()
        except ConnectError as error:
            if error.code != Code.UNAVAILABLE:
                raise
            await trio.sleep(0.01)
        else:
            return


async def test_a_plugin_uses_what_its_host_offers_and_is_known_by_name() -> None:
    async with offering() as offered:
        assert (await offered.client.echo(EchoRequest(text="✓"))).text == "✓"
        async with offered.client.count(CountRequest(to=3)) as stream:
            assert [m.number async for m in stream] == [0, 1, 2]
        caller = offered.echo.contexts[-1].caller
        assert caller is not None
        assert (caller.id, caller.name) == (offered.runtime_id, "app")


async def test_many_calls_at_once_ask_for_leave_once() -> None:
    async with offering() as offered:
        offered.host.revoke_grants(offered.runtime_id)
        offered.events.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(_call, offered.client)
        for _ in range(5):
            await offered.client.echo(EchoRequest(text="x"))
        assert offered.count(Action.GRANT) == 1


async def test_a_grant_that_the_host_has_taken_back_is_asked_for_anew() -> None:
    async with offering() as offered:
        offered.host.revoke_grants(offered.runtime_id)
        assert (await offered.client.echo(EchoRequest(text="✓"))).text == "✓"
        offered.host.revoke_grants(offered.runtime_id)
        async with offered.client.count(CountRequest(to=2)) as stream:
            assert [m.number async for m in stream] == [0, 1]


async def test_leave_is_renewed_before_it_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with offering(grant_ttl_s=10) as offered:
        await trio.sleep(7)
        await offered.client.echo(EchoRequest(text="x"))
        assert offered.count(Action.GRANT) == 1
        await trio.sleep(2)
        await offered.client.echo(EchoRequest(text="x"))
        assert offered.count(Action.GRANT) == 2
        refused = [event for event in offered.events if not event.allowed]
    assert refused == []


async def test_what_the_host_does_not_give_is_said_in_its_words() -> None:
    plugin = Plugin("app", version="1.0.0")
    secrets = plugin.capability("secrets").client(EchoServiceClient)
    newer = plugin.capability("logger", min_version="2.0.0").client(LoggerClient)
    async with hosting() as (_, url), plugged(plugin, url):
        for call, text in (
            (lambda: secrets.echo(EchoRequest()), '"secrets" not available'),
            (lambda: newer.log(LogRequest()), "older than 2.0.0"),
        ):
            with trio.fail_after(10), pytest.raises(ConnectError, match=text) as caught:
                await _until_registered(call)
            assert caught.value.code == Code.NOT_FOUND


async def test_a_plugin_without_a_host_says_so_at_once() -> None:
    logger = Plugin("app", version="1.0.0").capability("logger").client(LoggerClient)
    with pytest.raises(ConnectError, match="not registered with a host") as caught:
        await logger.log(LogRequest())
    assert caught.value.code == Code.UNAVAILABLE


async def test_the_hosts_log_has_what_a_plugin_writes(caplog: pytest.LogCaptureFixture) -> None:
    plugin = Plugin("app", version="1.0.0")
    logger = plugin.capability("logger", min_version="1.0.0", reason="to say hello").client(LoggerClient)
    async with hosting() as (_, url), plugged(plugin, url):
        with caplog.at_level(logging.INFO, "cpg_trio.capability.logger"), trio.fail_after(10):
            hello = LogRequest(level="info", message="hello", fields={"a": "b"})
            await _until_registered(lambda: logger.log(hello))
    (record,) = (r for r in caplog.records if r.name == "cpg_trio.capability.logger")
    assert record.getMessage().startswith("[PLUGIN] app-")
    assert record.getMessage().endswith(": hello {a=b}")


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
