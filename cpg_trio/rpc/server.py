"""Services served as one ASGI application.

connectrpc's application speaks the protocols (Connect, gRPC, gRPC-Web; proto and JSON; gzip). What is added
here: several services on one application, a fast path for plain unary calls (`unary`), unexpected exceptions
hidden from the client, and the answers of other implementations to requests that reach no method.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import takewhile
from types import TracebackType
from typing import Any, ClassVar, TypeAlias, TypeVar

import trio
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.interceptor import MetadataInterceptor
from connectrpc.request import RequestContext

from cpg_trio._lines import one_line
from cpg_trio.asgi import (
    AT_ONCE,
    App,
    Message,
    NeedsTaskError,
    Receive,
    ResponseAbortedError,
    Scope,
    Send,
    header,
    no_websocket,
    note_message,
    send_response,
    send_text,
)
from cpg_trio.rpc.context import own_context, scope_of
from cpg_trio.rpc.given import check_service
from cpg_trio.rpc.hardening import COPIES, Forgetting, OnUnreadable, hardened, sendable
from cpg_trio.rpc.interceptors import Interceptor, around, checked_interceptors, closing
from cpg_trio.rpc.room import Place, Room, room_of_process
from cpg_trio.rpc.stubs import Rpc, StubApplication
from cpg_trio.rpc.unary import UnaryMethod, endpoints_of, paths_of_messages, unary_methods

_log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""The default limit of a request of a service, also after decompression."""

_Q = TypeVar("_Q")
_R = TypeVar("_R")
_Given: TypeAlias = RequestContext[Any, Any]


class Service:
    """An implementation of a service. Generated base classes fill in what it has."""

    service_name: ClassVar[str]
    """Fully qualified: `storage.v1.Storage`."""
    rpcs: ClassVar[tuple[Rpc, ...]]
    """Its methods."""

    def application(self, interceptors: Iterable[Interceptor], max_message_bytes: int | None) -> App:
        """Return the ASGI application that serves this implementation."""
        return StubApplication(
            self, self.service_name, self.rpcs, interceptors=interceptors, read_max_bytes=max_message_bytes
        )


def application(
    services: Iterable[Service],
    interceptors: Iterable[Interceptor] = (),
    *,
    max_message_bytes: int | None = MAX_MESSAGE_BYTES,
    room: Room | None = None,
    on_unreadable: OnUnreadable = lambda _: None,
) -> App:
    """Return one ASGI application for several services, each at `/package.Service/Method`.

    A message that is larger than `max_message_bytes`, also when it is decompressed, is refused with
    `resource_exhausted`; None is no limit. An exception of a method that is not a ConnectError is logged, and
    the client gets `internal` and nothing else. Interceptors run outside of that, the first one outermost.
    What they raise is treated likewise. Those of metadata at the front are asked before the body is read.
    All messages share `room`, by default that of the process. `on_unreadable` is called for each message that
    cannot be read, and may raise another ConnectError.
    """
    room = room_of_process() if room is None else room
    chain = _chain(Forgetting(on_unreadable), checked_interceptors(interceptors))
    routes: dict[str, App] = {}
    messages: set[str] = set()  # the paths of methods that are called with one
    unary: dict[str, UnaryMethod] = {}
    for service in services:
        check_service(service)
        app = hardened(service.application(chain, max_message_bytes))
        routes.update({f"/{service.service_name}/{rpc.name}": app for rpc in service.rpcs})
        endpoints = endpoints_of(service, app)
        unary.update(unary_methods(app, endpoints, on_unreadable))
        messages |= paths_of_messages(endpoints)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path in messages:
            note_message(scope)
        if scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
        elif (method := unary.get(path)) is not None and (call := method.call(scope)) is not None:
            with room.place(scope) as place:
                await call.answer(receive, send, place)
        elif (app := routes.get(path)) is None:
            await send_text(send, 404, "404 page not found\n")
        elif _lacks_trailers(scope):
            await send_response(send, 415, headers=[(b"accept-post", b"application/json, application/proto")])
        elif (reason := _refusal(scope)) is not None:
            body = json.dumps({"code": Code.INVALID_ARGUMENT.value, "message": reason}).encode()
            await send_response(send, 400, body, [(b"content-type", b"application/json")])
        elif AT_ONCE in scope.get("extensions", ()):
            raise NeedsTaskError
        else:
            with scope_of(scope), room.place(scope) as place:
                await _run(app, scope, receive, send, place)

    return dispatch


def _chain(outermost: Interceptor, interceptors: Sequence[Interceptor]) -> Sequence[Interceptor]:
    """Return all interceptors of an application. What the author's raise is concealed, as of methods."""
    early = [*takewhile(lambda each: isinstance(each, MetadataInterceptor), interceptors)]
    others = [around(each) for each in interceptors[len(early) :]]
    shown = [_Concealing(), *others] if others else []
    return (outermost, *map(_Early, early), *shown, _Concealing())


class _Early:
    """An interceptor of metadata that is asked before the body is read. It is given our context."""

    def __init__(self, interceptor: Interceptor) -> None:
        self._interceptor: Any = interceptor

    async def on_start(self, ctx: _Given) -> Any:
        """See `MetadataInterceptor`."""
        with _Concealed(ctx):
            return await self._interceptor.on_start(own_context(ctx))

    async def on_end(self, token: Any, ctx: _Given, error: Exception | None, /) -> None:
        """See `MetadataInterceptor`."""
        with _Concealed(ctx):
            await self._interceptor.on_end(token, own_context(ctx), error)


async def _run(app: App, scope: Scope, receive: Receive, send: Send, place: Place) -> None:
    """Run a call until it ends or its client leaves, which a stream that only sends would not notice."""
    with trio.CancelScope() as call, place.is_current():

        async def receive_or_leave() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                call.cancel()
            else:
                place.receive(len(message.get("body", b"")), COPIES)
            return message

        async def send_what_fits(message: Message) -> None:
            try:
                with place.also(len(message.get("body", b"")) * COPIES):
                    await send(message)
            except ConnectError as error:
                raise ResponseAbortedError(error.message) from None

        await app(scope, receive_or_leave, send_what_fits)


def _lacks_trailers(scope: Scope) -> bool:
    """Whether a call is gRPC from a client that accepts no trailers, which have the status of gRPC."""
    content_type = header(scope, b"content-type") or b""
    is_grpc = content_type.startswith(b"application/grpc") and not content_type.startswith(
        b"application/grpc-web"
    )
    return is_grpc and "http.response.trailers" not in scope.get("extensions", {})


def _refusal(scope: Scope) -> str | None:
    """Return why the headers of a request cannot be a call's; None if they can."""
    try:
        for _, value in scope["headers"]:
            value.decode()
    except UnicodeDecodeError:
        return "a header is not UTF-8"
    if not scope["query_string"].isascii():
        return "the query is not percent-encoded"
    version = (header(scope, b"connect-protocol-version") or b"1").decode()
    if version != "1" and not (header(scope, b"content-type") or b"").startswith(b"application/connect+"):
        return f'Connect-Protocol-Version must be "1": got "{one_line(version)}"'
    return None


class _Concealing:
    """Logs unexpected exceptions, and hides their texts from the client."""

    async def intercept_unary(
        self, call_next: Callable[[_Q, _Given], Awaitable[_R]], request: _Q, ctx: _Given
    ) -> _R:
        with _Concealed(ctx):
            return _checked(await call_next(request, own_context(ctx)), ctx)

    async def intercept_client_stream(
        self,
        call_next: Callable[[AsyncIterator[_Q], _Given], Awaitable[_R]],
        request: AsyncIterator[_Q],
        ctx: _Given,
    ) -> _R:
        with _Concealed(ctx):
            return _checked(await call_next(request, own_context(ctx)), ctx)

    async def intercept_server_stream(
        self, call_next: Callable[[_Q, _Given], AsyncIterator[_R]], request: _Q, ctx: _Given
    ) -> AsyncIterator[_R]:
        with _Concealed(ctx):
            async with closing(call_next(request, own_context(ctx))) as responses:
                async for response in responses:
                    yield _checked(response, ctx)

    async def intercept_bidi_stream(
        self,
        call_next: Callable[[AsyncIterator[_Q], _Given], AsyncIterator[_R]],
        request: AsyncIterator[_Q],
        ctx: _Given,
    ) -> AsyncIterator[_R]:
        with _Concealed(ctx):
            async with closing(call_next(request, own_context(ctx))) as responses:
                async for response in responses:
                    yield _checked(response, ctx)


class _Concealed:
    """The block in which an exception that is not a ConnectError is logged, and becomes `internal`."""

    def __init__(self, ctx: _Given) -> None:
        self._method = ctx.method

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception):
            return
        if isinstance(error, ConnectError):
            if (sent := sendable(error)) is not error:
                raise sent from None
            return
        if (inner := _only_connect_error(error)) is not None:
            raise sendable(inner) from error
        name = f"{self._method.service_name}/{self._method.name}"
        _log.error("unexpected exception in %s", name, exc_info=error)
        raise ConnectError(Code.INTERNAL, "internal error") from error


def _only_connect_error(error: Exception) -> ConnectError | None:
    """Return the ConnectError that a method's nursery has wrapped, if it is the only error."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, ConnectError) else None


def _checked(response: _R, ctx: _Given) -> _R:
    if not isinstance(response, ctx.method.output):
        raise TypeError(
            f"{ctx.method.name} returned {type(response).__name__}, not {ctx.method.output.__name__}"
        )
    if not response.IsInitialized():
        lacking = ", ".join(response.FindInitializationErrors())
        raise ValueError(f"{ctx.method.name} returned a message without fields that it requires: {lacking}")
    return response
