"""A nursery whose errors come out as they went in.

Trio wraps what a nursery's tasks raise in an exception group, however many they are. Where a nursery is how
a function is built rather than what it is about, its caller expects the function's own errors.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery; a group that holds a single exception is raised as that exception.

    That it was cancelled at the same moment does not count: the next checkpoint says it again.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        only = _only(group)
        if only is None:
            raise
        raise only from only.__cause__


def _only(error: BaseException) -> BaseException | None:
    """Return the only exception of a group, besides `trio.Cancelled`; None if there are several."""
    while isinstance(error, BaseExceptionGroup):
        errors = [each for each in error.exceptions if not _is_cancelled(each)] or error.exceptions[:1]
        if len(errors) != 1:
            return None
        error = errors[0]
    return error


def _is_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_cancelled, error.exceptions))
    return isinstance(error, trio.Cancelled)
