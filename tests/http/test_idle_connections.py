"""A connection that waits holds nothing of what has come on it, however long it waits."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest
import trio
import trio.testing
from wsproto.events import BytesMessage

from cpg_trio.asgi import Receive, Scope, Send, send_response
from tests._wire import HANDSHAKE, WebSocketWire, dial, dial_http2, request
from tests.http.apps import read_body, served

SMALL, LARGE = 10, 50_000  # bytes of what comes; all of it fits one read
HELD = 10_000  # bytes more that the process may hold for the large one, for whatever else happens meanwhile
COUNT = 3  # connections
Waiting: TypeAlias = Callable[[str, int], AbstractAsyncContextManager[object]]
"""Makes a connection that waits, after so many bytes have come on it."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await read_body(receive)
        await send_response(send, 200)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": "received"})


@asynccontextmanager
async def pipelined(url: str, size: int) -> AsyncIterator[None]:
    """Send two requests at once, of which a task reads the second."""
    async with dial(url) as wire:
        await wire.send(request() + request("POST", body=bytes(size)))
        for _ in range(2):
            assert (await wire.response()).status == 200
        yield


@asynccontextmanager
async def http2(url: str, size: int) -> AsyncIterator[None]:
    """Send a request with all that a connection of HTTP/2 begins with."""
    async with dial_http2(url, greets=False) as wire:
        stream_id = wire.h2.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", "/")]
        wire.h2.send_headers(stream_id, fields)
        for begin in range(0, size, 10_000):
            wire.h2.send_data(stream_id, bytes(min(10_000, size - begin)))
        wire.h2.end_stream(stream_id)
        await wire.flush()
        assert (await wire.response(stream_id)).status == 200
        yield


@asynccontextmanager
async def websocket(url: str, size: int) -> AsyncIterator[None]:
    async with dial(url) as wire:
        assert (await wire.get("/", HANDSHAKE)).status == 101
        socket = WebSocketWire(wire)
        await socket.send(BytesMessage(bytes(size)))
        assert await socket.message() == "received"
        yield


async def held_for(waiting: Waiting, url: str, size: int) -> int:
    """Return how many bytes are held for connections that wait."""
    before = await traced()
    async with trio.open_nursery() as nursery:
        for _ in range(COUNT):
            await nursery.start(_wait, waiting, url, size)
        held = await traced() - before
        nursery.cancel_scope.cancel()
    return held


async def _wait(waiting: Waiting, url: str, size: int, *, task_status: trio.TaskStatus[None]) -> None:
    async with waiting(url, size):
        task_status.started()
        await trio.sleep_forever()


async def traced() -> int:
    await trio.testing.wait_all_tasks_blocked(0.01)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("waiting", [pipelined, http2, websocket])
async def test_a_connection_that_waits_holds_nothing_of_what_has_come(waiting: Waiting) -> None:
    async with served(app) as url:
        await held_for(waiting, url, LARGE)  # so that all is there that is made once
        gc.freeze()  # what is there before need not be looked through each time, nor by later tests
        tracemalloc.start()
        try:
            small, large = [await held_for(waiting, url, size) for size in (SMALL, LARGE)]
        finally:
            tracemalloc.stop()
    assert large - small < HELD
