"""A plain nursery: one error comes out as it went in, several stay together."""

from __future__ import annotations

import pytest
import trio

from cpg_trio._nursery import open_plain_nursery


async def fail(error: Exception) -> None:
    raise error


async def test_one_error_comes_out_as_it_went_in() -> None:
    with pytest.raises(KeyError, match="alone"):
        async with open_plain_nursery() as nursery:
            nursery.start_soon(fail, KeyError("alone"))


async def test_several_errors_stay_together() -> None:
    both = trio.Event()

    async def first() -> None:
        try:
            await both.wait()
        finally:
            raise KeyError("first")

    with pytest.raises(ExceptionGroup) as caught:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(first)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(fail, KeyError("second"))
    assert len(caught.value.exceptions) == 2


async def test_a_cancellation_passes() -> None:
    with trio.move_on_after(0) as scope:
        async with open_plain_nursery():
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_an_error_at_the_moment_of_a_cancellation_is_still_one_error() -> None:
    with trio.CancelScope() as scope, pytest.raises(KeyError, match="alone"):
        async with open_plain_nursery() as nursery:

            async def fail_when_cancelled() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    raise KeyError("alone")

            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)
            await trio.lowlevel.checkpoint()
            scope.cancel()
            await trio.sleep_forever()
    with trio.move_on_after(0) as whole:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)
    assert whole.cancelled_caught
