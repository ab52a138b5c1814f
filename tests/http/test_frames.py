"""Frames that an application has encoded once: sent to any WebSocket without waiting, and in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from wsproto.events import CloseConnection

from cpg_trio.asgi import FRAMES, ClientDisconnectedError, FrameSender, Receive, Scope, Send
from cpg_trio.http import ServeConfig
from tests._wire import HANDSHAKE, WebSocketWire, dial, dial_websocket
from tests.http.apps import served

LARGE = b"x" * 8_000_000  # more than the buffers of the system take

Use = Callable[[FrameSender, Send], Awaitable[None]]


@asynccontextmanager
async def using(use: Use, config: ServeConfig | None = None) -> AsyncIterator[str]:
    """Serve an application that accepts a WebSocket and does something with its frames; yield its URL."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await use(scope["extensions"][FRAMES], send)

    with trio.fail_after(20):
        async with served(app, config) as url:
            yield url


@asynccontextmanager
async def slow_websocket(url: str) -> AsyncIterator[WebSocketWire]:
    """A client with a small buffer, which reads when it is asked to."""
    async with dial(url, receive_buffer=256 * 1024) as wire:
        assert (await wire.get("/", HANDSHAKE)).status == 101
        yield WebSocketWire(wire)


async def test_a_frame_is_what_the_message_would_have_been() -> None:
    async def use(frames: FrameSender, send: Send) -> None:
        assert frames.may_send_frame()
        assert frames.send_frame(frames.encode_frame("text"))
        await send({"type": "websocket.send", "text": "between"})
        assert frames.send_frame(frames.encode_frame(b"bytes" * 100))

    async with using(use) as url, dial_websocket(url) as ws:
        assert [await ws.message() for _ in range(3)] == ["text", "between", b"bytes" * 100]
        assert await ws.closed() == 1000


async def test_what_does_not_go_at_once_is_sent_before_what_follows() -> None:
    held = trio.Event()

    async def use(frames: FrameSender, send: Send) -> None:
        assert not frames.send_frame(frames.encode_frame(LARGE))
        assert not frames.may_send_frame()
        held.set()
        await send({"type": "websocket.send", "text": "next"})
        assert frames.may_send_frame()
        assert not frames.send_frame(frames.encode_frame(LARGE))
        await frames.send_rest()
        assert frames.may_send_frame()
        await send({"type": "websocket.close"})

    async with using(use) as url, slow_websocket(url) as ws:
        await held.wait()
        for expected in (LARGE, "next", LARGE):
            got = await ws.message()
            while len(got) < len(expected):
                got += await ws.message()
            assert got == expected
        assert isinstance(await ws.event(), CloseConnection)


async def test_no_frame_gets_between_the_parts_of_a_message() -> None:
    async def use(frames: FrameSender, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, {"type": "websocket.send", "bytes": LARGE})
            await trio.testing.wait_all_tasks_blocked()
            assert not frames.may_send_frame()
            reading.set()
        assert frames.may_send_frame()

    reading = trio.Event()
    async with using(use) as url, slow_websocket(url) as ws:
        await reading.wait()
        assert await ws.closed() == 1000


async def test_no_frame_is_sent_behind_a_close() -> None:
    told: list[bool] = []
    closed = trio.Event()

    async def use(frames: FrameSender, send: Send) -> None:
        await send({"type": "websocket.close"})
        told.append(frames.may_send_frame())
        closed.set()

    async with using(use) as url, dial_websocket(url) as ws:
        await closed.wait()
        assert (told, await ws.closed()) == ([False], 1000)


async def test_a_client_that_does_not_read_the_rest_is_let_go_in_time() -> None:
    ended = trio.Event()

    async def use(frames: FrameSender, send: Send) -> None:
        frames.send_frame(frames.encode_frame(LARGE))
        await frames.send_rest()
        with pytest.raises(ClientDisconnectedError):
            while True:
                await send({"type": "websocket.send", "text": "?"})
        assert not frames.may_send_frame()
        ended.set()

    async with using(use, ServeConfig(send_timeout_s=0.2)) as url, slow_websocket(url):
        await ended.wait()
