"""A thread that does for many callers at once what each of them waits for."""

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

_MOST = 500  # a group that takes longer than callers wait would be for nobody


@attrs.define(eq=False)
class _Call(Generic[Item, Answer]):
    item: Item
    done: trio.Event = attrs.field(factory=trio.Event)
    left: bool = False
    """Whether the caller waits no more."""
    answer: list[Answer] = attrs.field(factory=list)
    error: Exception | None = None


class Lane(Generic[Item, Answer]):
    """Gives all that has come, while `work` was busy with what came before, to `work` at once.

    The thread is there from the first moment until after `close`, so that a call costs two wake-ups: half of
    what a thread for each call costs, for one caller, and far less for many. A caller who is cancelled leaves
    at once, and nobody else notices. What it asked for is not begun, or it goes to its end without it.

    `work` returns an answer to each item, in their order. An exception of the kind `shared` is everybody's
    answer; another one may be about one item of them, so then each item is tried alone.
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

    async def do(self, item: Item) -> Answer:
        """Have `work` done on an item; return its answer, or raise what it raised."""
        if self._closed:
            raise trio.ClosedResourceError("it was closed")
        await trio.lowlevel.checkpoint_if_cancelled()
        call: _Call[Item, Answer] = _Call(item)
        self._calls.put(call)
        try:
            await call.done.wait()
        finally:
            call.left = True
        if call.error is not None:
            raise call.error
        return call.answer[0]

    def close(self) -> None:
        """Take no more calls. Those that there are go on."""
        if not self._closed:
            self._closed = True
            self._calls.put(None)

    async def wait_ended(self) -> None:
        """Wait until the last call after `close` has had its answer."""
        await self._ended.wait()

    # In the thread

    def _run(self) -> None:
        with suppress(trio.RunFinishedError):  # it was not waited for
            while group := self._next():
                self.busy = True
                self._answer([call for call in group if not call.left])
                self.busy = False
                self._loop.run_sync_soon(_tell, group)
            self._loop.run_sync_soon(self._ended.set)

    def _next(self) -> list[_Call[Item, Answer]]:
        """Wait for a call; return it and those that have come after it, or none when there will be none."""
        group: list[_Call[Item, Answer]] = []
        while (call := self._calls.get()) is not None:
            group.append(call)
            if self._calls.empty() or len(group) == _MOST:
                return group
        if group:
            self._calls.put(None)  # for the next time
        return group

    def _answer(self, calls: Sequence[_Call[Item, Answer]]) -> None:
        if not calls:
            return
        try:
            answers = self._work([call.item for call in calls])
        except self._shared as error:
            for call in calls:
                call.error = copy(error)
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            if len(calls) == 1:
                calls[0].error = error
                return
            for call in calls:
                self._answer([call])
        else:
            for call, answer in zip(calls, answers, strict=True):
                call.answer.append(answer)


def _tell(group: Sequence[_Call[Item, Answer]]) -> None:
    for call in group:
        call.done.set()
