"""A task that runs beside a block. No I/O."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import trio


@asynccontextmanager
async def background_task(
    work: Callable[[], Awaitable[None]], scope: trio.CancelScope
) -> AsyncIterator[None]:
    """Run `work`, in `scope`, beside the block. The end of the block cancels it.

    An error of `work` cancels the block and is raised, in no group. An error of the block is raised, in no
    group either, with an error of `work` as its context.
    """
    work_error: BaseException | None = None
    raised_in_block: BaseException | None = None
    block_error: BaseException | None = None

    async def run() -> None:
        nonlocal work_error
        try:
            with scope:
                await work()
        except trio.Cancelled:
            raise
        except BaseException as exc:  # noqa: BLE001 - it is raised below, when the block has ended
            work_error = exc
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            try:
                yield
            except BaseException as exc:
                raised_in_block = exc
                raise
            scope.cancel()
    except BaseExceptionGroup as group:
        block_error = _block_error(group, raised_in_block)
    # Not within the `except`: the group would become the context of the error that it contains.
    _raise_first(block_error, work_error)


def _block_error(
    group: BaseExceptionGroup[BaseException], raised_in_block: BaseException | None
) -> BaseException:
    """Return the block's error: the one in a nursery's group that is not a cancellation.

    If the block raised a group, the nursery has copied it, to remove its own cancellations. If it had none,
    the original is returned. (With Ctrl-C while the nursery closes there are two errors. They stay a group.)
    """
    errors = [exc for exc in group.exceptions if not isinstance(exc, trio.Cancelled)]
    candidates = errors or group.exceptions[:1]
    if len(candidates) > 1:
        return group
    if isinstance(raised_in_block, BaseExceptionGroup) and raised_in_block.subgroup(trio.Cancelled) is None:
        return raised_in_block
    return candidates[0]


def _raise_first(block_error: BaseException | None, work_error: BaseException | None) -> None:
    if block_error is not None:
        if work_error is not None:
            _append_context(block_error, work_error)
        _reraise(block_error)
    if work_error is not None:
        _reraise(work_error)


def _append_context(exc: BaseException, context: BaseException) -> None:
    while exc is not context:
        if exc.__context__ is None:
            exc.__context__ = context
            return
        exc = exc.__context__


def _reraise(exc: BaseException) -> NoReturn:
    """Raise an error again with the context that it had, which `raise` alone would replace."""
    context = exc.__context__
    try:
        raise exc
    finally:
        exc.__context__ = context
