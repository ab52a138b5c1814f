from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import trio
import trio.testing

from cpg_trio.http1.channel import RECEIVE_BYTES, SocketChannel


@contextmanager
def connected() -> Iterator[tuple[SocketChannel, socket.socket]]:
    ours, theirs = socket.socketpair()
    channel = SocketChannel(ours)
    with theirs:
        yield channel, theirs
    channel.close()


async def test_news_are_bytes_or_the_other_sides_end() -> None:
    with connected() as (channel, theirs):
        assert not channel.has_news()
        theirs.send(b"x")
        assert channel.has_news()
        assert await channel.receive() == b"x"
        assert not channel.has_news()
        theirs.close()
        assert channel.has_news()
        assert await channel.receive() == b""


async def test_a_sender_that_is_always_ahead_lets_others_run() -> None:
    with connected() as (channel, theirs):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * RECEIVE_BYTES)
        theirs.sendall(bytes(2 * RECEIVE_BYTES))
        with trio.testing.assert_no_checkpoints():
            assert len(await channel.receive()) == RECEIVE_BYTES
        with trio.testing.assert_checkpoints():
            await channel.receive()
