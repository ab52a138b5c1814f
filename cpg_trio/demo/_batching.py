"""Batching: calls that arrive while a batch is being processed form the next batch.

A database then commits once for all of them, and each caller is answered after that commit.

A `Batcher` keeps one thread for its whole life. A thread of `trio.to_thread.run_sync` for each call was
tried: for one caller it cost twice as much, and for many callers far more.

The loop and the thread wake each other by a byte in a pipe, since the interpreter's lock is free while a byte
is written: the other side goes on at once. A queue was tried: its lock is released while the interpreter's is
held, so the thread woke to wait for that, twice, before each commit. A pair of sockets was tried: to read
from one wakes the other side, which may want to write. `TrioToken.run_sync_soon` was tried for the way back:
it wakes a task of Trio's, which wakes the caller's in the next round of the loop. Here one of the callers
waits for the byte itself.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from threading import Thread
from typing import Generic, TypeVar

import attrs
import trio

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_MAX_BATCH = 500  # a larger batch could take longer than its callers wait
_WAKE_UP = b"\0"
_MOST_WAKE_UPS = 4096  # bytes that are read at once


@attrs.define(eq=False)
class _Call(Generic[Item, Answer]):
    item: Item
    done: bool = False
    abandoned: bool = False
    """Whether the caller has stopped waiting."""
    answer: list[Answer] = attrs.field(factory=list)
    error: Exception | None = None
    asleep: trio.lowlevel.Task | None = None
    """The caller, while it waits to be woken by another one."""


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
        self._accepted: deque[_Call[Item, Answer]] = deque()  # for the thread, which takes them off
        self._finished: deque[_Call[Item, Answer]] = deque()  # for the loop, likewise
        self._waiting: dict[_Call[Item, Answer], None] = {}  # whose callers wait
        self._has_reader = False  # one of those callers waits for the thread's byte
        self._is_resting = False  # the thread has to be woken
        self._loop = trio.lowlevel.current_trio_token()
        self._told, self._tell = os.pipe()  # by the thread
        self._told_thread, self._tell_thread = os.pipe()
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
        self._waiting[call] = None
        self._accepted.append(call)
        self._wake_thread()
        try:
            while not call.done:
                await (self._sleep(call) if self._has_reader else self._read())
        finally:
            call.abandoned = True
            del self._waiting[call]
            if not self._has_reader:
                self._wake_a_reader()
        if call.error is not None:
            raise call.error
        return call.answer[0]

    async def _read(self) -> None:
        """Wait for the thread, and wake the callers whose calls it has finished."""
        self._has_reader = True
        try:
            await trio.lowlevel.wait_readable(self._told)
            os.read(self._told, _MOST_WAKE_UPS)
            self._collect()
        finally:
            self._has_reader = False
            if self._ended.is_set():
                os.close(self._told)

    def _collect(self) -> None:
        while self._finished:
            call = self._finished.popleft()
            call.done = True
            self._wake(call)

    async def _sleep(self, call: _Call[Item, Answer]) -> None:
        """Wait until the call is done, or until another one has to read."""

        def wake_up(_: object) -> trio.lowlevel.Abort:
            call.asleep = None
            return trio.lowlevel.Abort.SUCCEEDED

        call.asleep = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(wake_up)

    def _wake(self, call: _Call[Item, Answer]) -> None:
        if call.asleep is not None:
            trio.lowlevel.reschedule(call.asleep)
            call.asleep = None

    def _wake_a_reader(self) -> None:
        """Have another caller read, as none does: it looks for itself when it is awake."""
        for call in self._waiting:
            if not call.done:
                self._wake(call)
                return

    def _wake_thread(self) -> None:
        if self._is_resting:
            self._is_resting = False
            os.write(self._tell_thread, _WAKE_UP)

    def close(self) -> None:
        """Accept no more calls. Calls that have been accepted go on."""
        if not self._closed:
            self._closed = True
            self._wake_thread()

    async def wait_ended(self) -> None:
        """Wait, after `close`, until every accepted call has been answered."""
        await self._ended.wait()

    def _end(self) -> None:
        self._collect()
        self._ended.set()
        self._close_pipes(but=self._told if self._has_reader else None)

    def _close_pipes(self, but: int | None = None) -> None:
        for pipe in {self._told, self._tell, self._told_thread, self._tell_thread} - {but}:
            os.close(pipe)

    # The methods below run in the thread.

    def _run(self) -> None:
        while batch := self._next_batch():
            self.busy = True
            self._process([call for call in batch if not call.abandoned])
            self.busy = False
            self._finished += batch
            os.write(self._tell, _WAKE_UP)
        try:
            self._loop.run_sync_soon(self._end)
        except trio.RunFinishedError:  # the loop has ended without `wait_ended`
            self._close_pipes()

    def _next_batch(self) -> list[_Call[Item, Answer]]:
        """Wait for a call; return it and those that have come with it. Return none after the last one.

        No wake-up is lost: this rests and then looks for calls, and the loop adds one and then looks whether
        this rests.
        """
        while not self._accepted:
            self._is_resting = True
            if self._closed and not self._accepted:
                return []
            if not self._accepted:
                os.read(self._told_thread, _MOST_WAKE_UPS)
        self._is_resting = False
        return [self._accepted.popleft() for _ in range(min(len(self._accepted), _MAX_BATCH))]

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
