"""A cell's readers miss steps, never the last one; a change that changes nothing wakes nobody."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from cpg_trio._cell import Cell


async def test_a_reader_starts_with_the_value_of_now() -> None:
    assert await anext(Cell("now").reader()) == "now"


async def test_a_slow_reader_misses_the_steps_but_not_the_last_one() -> None:
    cell = Cell(0)
    reader = cell.reader()
    assert await anext(reader) == 0
    for value in range(1, 1001):
        cell.set(value)
    assert await anext(reader) == 1000


async def test_an_equal_value_wakes_nobody() -> None:
    cell = Cell("a")
    seen: list[str] = []

    async def read() -> None:
        async for value in cell.reader():
            seen.append(value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert not cell.set("a")
        await wait_all_tasks_blocked()
        assert seen == ["a"]
        assert cell.set("b")
        await wait_all_tasks_blocked()
        assert seen == ["a", "b"]
        nursery.cancel_scope.cancel()


async def test_closing_ends_a_reader_after_the_newest_value() -> None:
    cell = Cell(1)
    reader = cell.reader()
    await anext(reader)
    cell.set(2)
    cell.close()
    assert [value async for value in reader] == [2]


async def test_closing_wakes_a_reader_that_waits() -> None:
    cell = Cell(1)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                assert [value async for value in cell.reader()] == [1]

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            cell.close()


async def test_cancelling_a_wait_loses_nothing() -> None:
    cell = Cell(1)
    reader = cell.reader()
    await anext(reader)
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(reader)
    cell.set(2)
    assert await anext(reader) == 2
