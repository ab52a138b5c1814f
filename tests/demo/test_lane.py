"""A lane: one thread that works for many callers at once, none of whom suffers another's trouble."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cpg_trio.demo._lane import Lane
from tests.plugin.running import eventually

UNLUCKY, NOBODY = 13, 99


class Held:
    """Work that is held up until it is let go; it notes the groups that it is given."""

    def __init__(self) -> None:
        self.groups: list[Sequence[int]] = []
        self.go = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.groups.append(items)
        self.go.wait(10)
        if UNLUCKY in items:
            raise ValueError("unlucky")
        if NOBODY in items:
            raise KeyError("everybody's")
        return [item * 2 for item in items]


@asynccontextmanager
async def lane(work: Callable[[Sequence[int]], Sequence[int]]) -> AsyncIterator[Lane[int, int]]:
    made = Lane(work, name="lane", shared=KeyError)
    yield made
    made.close()
    await made.wait_ended()


async def ask(lane: Lane[int, int], item: int, answers: dict[int, object]) -> None:
    try:
        answers[item] = await lane.do(item)
    except (KeyError, ValueError) as error:
        answers[item] = error


async def asked(items: Sequence[int]) -> tuple[dict[int, object], Held]:
    """Ask for 0, and for others while that is held up; return the answers."""
    work, answers = Held(), dict[int, object]()
    async with lane(work) as made, trio.open_nursery() as nursery:
        nursery.start_soon(ask, made, 0, answers)
        await eventually(lambda: work.groups)
        for item in items:
            nursery.start_soon(ask, made, item, answers)
            await wait_all_tasks_blocked()
        work.go.set()
    return answers, work


async def test_what_has_come_meanwhile_is_one_group_in_the_order_in_which_it_came() -> None:
    answers, work = await asked(range(1, 10))
    assert [list(group) for group in work.groups] == [[0], list(range(1, 10))]
    assert answers == {item: item * 2 for item in range(10)}


async def test_no_group_is_larger_than_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpg_trio.demo._lane._MOST", 4)
    _, work = await asked(range(1, 11))
    assert [len(group) for group in work.groups] == [1, 4, 4, 2]


async def test_what_goes_wrong_with_one_item_is_the_answer_to_that_one() -> None:
    answers, work = await asked([12, UNLUCKY, 14])
    assert isinstance(answers.pop(UNLUCKY), ValueError)
    assert answers == {0: 0, 12: 24, 14: 28}
    assert [list(group) for group in work.groups] == [[0], [12, 13, 14], [12], [13], [14]]


async def test_what_goes_wrong_for_everybody_is_not_tried_again_and_each_gets_an_error_of_its_own() -> None:
    answers, work = await asked([98, NOBODY])
    assert [list(group) for group in work.groups] == [[0], [98, 99]]
    assert isinstance(answers[98], KeyError)
    assert isinstance(answers[NOBODY], KeyError)
    assert answers[98] is not answers[NOBODY]


async def test_a_caller_who_has_left_is_not_worked_for() -> None:
    work, answers = Held(), dict[int, object]()
    async with lane(work) as made, trio.open_nursery() as nursery:
        nursery.start_soon(ask, made, 0, answers)
        await eventually(lambda: work.groups)
        with trio.move_on_after(0):
            await made.do(1)
        async with trio.open_nursery() as leaving:
            leaving.start_soon(made.do, 2)
            await wait_all_tasks_blocked()
            nursery.start_soon(ask, made, 3, answers)
            await wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        work.go.set()
    assert [list(group) for group in work.groups] == [[0], [3]]
    assert answers == {0: 0, 3: 6}


async def test_closing_lets_what_has_come_before_it_end_and_then_the_thread() -> None:
    work, answers = Held(), dict[int, object]()
    async with trio.open_nursery() as nursery, lane(work) as made:
        nursery.start_soon(ask, made, 0, answers)
        await eventually(lambda: work.groups)
        nursery.start_soon(ask, made, 1, answers)
        await wait_all_tasks_blocked()
        made.close()
        with pytest.raises(trio.ClosedResourceError):
            await made.do(2)
        work.go.set()
    assert answers == {0: 0, 1: 2}
    await eventually(lambda: "lane" not in [thread.name for thread in threading.enumerate()])


def test_a_thread_that_nobody_waits_for_any_more_ends_in_silence() -> None:
    work = Held()

    async def leave() -> None:
        made = Lane(work, name="lane", shared=KeyError)
        with trio.move_on_after(0.01):
            await made.do(0)
        made.close()

    trio.run(leave)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "lane"]
    work.go.set()
    thread.join()
