"""Batching: calls that arrive while a batch is being processed form the next batch.

A database then commits once for all of them, and each caller is answered after that commit.

A `Batcher` keeps one thread for its whole life. A thread of `trio.to_thread.run_sync` for each call was
tried: for one caller it cost twice as much, and for many callers far more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

import attrs
import trio

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_MAX_BATCH = 500  # a larger batch could take longer than its callers wait


@attrs.define(eq=False)
class _Call(Generic[Item, Answer]):
    item: Item
    done: trio.Event = attrs.field(factory=trio.Event)
    abandoned: bool = False
    """Whether the caller has stopped waiting."""
    answer: list[Answer] = attrs.field(factory=list)
    error: Exception | None = None


class Batcher(Generic[Item, Answer]):
    """Calls `work` in a thread with all the items that have arrived since it was last called.

    `work` returns one answer for each item, in the same order. If it raises `shared`, every caller of the
    batch gets a copy of that error. Any other exception may be about one item only, so each item is tried
    alone.

    A cancelled caller returns at once. Its item is skipped if its batch has not begun; otherwise the batch
    goes on without the caller.
    """

    def __init__(
        self, work: Callable[[Sequence[Item]], Sequence[Answer]], *, name: str, shared: type[Exception]
    ) -> None:
        self._work = work
        self._shared = shared
        self._calls: SimpleQueue[_Call[Item, Answer] | None] = SimpleQueue()
        self._loop = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._closed = False
        self.busy = False
        """Whether `work` is running now."""
        Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, item: Item) -> Answer:
        """Return the answer of `work` for an item, or raise its exception.

        Raises: trio.ClosedResourceError after `close`.
        """
        if self._closed:
            raise trio.ClosedResourceError("the batcher is closed")
        await trio.lowlevel.checkpoint_if_cancelled()
        call: _Call[Item, Answer] = _Call(item)
        self._calls.put(call)
        try:
            await call.done.wait()
        finally:
            call.abandoned = True
        if call.error is not None:
            raise call.error
        return call.answer[0]

    def close(self) -> None:
        """Accept no more calls. Calls that have been accepted go on."""
        if not self._closed:
            self._closed = True
            self._calls.put(None)

    async def wait_ended(self) -> None:
        """Wait, after `close`, until every accepted call has been answered."""
        await self._ended.wait()

    # The methods below run in the thread.

    def _run(self) -> None:
        with suppress(trio.RunFinishedError):  # the loop ended without `wait_ended`
            while batch := self._next_batch():
                self.busy = True
                self._process([call for call in batch if not call.abandoned])
                self.busy = False
                self._loop.run_sync_soon(_wake, batch)
            self._loop.run_sync_soon(self._ended.set)

    def _next_batch(self) -> list[_Call[Item, Answer]]:
        """Wait for a call; return it and the calls queued behind it. Return none after the last one."""
        batch: list[_Call[Item, Answer]] = []
        while (call := self._calls.get()) is not None:
            batch.append(call)
            if self._calls.empty() or len(batch) == _MAX_BATCH:
                return batch
        if batch:
            self._calls.put(None)  # the next call of this method ends the thread
        return batch

    def _process(self, calls: Sequence[_Call[Item, Answer]]) -> None:
        if not calls:
            return
        try:
            answers = self._work([call.item for call in calls])
        except self._shared as error:
            for call in calls:
                call.error = copy(error)
        except Exception as error:  # noqa: BLE001 - `call` raises it
            if len(calls) == 1:
                calls[0].error = error
                return
            for call in calls:
                self._process([call])
        else:
            for call, answer in zip(calls, answers, strict=True):
                call.answer.append(answer)


def _wake(batch: Sequence[_Call[Item, Answer]]) -> None:
    for call in batch:
        call.done.set()
