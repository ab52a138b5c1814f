"""How many calls are in flight is bounded, those that wait keep their order, and no place is lost."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from cpg_trio.calls import Concurrency
from cpg_trio.calls.concurrency import InFlight
from cpg_trio.rpc import Code, ConnectError, Fault, fault_of

POLICY = Concurrency(max_in_flight=2, max_waiting=2, max_wait_s=3.0)


async def test_a_place_that_is_free_costs_no_checkpoint() -> None:
    in_flight = InFlight("storage", POLICY)
    with assert_no_checkpoints():
        async with in_flight:
            assert in_flight.in_flight == 1
            async with in_flight:
                assert in_flight.full
    assert in_flight.in_flight == 0


async def test_those_that_wait_get_a_place_in_the_order_of_their_arrival() -> None:
    in_flight, order = InFlight("storage", POLICY), list[str]()

    async def wait(name: str) -> None:
        async with in_flight:
            order.append(name)
            await trio.sleep_forever()

    await in_flight.take()
    await in_flight.take()
    async with trio.open_nursery() as nursery:
        for name in ("first", "second"):
            nursery.start_soon(wait, name)
            await wait_all_tasks_blocked()
        assert (in_flight.in_flight, in_flight.waiting) == (2, 2)
        in_flight.give_back()
        assert in_flight.full, "a place that is given back is not for a call that has just come"
        await wait_all_tasks_blocked()
        assert order == ["first"]
        in_flight.give_back()
        await wait_all_tasks_blocked()
        assert order == ["first", "second"]
        nursery.cancel_scope.cancel()
    assert (in_flight.in_flight, in_flight.waiting) == (0, 0)


async def test_one_more_than_may_wait_is_refused_at_once() -> None:
    in_flight = InFlight("storage", POLICY)
    async with trio.open_nursery() as nursery:
        async with in_flight, in_flight:
            nursery.start_soon(in_flight.take)
            nursery.start_soon(in_flight.take)
            await wait_all_tasks_blocked()
            with pytest.raises(ConnectError) as refusal, assert_no_checkpoints():
                await in_flight.take()
        assert refusal.value.code is Code.RESOURCE_EXHAUSTED
        assert fault_of(refusal.value) is Fault.CALLER
        assert refusal.value.message == (
            "2 calls of storage are in flight, and 2 wait; the bounds are those of CallPolicy.concurrency"
        )
        assert in_flight.refused == 1
    in_flight.give_back()
    in_flight.give_back()
    assert in_flight.in_flight == 0


async def test_one_that_has_waited_for_long_is_refused(autojump_clock: MockClock) -> None:
    in_flight = InFlight("storage", POLICY)
    async with in_flight, in_flight:
        began_at = trio.current_time()
        with pytest.raises(ConnectError, match="none has ended in 3 s") as refusal:
            await in_flight.take()
        assert trio.current_time() - began_at == 3.0
        assert refusal.value.code is Code.RESOURCE_EXHAUSTED
        assert (in_flight.in_flight, in_flight.waiting) == (2, 0)
    assert in_flight.in_flight == 0


async def test_a_cancelled_wait_takes_no_place() -> None:
    in_flight = InFlight("storage", POLICY)
    async with in_flight, in_flight:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_flight.take)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert (in_flight.in_flight, in_flight.waiting) == (2, 0)
    assert in_flight.in_flight == 0


async def test_a_place_is_not_lost_when_it_comes_at_the_moment_of_cancellation() -> None:
    in_flight = InFlight("storage", POLICY)

    async def call() -> None:
        async with in_flight:
            await trio.lowlevel.checkpoint()  # which is cancelled

    async with in_flight:
        await in_flight.take()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await wait_all_tasks_blocked()
            in_flight.give_back()
            nursery.cancel_scope.cancel()
        assert in_flight.in_flight == 1
    assert (in_flight.in_flight, in_flight.waiting) == (0, 0)


async def test_a_place_that_comes_at_the_moment_of_the_refusal_is_taken_or_given_on(
    autojump_clock: MockClock,
) -> None:
    in_flight = InFlight("storage", Concurrency(max_in_flight=1, max_waiting=9, max_wait_s=3.0))
    ended = list[str]()

    async def call() -> None:
        try:
            async with in_flight:
                ended.append("called")
        except ConnectError:
            ended.append("refused")

    async with trio.open_nursery() as nursery, in_flight:
        nursery.start_soon(call)
        nursery.start_soon(call)
        await trio.sleep(3.0)
    assert len(ended) == 2
    assert (in_flight.in_flight, in_flight.waiting) == (0, 0)
    with assert_no_checkpoints():
        async with in_flight:
            pass
