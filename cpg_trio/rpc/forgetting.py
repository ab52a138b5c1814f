"""Errors that hold nothing of the call that has failed."""

from __future__ import annotations

from typing import Any, TypeAlias

from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext

_Given: TypeAlias = RequestContext[Any, Any]


class Forgetting:
    """An interceptor that takes the traceback from the error of a failed call. It stands before all others.

    connectrpc keeps the error in a frame that is in the error's own traceback. Such a cycle, and all that its
    frames hold, the message among it, would be there until the garbage collector looks, which counts objects
    and not bytes.
    """

    async def on_start(self, ctx: _Given) -> None:
        """See `connectrpc.interceptor.MetadataInterceptor`."""

    async def on_end(self, _started: None, _ctx: _Given, error: Exception | None, /) -> None:
        """See `connectrpc.interceptor.MetadataInterceptor`."""
        if isinstance(error, ConnectError):  # of any other the server shows where it is from
            forget_frames(error)


def forget_frames(error: BaseException) -> None:
    """Take the traceback from an error, and from all that it was made of."""
    seen, left = set[int](), [error]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = None
        left += [other for other in (each.__cause__, each.__context__) if other is not None]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
