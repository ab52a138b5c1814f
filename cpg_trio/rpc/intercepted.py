"""The interceptors of a client: what its calls pass before they are sent. See `interceptors`.

The methods of a `ServiceClient` that has interceptors are those of `Intercepted`, which calls them, and then
the same client without them. So an interceptor sees one call, however many attempts that takes.

Interceptors of streams are generators. A generator runs in the task that asks for its next message, and
cancel scopes that are open in it would get in the way of those around it. So the messages of a call and
those of its interceptors come from tasks of their own (`_Streamed`).
"""

from __future__ import annotations

import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import attrs
import trio
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import Headers, RequestContext
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.rpc.context import Context
from cpg_trio.rpc.interceptors import Interceptor, around, chained, closing
from cpg_trio.rpc.response import ResponseMetadata, ResponseStream

if TYPE_CHECKING:
    from cpg_trio.rpc.client import CallOptions

_M = TypeVar("_M", bound=Message)
_T = TypeVar("_T")

_LEVELS = {
    0: IdempotencyLevel.UNKNOWN,
    1: IdempotencyLevel.NO_SIDE_EFFECTS,
    2: IdempotencyLevel.IDEMPOTENT,
}
_STREAM_TYPES = {
    (False, False): StreamType.UNARY,
    (True, False): StreamType.CLIENT_STREAM,
    (False, True): StreamType.SERVER_STREAM,
    (True, True): StreamType.BIDI_STREAM,
}


@attrs.frozen
class Sending:
    """The calls of a client that has no interceptors."""

    service_name: str
    timeout_s: float | None
    """The time of a call that does not say another, in seconds."""
    unary: Callable[..., Awaitable[Any]]
    client_stream: Callable[..., Awaitable[Any]]
    server_stream: Callable[..., AbstractAsyncContextManager[ResponseStream[Any]]]
    bidi_stream: Callable[..., AbstractAsyncContextManager[ResponseStream[Any]]]


@attrs.frozen
class _Call:
    """What a call is besides its request and its headers."""

    returns: type[Message]
    options: CallOptions
    traits: Mapping[str, Any]
    until: float
    """The end of the call's own time, on Trio's clock; infinite without one."""


class ClientContext(Context):
    """The context of a call that is made. `caller` is None: that is this program itself.

    `request_headers` are all that the author sends, and are sent as an interceptor leaves them. The headers
    and trailers of the response are those of the latest answer. `timeout_ms` is the time until the nearest
    deadline.
    """

    nursery: trio.Nursery
    """Of a call with a stream of responses."""

    def __init__(self, method: MethodInfo[Any, Any], headers: Headers, call: _Call) -> None:
        super().__init__(method=method, http_method="POST", request_headers=headers)
        self.call = call
        self.metadata: ResponseMetadata = call.options.get("metadata", ResponseMetadata())
        self.begun: trio.Event = trio.Event()
        """Set when a stream of responses has begun."""

    @property
    def response_headers(self) -> Headers:
        return self.metadata.headers

    @property
    def response_trailers(self) -> Headers:
        return self.metadata.trailers

    @property
    def timeout_ms(self) -> float | None:
        deadline = min(self.call.until, trio.current_effective_deadline())
        return None if deadline == math.inf else (deadline - trio.current_time()) * 1000

    def options(self, **other: Any) -> CallOptions:
        """Return the options with which the call is sent as it is now."""
        changed = {**self.call.options, "headers": self.request_headers, "metadata": self.metadata, **other}
        return cast("CallOptions", changed)


class Intercepted:
    """Calls of a client that pass its interceptors. `headers` are those that it sends with every call."""

    def __init__(
        self, interceptors: Sequence[Interceptor], headers: Mapping[str, str], sending: Sending
    ) -> None:
        self._sending = sending
        self._headers = headers
        self._methods: dict[str, MethodInfo[Any, Any]] = {}
        chain = [around(each) for each in interceptors]
        self._unary = chained(chain, "intercept_unary", self._send_unary)
        self._client_stream = chained(chain, "intercept_client_stream", self._send_client_stream)
        self._server_stream = chained(chain, "intercept_server_stream", self._send_server_stream)
        self._bidi_stream = chained(chain, "intercept_bidi_stream", self._send_bidi_stream)

    async def unary(
        self, method: str, request: Message, returns: type[_M], options: CallOptions, **traits: Any
    ) -> _M:
        """Call a method. The enclosing cancel scope has the deadline."""
        ctx = self._context(method, _Call(returns, options, traits, math.inf))
        return _checked(await self._unary(request, ctx), returns)

    async def client_stream(
        self,
        method: str,
        requests: AsyncIterable[Message],
        returns: type[_M],
        options: CallOptions,
        **traits: Any,
    ) -> _M:
        """Call a method with a stream of requests."""
        ctx = self._context(method, _Call(returns, options, traits, self._until(options)))
        async with closing(aiter(requests)) as given:
            return _checked(await self._client_stream(given, ctx), returns)

    @asynccontextmanager
    async def server_stream(
        self, method: str, request: Message, returns: type[_M], options: CallOptions, **traits: Any
    ) -> AsyncIterator[ResponseStream[_M]]:
        """Call a method that returns a stream. The block begins when there is an answer."""
        ctx = self._context(method, _Call(returns, options, traits, self._until(options)))
        async with open_plain_nursery() as ctx.nursery:
            responses = _Streamed[_M](ctx.nursery, self._server_stream(request, ctx), ctx.begun)
            await ctx.begun.wait()
            responses.check()
            yield ResponseStream(responses, ctx.metadata)
            ctx.nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def bidi_stream(
        self,
        method: str,
        requests: AsyncIterable[Message],
        returns: type[_M],
        options: CallOptions,
        **traits: Any,
    ) -> AsyncIterator[ResponseStream[_M]]:
        """Call a method that streams both ways. The block begins at once."""
        ctx = self._context(method, _Call(returns, options, traits, self._until(options)))
        async with closing(aiter(requests)) as given, open_plain_nursery() as ctx.nursery:
            responses = _Streamed[_M](ctx.nursery, self._bidi_stream(given, ctx), ctx.begun)
            yield ResponseStream(responses, ctx.metadata)
            ctx.nursery.cancel_scope.cancel()

    # Behind the last interceptor

    async def _send_unary(self, request: Message, ctx: RequestContext[Any, Any]) -> Any:
        # The scope around the interceptors has the time of the call.
        return await _sent(self._sending.unary, request, ctx, timeout_s=None)

    async def _send_client_stream(
        self, requests: AsyncIterator[Message], ctx: RequestContext[Any, Any]
    ) -> Any:
        return await _sent(self._sending.client_stream, requests, ctx)

    def _send_server_stream(self, request: Message, ctx: RequestContext[Any, Any]) -> AsyncIterator[Message]:
        sent = _sent(self._sending.server_stream, request, ctx)
        return _Streamed(_own(ctx).nursery, _responses(sent, _own(ctx).begun))

    def _send_bidi_stream(
        self, requests: AsyncIterator[Message], ctx: RequestContext[Any, Any]
    ) -> AsyncIterator[Message]:
        sent = _sent(self._sending.bidi_stream, requests, ctx)
        return _Streamed(_own(ctx).nursery, _responses(sent, _own(ctx).begun))

    # What a call is given

    def _context(self, method: str, call: _Call) -> ClientContext:
        known = self._methods.get(method)
        if known is None:
            known = self._methods[method] = _method(self._sending.service_name, method, call.returns)
        headers = Headers(self._headers)
        given = call.options.get("headers", {})
        for name in given:
            headers.pop(name, None)
        for name, value in given.allitems() if isinstance(given, Headers) else given.items():
            headers.add(name, value)
        return ClientContext(known, headers, call)

    def _until(self, options: CallOptions) -> float:
        timeout_s = options.get("timeout_s", self._sending.timeout_s)
        return math.inf if timeout_s is None else trio.current_time() + timeout_s


class _Streamed(Generic[_T]):
    """Messages that a task reads from a stream, from now on and one at a time. The first sets `begun`."""

    def __init__(
        self, nursery: trio.Nursery, stream: AsyncIterator[_T], begun: trio.Event | None = None
    ) -> None:
        self._send, self._receive = trio.open_memory_channel[_T](0)
        self._scope = trio.CancelScope()
        self._begun = trio.Event() if begun is None else begun
        self._ended = trio.Event()
        self._error: Exception | None = None
        nursery.start_soon(self._run, stream)

    def __aiter__(self) -> AsyncIterator[_T]:
        return self

    async def __anext__(self) -> _T:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            self.check()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Read no more, and wait until the stream is closed."""
        self._scope.cancel()
        await self._ended.wait()

    def check(self) -> None:
        """Raise the error with which the stream has ended, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _run(self, stream: AsyncIterator[_T]) -> None:
        try:
            with self._scope, self._send:
                async with closing(stream) as messages:
                    async for message in messages:
                        self._begun.set()
                        await self._send.send(message)
        except Exception as error:  # noqa: BLE001 - it is raised to whoever asks for the next message
            self._error = error
        finally:
            self._begun.set()
            self._ended.set()


def _method(service_name: str, name: str, returns: type[Message]) -> MethodInfo[Any, Any]:
    """Return what is known of a method by its descriptor, which generated code always has."""
    pool: Any = returns.DESCRIPTOR.file.pool
    method: Any = pool.FindServiceByName(service_name).methods_by_name[name]
    return MethodInfo(
        name=name,
        service_name=service_name,
        input=GetMessageClass(method.input_type),
        output=returns,
        idempotency_level=_LEVELS[method.GetOptions().idempotency_level],
        stream_type=_STREAM_TYPES[method.client_streaming, method.server_streaming],
    )


def _sent(send: Callable[..., _T], request: object, ctx: RequestContext[Any, Any], **other: Any) -> _T:
    """Send a call as it is after the last interceptor."""
    own = _own(ctx)
    return send(own.method.name, request, own.call.returns, own.options(**other), **own.call.traits)


async def _responses(
    sent: AbstractAsyncContextManager[ResponseStream[_M]], begun: trio.Event
) -> AsyncGenerator[_M, None]:
    async with sent as stream:
        begun.set()
        async for response in stream:
            yield response


def _own(ctx: RequestContext[Any, Any]) -> ClientContext:
    if not isinstance(ctx, ClientContext):
        raise TypeError(
            f"an interceptor passes on the context that it was given, and not a {type(ctx).__name__}"
        )
    return ctx


def _checked(response: object, returns: type[_M]) -> _M:
    if not isinstance(response, returns):
        raise TypeError(f"an interceptor returned {type(response).__name__}, not {returns.__name__}")
    return response
