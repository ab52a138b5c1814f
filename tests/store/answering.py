"""Servers that answer as no etcd of today does: another server, or an old version."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio


async def _answer(answer: Callable[[bytes], bytes], stream: trio.SocketStream) -> None:
    async with stream:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some()
        body = answer(data.split()[1])
        status = b"200 OK" if body.startswith(b"{") else b"404 Not Found"
        await stream.send_all(
            b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)
        )


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """Answer requests, given their paths, with a body; yield the port. What is no JSON is a 404."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, partial(_answer, answer), [listener])
        yield int(listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()
