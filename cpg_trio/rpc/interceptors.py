"""Interceptors: code around calls, on the server and on the client. The protocols are connectrpc's.

An interceptor has one or more of `intercept_unary`, `intercept_client_stream`, `intercept_server_stream` and
`intercept_bidi_stream`, which are given what comes next, the request (or the stream of them) and the context;
or it has `on_start` and `on_end`, which see the headers of calls of every kind. The first of several is the
outermost. One object can serve on both sides.

    server  first ─▶ … ─▶ last ─▶ method
    client  first ─▶ … ─▶ last ─▶ choice of a provider, retries ─▶ each attempt
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias, TypeVar

import trio
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.interceptor import (
    BidiStreamInterceptor,
    ClientStreamInterceptor,
    MetadataInterceptor,
    ServerStreamInterceptor,
    UnaryInterceptor,
)
from connectrpc.request import RequestContext

_Q = TypeVar("_Q")
_R = TypeVar("_R")
_Given: TypeAlias = RequestContext[Any, Any]
Around: TypeAlias = (
    UnaryInterceptor | ClientStreamInterceptor | ServerStreamInterceptor | BidiStreamInterceptor
)
"""An interceptor that is called with what comes next."""
Interceptor: TypeAlias = Around | MetadataInterceptor[Any]
"""connectrpc's, of which strict checkers do not know what its kind for headers carries from start to end."""

_KINDS = (UnaryInterceptor, ClientStreamInterceptor, ServerStreamInterceptor, BidiStreamInterceptor)


def checked_interceptors(interceptors: Iterable[Interceptor]) -> tuple[Interceptor, ...]:
    """Return interceptors in their order. Raises: TypeError for what is none."""
    try:
        found = tuple(interceptors)
    except TypeError:
        raise TypeError(f"interceptors are given as a list, also a single one: [{interceptors!r}]") from None
    for each in found:
        if isinstance(each, type):
            name = each.__name__
            raise TypeError(f"{name} is a class: an instance of it is what intercepts, as in {name}()")
        if not isinstance(each, (*_KINDS, MetadataInterceptor)):
            raise TypeError(f"{each!r} is no interceptor: it has no intercept_unary, on_start or the like")
    return found


def around(interceptor: Interceptor) -> Around:
    """Return an interceptor as one that is called with what comes next."""
    return AroundMetadata(interceptor) if isinstance(interceptor, MetadataInterceptor) else interceptor


def chained(interceptors: Iterable[Around], kind: str, last: Callable[..., Any]) -> Callable[..., Any]:
    """Return what calls the interceptors that have the method `kind`, in their order, and then `last`."""
    call = last
    for each in reversed([*interceptors]):
        if (intercept := getattr(each, kind, None)) is not None:
            call = partial(intercept, call)
    return call


@asynccontextmanager
async def closing(stream: AsyncIterator[_R]) -> AsyncIterator[AsyncIterator[_R]]:
    """Close a stream when it is left, so that its clean-up runs here and now, if it can be closed."""
    try:
        yield stream
    finally:
        if (aclose := getattr(stream, "aclose", None)) is not None:
            await aclose()


class AroundMetadata:
    """Calls `on_start` and `on_end` around a call of any kind. One that is cancelled ends with `canceled`."""

    def __init__(self, interceptor: MetadataInterceptor[Any]) -> None:
        self._interceptor = interceptor

    async def intercept_unary(
        self, call_next: Callable[[_Q, _Given], Awaitable[_R]], request: _Q, ctx: _Given, /
    ) -> _R:
        """See `UnaryInterceptor`."""
        async with self._around(ctx):
            return await call_next(request, ctx)

    async def intercept_client_stream(
        self,
        call_next: Callable[[AsyncIterator[_Q], _Given], Awaitable[_R]],
        request: AsyncIterator[_Q],
        ctx: _Given,
        /,
    ) -> _R:
        """See `ClientStreamInterceptor`."""
        async with self._around(ctx):
            return await call_next(request, ctx)

    async def intercept_server_stream(
        self, call_next: Callable[[_Q, _Given], AsyncIterator[_R]], request: _Q, ctx: _Given, /
    ) -> AsyncIterator[_R]:
        """See `ServerStreamInterceptor`."""
        async with self._around(ctx), closing(call_next(request, ctx)) as responses:
            async for response in responses:
                yield response

    async def intercept_bidi_stream(
        self,
        call_next: Callable[[AsyncIterator[_Q], _Given], AsyncIterator[_R]],
        request: AsyncIterator[_Q],
        ctx: _Given,
        /,
    ) -> AsyncIterator[_R]:
        """See `BidiStreamInterceptor`."""
        async with self._around(ctx), closing(call_next(request, ctx)) as responses:
            async for response in responses:
                yield response

    @asynccontextmanager
    async def _around(self, ctx: _Given) -> AsyncIterator[None]:
        token = await self._interceptor.on_start(ctx)
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
            raise
        except (trio.Cancelled, GeneratorExit):
            error = ConnectError(Code.CANCELED, "the call was cancelled")
            raise
        finally:
            await self._interceptor.on_end(token, ctx, error)
