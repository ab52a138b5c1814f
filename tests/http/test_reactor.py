"""Readiness: who is called for which socket, and that an error of one keeps it from nobody."""

from __future__ import annotations

import socket
from functools import partial

import pytest
import trio
import trio.testing

from cpg_trio.http.channel import SocketChannel
from cpg_trio.http.reactor import Reactor


async def test_an_error_of_a_watcher_is_logged_and_the_others_are_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[tuple[int, bool, bool]] = []

    def hear(index: int, readable: bool, gone: bool) -> None:  # noqa: FBT001 - a watcher's face
        heard.append((index, readable, gone))
        if index == 1:
            raise RuntimeError("a bug")

    pairs = [socket.socketpair() for _ in range(3)]
    channels = [SocketChannel(ours) for ours, _ in pairs]
    with Reactor() as readiness:
        for index, channel in enumerate(channels):
            channel.watch(readiness, partial(hear, index))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.keep)
            for _, theirs in pairs:
                theirs.send(b"x")
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert sorted(heard) == [(0, True, False), (1, True, False), (2, True, False)]
            heard.clear()
            for _, theirs in pairs:
                theirs.close()
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert sorted(heard) == [(0, True, True), (1, True, True), (2, True, True)]
            nursery.cancel_scope.cancel()
        for channel in channels:
            channel.close()
    assert caplog.text.count("RuntimeError: a bug") == 2


async def test_who_was_taken_out_by_another_in_the_same_moment_is_not_called() -> None:
    called: list[int] = []
    pairs = [socket.socketpair() for _ in range(2)]
    channels = [SocketChannel(ours) for ours, _ in pairs]

    def close_the_other(index: int, _readable: bool, _gone: bool) -> None:  # noqa: FBT001 - the same
        called.append(index)
        channels[1 - index].close()

    with Reactor() as readiness:
        for index, channel in enumerate(channels):
            channel.watch(readiness, partial(close_the_other, index))
        for _, theirs in pairs:
            theirs.send(b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.keep)
            await trio.testing.wait_all_tasks_blocked(0.005)
            nursery.cancel_scope.cancel()
        for channel, (_, theirs) in zip(channels, pairs, strict=True):
            channel.close()
            theirs.close()
    assert len(called) == 1
