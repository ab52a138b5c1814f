"""A batcher: one thread that works for many callers. An error of one item concerns its caller only."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cpg_trio.demo._batching import Batcher
from tests.plugin.running import eventually

UNLUCKY, NOBODY = 13, 99


class Held:
    """Work that waits for `go`, and records the batches that it is given."""

    def __init__(self) -> None:
        self.batches: list[Sequence[int]] = []
        self.go = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(items)
        self.go.wait(10)
        if UNLUCKY in items:
            raise ValueError("unlucky")
        if NOBODY in items:
            raise KeyError("shared")
        return [item * 2 for item in items]


@asynccontextmanager
async def batcher(work: Callable[[Sequence[int]], Sequence[int]]) -> AsyncIterator[Batcher[int, int]]:
    made = Batcher(work, name="batcher", shared=KeyError)
    yield made
    made.close()
    await made.wait_ended()


async def ask(batcher: Batcher[int, int], item: int, answers: dict[int, object]) -> None:
    try:
        answers[item] = await batcher.call(item)
    except (KeyError, ValueError) as error:
        answers[item] = error


async def asked(items: Sequence[int]) -> tuple[dict[int, object], Held]:
    """Ask for 0, and for others while that is held up; return the answers."""
    work, answers = Held(), dict[int, object]()
    async with batcher(work) as made, trio.open_nursery() as nursery:
        nursery.start_soon(ask, made, 0, answers)
        await eventually(lambda: work.batches)
        for item in items:
            nursery.start_soon(ask, made, item, answers)
            await wait_all_tasks_blocked()
        work.go.set()
    return answers, work


async def test_calls_that_arrive_during_a_batch_are_the_next_batch_in_order_of_arrival() -> None:
    answers, work = await asked(range(1, 10))
    assert [list(batch) for batch in work.batches] == [[0], list(range(1, 10))]
    assert answers == {item: item * 2 for item in range(10)}


async def test_no_batch_is_larger_than_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpg_trio.demo._batching._MAX_BATCH", 4)
    _, work = await asked(range(1, 11))
    assert [len(batch) for batch in work.batches] == [1, 4, 4, 2]


async def test_an_error_about_one_item_is_raised_for_that_item_only() -> None:
    answers, work = await asked([12, UNLUCKY, 14])
    assert isinstance(answers.pop(UNLUCKY), ValueError)
    assert answers == {0: 0, 12: 24, 14: 28}
    assert [list(batch) for batch in work.batches] == [[0], [12, 13, 14], [12], [13], [14]]


async def test_a_shared_error_is_not_tried_again_and_each_caller_gets_a_copy() -> None:
    answers, work = await asked([98, NOBODY])
    assert [list(batch) for batch in work.batches] == [[0], [98, 99]]
    assert isinstance(answers[98], KeyError)
    assert isinstance(answers[NOBODY], KeyError)
    assert answers[98] is not answers[NOBODY]


async def test_the_item_of_a_cancelled_caller_is_skipped() -> None:
    work, answers = Held(), dict[int, object]()
    async with batcher(work) as made, trio.open_nursery() as nursery:
        nursery.start_soon(ask, made, 0, answers)
        await eventually(lambda: work.batches)
        with trio.move_on_after(0):
            await made.call(1)
        async with trio.open_nursery() as leaving:
            leaving.start_soon(made.call, 2)
            await wait_all_tasks_blocked()
            nursery.start_soon(ask, made, 3, answers)
            await wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        work.go.set()
    assert [list(batch) for batch in work.batches] == [[0], [3]]
    assert answers == {0: 0, 3: 6}


async def test_close_answers_the_accepted_calls_and_then_ends_the_thread() -> None:
    work, answers = Held(), dict[int, object]()
    async with trio.open_nursery() as nursery, batcher(work) as made:
        nursery.start_soon(ask, made, 0, answers)
        await eventually(lambda: work.batches)
        nursery.start_soon(ask, made, 1, answers)
        await wait_all_tasks_blocked()
        made.close()
        with pytest.raises(trio.ClosedResourceError):
            await made.call(2)
        work.go.set()
    assert answers == {0: 0, 1: 2}
    await eventually(lambda: "batcher" not in [thread.name for thread in threading.enumerate()])


def test_a_thread_that_outlives_the_loop_ends_without_an_error() -> None:
    work = Held()

    async def leave() -> None:
        made = Batcher(work, name="batcher", shared=KeyError)
        with trio.move_on_after(0.01):
            await made.call(0)
        made.close()

    trio.run(leave)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "batcher"]
    work.go.set()
    thread.join()


async def test_a_caller_that_leaves_keeps_no_other_from_its_answer() -> None:
    work, answers = Held(), dict[int, object]()
    async with batcher(work) as made, trio.open_nursery() as nursery:
        async with trio.open_nursery() as leaving:
            leaving.start_soon(made.call, 0)  # the first one waits for the thread, and wakes the others
            await eventually(lambda: work.batches)
            for item in (1, 2):
                nursery.start_soon(ask, made, item, answers)
                await wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        work.go.set()
    assert answers == {1: 2, 2: 4}


async def test_a_caller_finds_its_own_answer_behind_one_that_nobody_has_waited_for() -> None:
    work, answers = Held(), dict[int, object]()
    async with batcher(work) as made:
        with trio.move_on_after(0.01):
            await made.call(0)
        work.go.set()
        await eventually(lambda: not made.busy)
        await ask(made, 1, answers)
    assert answers == {1: 2}
