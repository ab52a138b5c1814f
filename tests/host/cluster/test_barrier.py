"""What was in the store when a task came is known when it goes on."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cpg_trio.host.cluster import Barrier, BehindError
from cpg_trio.store import StoreError


class Following:
    """A store, and how far it is followed."""

    def __init__(self) -> None:
        self.revision = 1
        self.asked = 0
        self.answers = trio.Event()
        self.applied = 1
        self.moved = trio.Event()

    async def ask(self) -> int:
        self.asked += 1
        revision = self.revision
        await self.answers.wait()
        return revision

    async def reached(self, revision: int) -> None:
        while self.applied < revision:
            await self.moved.wait()

    def apply(self, revision: int) -> None:
        self.applied = revision
        self.moved.set()
        self.moved = trio.Event()


async def test_those_that_wait_at_once_ask_the_store_twice_at_most() -> None:
    store = Following()
    barrier = Barrier(store.ask, store.reached)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(barrier.caught_up)
        await wait_all_tasks_blocked()
        store.revision = 5  # the question that is under way may not know of it
        for _ in range(100):
            nursery.start_soon(barrier.caught_up)
        await wait_all_tasks_blocked()
        store.answers.set()
        await wait_all_tasks_blocked()
        assert store.asked == 2
        assert len(nursery.child_tasks) == 100  # those that came later wait for revision 5
        store.apply(5)


async def test_a_store_that_does_not_answer_holds_nobody_up_for_long(autojump_clock: MockClock) -> None:
    store = Following()
    barrier = Barrier(store.ask, store.reached)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(partial(_refused, barrier))
    assert trio.current_time() - began < 2.5


async def _refused(barrier: Barrier) -> None:
    with pytest.raises(StoreError, match="not caught up"):
        await barrier.caught_up()


async def test_a_question_that_fails_or_is_cancelled_is_asked_again_by_the_next() -> None:
    store = Following()
    barrier = Barrier(store.ask, store.reached)
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()
        nursery.start_soon(_cancelled, barrier, first)
        await wait_all_tasks_blocked()
        nursery.start_soon(barrier.caught_up)
        await wait_all_tasks_blocked()
        first.cancel()
        await wait_all_tasks_blocked()
        store.answers.set()
    assert store.asked == 2


async def _cancelled(barrier: Barrier, scope: trio.CancelScope) -> None:
    with scope:
        await barrier.caught_up()


async def test_a_revision_that_does_not_come_is_not_waited_for_for_ever(autojump_clock: MockClock) -> None:
    store = Following()
    barrier = Barrier(store.ask, store.reached)
    await barrier.passed(1)
    with pytest.raises(BehindError, match="revision 7"):
        await barrier.passed(7)
