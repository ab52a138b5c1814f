from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from cpg_trio.http.channel import RECEIVE_BYTES, SocketChannel


@contextmanager
def connected() -> Iterator[tuple[SocketChannel, socket.socket]]:
    ours, theirs = socket.socketpair()
    channel = SocketChannel(ours)
    with theirs:
        yield channel, theirs
    channel.close()


async def test_news_are_bytes_or_the_other_sides_end() -> None:
    with connected() as (channel, theirs):
        assert not channel.is_readable()
        theirs.send(b"x")
        assert channel.is_readable()
        assert await channel.receive() == b"x"
        assert not channel.is_readable()
        theirs.close()
        assert channel.is_readable()
        assert await channel.receive() == b""


async def test_a_sender_that_is_always_ahead_lets_others_run() -> None:
    with connected() as (channel, theirs):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * RECEIVE_BYTES)
        theirs.sendall(bytes(2 * RECEIVE_BYTES))
        with trio.testing.assert_no_checkpoints():
            assert len(await channel.receive()) == RECEIVE_BYTES
        with trio.testing.assert_checkpoints():
            await channel.receive()


async def test_what_the_kernel_does_not_take_at_once_is_sent_when_it_does() -> None:
    whole = bytes(range(256)) * 16 * 1024
    with connected() as (channel, theirs):
        theirs.settimeout(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send_all, whole)
            received = bytearray()
            while len(received) < len(whole):
                await trio.lowlevel.wait_readable(theirs)
                received += theirs.recv(RECEIVE_BYTES)
        assert received == whole


async def test_what_the_other_side_does_is_a_broken_channel_and_what_this_side_does_a_closed_one() -> None:
    with connected() as (channel, theirs):
        theirs.close()
        with pytest.raises(trio.BrokenResourceError):
            await channel.send_all(b"x")
        channel.close()
        channel.close()
        with pytest.raises(trio.ClosedResourceError):
            await channel.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()


async def test_closing_wakes_whoever_waits() -> None:
    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()

    with connected() as (channel, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            channel.close()
