"""Interceptors that note what they see. The same ones serve on both sides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs
import trio

from cpg_trio.rpc import ConnectError
from cpg_trio.rpc.interceptors import closing
from tests._gen.echo.v1 import echo_pb2 as pb

Q = TypeVar("Q")
R = TypeVar("R")


@attrs.define
class Noting:
    """Notes how calls of every kind begin and end, and passes everything on."""

    name: str
    notes: list[str]
    contexts: list[Any] = attrs.field(factory=list)

    async def intercept_unary(
        self, call_next: Callable[[Q, Any], Awaitable[R]], request: Q, ctx: Any, /
    ) -> R:
        with self._noting(ctx):
            return await call_next(request, ctx)

    async def intercept_client_stream(
        self,
        call_next: Callable[[AsyncIterator[Q], Any], Awaitable[R]],
        request: AsyncIterator[Q],
        ctx: Any,
        /,
    ) -> R:
        with self._noting(ctx):
            return await call_next(self._requests(request), ctx)

    async def intercept_server_stream(
        self, call_next: Callable[[Q, Any], AsyncIterator[R]], request: Q, ctx: Any, /
    ) -> AsyncIterator[R]:
        with self._noting(ctx):
            async with closing(call_next(request, ctx)) as responses:
                async for response in responses:
                    self.notes.append(f"{self.name} response")
                    yield response

    async def intercept_bidi_stream(
        self,
        call_next: Callable[[AsyncIterator[Q], Any], AsyncIterator[R]],
        request: AsyncIterator[Q],
        ctx: Any,
        /,
    ) -> AsyncIterator[R]:
        with self._noting(ctx):
            async with closing(call_next(self._requests(request), ctx)) as responses:
                async for response in responses:
                    self.notes.append(f"{self.name} response")
                    yield response

    async def _requests(self, requests: AsyncIterator[Q]) -> AsyncIterator[Q]:
        async for request in requests:
            self.notes.append(f"{self.name} request")
            yield request

    @contextmanager
    def _noting(self, ctx: Any) -> Iterator[None]:
        self.contexts.append(ctx)
        self.notes.append(f"{self.name} {ctx.method.name}")
        try:
            yield
        except ConnectError as error:
            self.notes.append(f"{self.name} {error.code.value}")
            raise
        except (trio.Cancelled, GeneratorExit):
            self.notes.append(f"{self.name} left")
            raise
        self.notes.append(f"{self.name} end")


@attrs.define
class NotingMetadata:
    """Notes how calls begin and end, without their messages."""

    notes: list[str]

    async def on_start(self, ctx: Any) -> str:
        self.notes.append(f"start {ctx.method.name} for {ctx.caller.name if ctx.caller else 'nobody'}")
        ctx.response_headers["x-noted"] = "yes"
        return "token"

    async def on_end(self, token: str, _ctx: Any, error: Exception | None, /) -> None:
        said = error.code.value if isinstance(error, ConnectError) else error
        self.notes.append(f"{token} {said}")


def chat(*words: str) -> AsyncIterator[pb.HTTPChatRequest]:
    async def requests() -> AsyncIterator[pb.HTTPChatRequest]:
        for word in words:
            yield pb.HTTPChatRequest(text=word)

    return requests()


def numbers(*values: int) -> AsyncIterator[pb.SumRequest]:
    async def requests() -> AsyncIterator[pb.SumRequest]:
        for value in values:
            yield pb.SumRequest(number=value)

    return requests()
