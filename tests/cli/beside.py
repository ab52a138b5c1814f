"""What commands of the test's process call: it runs beside them, in another thread."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, TypeVar

import trio

_T = TypeVar("_T")


@contextmanager
def beside(setting: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
    """Hold a context within the block, in a thread with a loop of its own.

    A command has the main thread, as it waits for signals. What the context yields may be looked at there.
    """
    entered = Future[tuple[_T, trio.lowlevel.TrioToken]]()
    stop = trio.Event()

    async def hold() -> None:
        async with setting as value:
            entered.set_result((value, trio.lowlevel.current_trio_token()))
            await stop.wait()

    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(trio.run, hold)
        both: list[Future[Any]] = [entered, held]
        wait(both, return_when=FIRST_COMPLETED)
        if not entered.done():
            held.result()
        value, token = entered.result()
        try:
            yield value
        finally:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(stop.set)
            held.result()
