"""A server takes no more connections than it is told, and no larger heads; what is beyond costs it little.

The connections here have calls in flight, all from one address. Which others are closed to make room is in
`test_connection_shares`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import attrs
import h2.exceptions
import pytest
import trio
import trio.testing

from cpg_trio.asgi import App, Receive, Scope, Send, send_text
from cpg_trio.http import ServeConfig, serve
from cpg_trio.http.server.config import Http1Engine
from cpg_trio.http.server.overload import _MOST_LINGERING
from tests._wire import Wire, connect, dial, dial_http2, request


@attrs.frozen
class Up:
    url: str
    stop: trio.Event
    finish: trio.Event
    """Ends the calls that are held."""


async def until_left(receive: Receive, call: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    call.cancel()


def holding(finish: trio.Event) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/hold":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_left, receive, nursery.cancel_scope)
                await finish.wait()
                nursery.cancel_scope.cancel()
        await send_text(send, 200, "hello")

    return app


@asynccontextmanager
async def server(bind: str = "127.0.0.1:0", **settings: Any) -> AsyncIterator[Up]:
    stop, finish = trio.Event(), trio.Event()
    config = ServeConfig(**settings)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            start = partial(serve, holding(finish), bind=bind, config=config, stop=stop)
            (url,) = await nursery.start(start)
            yield Up(url, stop, finish)
            finish.set()
            stop.set()


async def hold(stack: AsyncExitStack, up: Up) -> Wire:
    """Open a connection with a call in flight."""
    wire = await stack.enter_async_context(dial(up.url))
    assert (await wire.get()).status == 200
    await wire.send(request("GET", "/hold"))
    await trio.testing.wait_all_tasks_blocked(0.01)
    return wire


async def test_one_connection_too_many_is_answered_and_closed_and_the_others_live_on() -> None:
    async with server(max_connections=2) as up, AsyncExitStack() as stack:
        held = [await hold(stack, up) for _ in range(2)]
        async with dial(up.url) as wire:
            refused = await wire.get()
            assert (refused.status, refused.body) == (503, b"too many connections (max: 2)\n")
            assert refused.header(b"connection") == b"close"
            assert await wire.rest() == b""
        up.finish.set()
        for wire in held:
            assert (await wire.response()).status == 200
            assert (await wire.get()).status == 200


async def test_there_is_room_again_when_a_connection_has_ended() -> None:
    async with server(max_connections=1) as up:
        for _ in range(3):
            async with AsyncExitStack() as stack:
                await hold(stack, up)
                async with dial(up.url) as wire:
                    assert (await wire.get()).status == 503
            await room(up)


async def room(up: Up) -> None:
    """Wait until a connection is served, which ends then."""
    while True:
        async with dial(up.url) as wire:
            if (await wire.get("/", {"connection": "close"})).status == 200:
                await wire.rest()
                return
        await trio.sleep(0.01)


async def test_a_client_that_sends_much_before_it_reads_sees_why_it_is_refused() -> None:
    async with server(max_connections=1) as up, AsyncExitStack() as stack:
        await hold(stack, up)
        async with dial(up.url) as wire:
            await wire.send(request("POST", "/", {}, b"x" * 100_000))
            assert (await wire.response()).status == 503


async def test_connections_at_a_unix_socket_are_counted_with_the_others(short_path: Any) -> None:
    async with server(max_connections=1, bind=f"unix:{short_path}/s") as up, AsyncExitStack() as stack:
        await hold(stack, up)
        async with dial(up.url) as wire:
            assert (await wire.get()).status == 503


async def test_a_crowd_leaves_two_lines_in_the_log_however_large_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "cpg_trio.http")
    async with server(max_connections=1) as up:
        async with AsyncExitStack() as stack:
            await hold(stack, up)
            for _ in range(10):
                async with dial(up.url) as wire:
                    assert (await wire.get()).status == 503
        await room(up)
        await trio.testing.wait_all_tasks_blocked(0.01)  # it has ended
        await room(up)
        messages = [record.getMessage() for record in caplog.records]
        first, *others = [message for message in messages if "refused" in message]
        assert first == "1 connections are all that is allowed; more are refused"
        assert others[-1].startswith("there is room for connections again; 1")
        assert len(others) == 1


async def test_those_that_are_refused_and_stay_are_closed_before_they_become_many() -> None:
    async with server(max_connections=1, linger_s=1000.0) as up, AsyncExitStack() as stack:
        await hold(stack, up)
        refused = [
            Wire(await stack.enter_async_context(await connect(up.url))) for _ in range(_MOST_LINGERING + 5)
        ]
        for wire in refused:
            assert (await wire.response()).status == 503
            assert await wire.rest() == b""


async def test_those_that_are_refused_and_stay_do_not_hold_up_the_end() -> None:
    async with AsyncExitStack() as stack, server(max_connections=1, linger_s=1000.0, grace_s=0.0) as up:
        await hold(stack, up)
        wire = await stack.enter_async_context(dial(up.url))
        assert (await wire.response()).status == 503


# Heads


def padded(size: int) -> bytes:
    """Return a request whose head has so many bytes."""
    begun = b"GET / HTTP/1.1\r\nhost: x\r\nx: "
    return begun + b"y" * (size - len(begun) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("engine", Http1Engine)
@pytest.mark.parametrize("in_crumbs", [False, True])
async def test_a_head_may_be_as_large_as_the_limit_says_and_one_byte_more_is_refused(
    in_crumbs: bool,  # noqa: FBT001
    engine: Http1Engine,
) -> None:
    async def send(data: bytes) -> None:
        for piece in [data[n : n + 1] for n in range(len(data))] if in_crumbs else [data]:
            await wire.send(piece)

    async with server(max_head_bytes=1000, http1_engine=engine) as up, dial(up.url) as wire:
        for _ in range(2):
            await send(padded(1000))
            assert (await wire.response()).status == 200
        await send(padded(1001))
        assert (await wire.response()).status == 431


async def test_a_list_of_fields_that_is_larger_than_the_limit_ends_the_connection_of_http2() -> None:
    async with server(max_head_bytes=1000) as up, dial_http2(up.url) as wire:
        assert (await wire.response(await wire.request("/", ("x", "y" * 500)))).status == 200
        with pytest.raises((EOFError, h2.exceptions.StreamClosedError)):
            await wire.response(await wire.request("/", ("x", "y" * 1200)))


@pytest.mark.parametrize("limit", ["max_connections", "max_head_bytes"])
def test_a_limit_that_leaves_nothing_is_refused(limit: str) -> None:
    settings: dict[str, Any] = {limit: 0}
    with pytest.raises(ValueError, match=limit):
        ServeConfig(**settings)


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the loop."""

    count = 0

    def before_io_wait(self, _timeout: float, /) -> None:
        self.count += 1


async def test_many_who_connect_at_once_are_not_accepted_one_in_each_round_of_the_loop() -> None:
    async with server() as up, AsyncExitStack() as stack:
        host, port = up.url.removeprefix("http://").split(":")
        clients = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(160)]
        for client in clients:
            client.sendall(request("GET", "/"))
            client.settimeout(0)
        rounds = Rounds()
        trio.lowlevel.add_instrument(rounds)
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(trio.lowlevel.wait_readable, client)
        trio.lowlevel.remove_instrument(rounds)
        assert rounds.count < 80
