"""How long others may take, and that they are not late because this process was."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cpg_trio.http.timeouts import TimeoutQueue


class Waited:
    def __init__(self) -> None:
        self.given_up_at: float | None = None

    def give_up(self) -> None:
        self.given_up_at = trio.current_time()


@asynccontextmanager
async def kept(patience: TimeoutQueue) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(patience.run)
        yield
        nursery.cancel_scope.cancel()


async def test_who_is_late_is_given_up_and_nobody_else(autojump_clock: MockClock) -> None:
    patience, first, second, third = TimeoutQueue(10), Waited(), Waited(), Waited()
    async with kept(patience):
        patience.begin(first)
        await trio.sleep(5)
        patience.begin(second)
        patience.begin(third)
        patience.end(third)
        await trio.sleep(20)
    assert (first.given_up_at, second.given_up_at, third.given_up_at) == (10, 15, None)


async def test_who_was_given_up_or_has_ended_is_not_held(autojump_clock: MockClock) -> None:
    patience, late, ended = TimeoutQueue(10), Waited(), Waited()
    held = weakref.WeakSet([late, ended])
    async with kept(patience):
        patience.begin(late)
        await trio.sleep(5)
        patience.begin(ended)
        await trio.sleep(6)
        assert late.given_up_at == 10
        patience.end(ended)
        del late, ended
        assert len(held) == 0
    assert len(patience) == 0


async def test_who_fails_to_give_up_fails_alone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Waited):
        def give_up(self) -> None:
            raise RuntimeError("a bug in giving up")

    patience, other = TimeoutQueue(10), Waited()
    async with kept(patience):
        patience.begin(Failing())
        patience.begin(other)
        await trio.sleep(20)
    assert other.given_up_at == 10
    assert caplog.messages == ["an error in giving up somebody whose time is over"]
    assert "a bug in giving up" in caplog.text


async def test_a_process_that_was_held_up_reads_before_it_gives_anybody_up(mock_clock: MockClock) -> None:
    for _ in range(10):  # in whatever order the tasks wake up
        patience, sent, silent = TimeoutQueue(10), Waited(), Waited()
        async with kept(patience):
            patience.begin(sent)
            patience.begin(silent)
            await wait_all_tasks_blocked()
            mock_clock.jump(60)
            await wait_all_tasks_blocked()
            assert len(patience) == 2
            patience.end(sent)  # what it has sent has been read by now
            began = trio.current_time()
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
        assert sent.given_up_at is None
        assert silent.given_up_at == began + 1
