"""The fast path for unary Connect calls, at a tenth of the cost of connectrpc's application.

The answers are the same, except for the white space of JSON, a `content-length`, and that short ones are not
compressed, as gzip makes most of them longer. The fast path takes plain calls: a POST of proto or JSON whose
headers are all valid. Every other call goes to connectrpc's application, before anything of its body has been
read: `UnaryMethod.call` decides.

May touch: what it is given, and connectrpc's inner parts, to whose minor version the package is held.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, cast

import attrs
import trio
from connectrpc._compression import negotiate_compression
from connectrpc._protocol import ConnectWireError, host_to_server_address
from connectrpc._server_shared import EndpointServerStream, EndpointUnary
from connectrpc._shared import decompress, message_too_large_error
from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.compression import Compression
from connectrpc.errors import ConnectError
from connectrpc.method import MethodInfo
from connectrpc.request import Headers
from connectrpc.server import ConnectASGIApplication
from google.protobuf.message import Message

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import (
    AT_ONCE,
    CANCEL_ON_DISCONNECT,
    DEADLINE,
    App,
    ClientDisconnectedError,
    HeaderList,
    Receive,
    Scope,
    Send,
    send_response,
)
from cpg_trio.rpc.codecs import CODECS, CheckedCodec, UnreadableError
from cpg_trio.rpc.context import Context
from cpg_trio.rpc.hardening import Forgetting, OnUnreadable
from cpg_trio.rpc.room import Place

if TYPE_CHECKING:
    from collections.abc import Coroutine

_log = logging.getLogger(__name__)

_OK = 200
_LONGEST_TIMEOUT = 10  # digits
_ANSWER_S = 1.0  # for an answer that is sent in spite of a cancellation, as in connectrpc
_SHORT = 128  # bytes: what is not compressed
_COPIES = 2  # of a message that there are at once: as it is sent, and in a write with the head
_NO_HEADERS = Headers()
_TYPES = {f"application/{name}".encode(): name for name in CODECS}


def endpoints_of(service: object, app: App) -> Mapping[str, object]:
    """Return the endpoints of a service's application, by path. There are none if it is not connectrpc's."""
    if not isinstance(app, ConnectASGIApplication) or app._service is not service:  # noqa: SLF001 - here and
        return {}  # below, see the module's docstring
    return app._resolve_endpoints(service)  # noqa: SLF001


def unary_methods(
    app: App, endpoints: Mapping[str, object], on_unreadable: OnUnreadable
) -> dict[str, UnaryMethod]:
    """Return the unary methods of a service's application with these endpoints, by path.

    There are none if it is not connectrpc's, has codecs of its own, or has interceptors that must run before
    the body is read.
    """
    if (
        not isinstance(app, ConnectASGIApplication)
        or any(not isinstance(each, Forgetting) for each in app._metadata_interceptors)  # noqa: SLF001
        or not all(isinstance(codec, CheckedCodec) for codec in app._codecs.values())  # noqa: SLF001
    ):
        return {}
    return {
        path: UnaryMethod(endpoint, app._compressions, app._read_max_bytes, on_unreadable)  # noqa: SLF001
        for path, endpoint in endpoints.items()
        if isinstance(endpoint, EndpointUnary)
    }


def paths_of_messages(endpoints: Mapping[str, object]) -> set[str]:
    """Return the paths of the methods whose request is one message, not a stream."""
    return {
        path
        for path, endpoint in endpoints.items()
        if isinstance(endpoint, EndpointUnary | EndpointServerStream)
    }


@attrs.frozen
class UnaryMethod:
    """A method, with the settings of its application."""

    endpoint: EndpointUnary[Any, Any]
    compressions: dict[str, Compression]
    max_bytes: int | None
    """Of a request, also when it is decompressed; None is no limit."""
    on_unreadable: OnUnreadable

    def call(self, scope: Scope) -> UnaryCall | None:
        """Return the call, or None if connectrpc's application has to answer it."""
        headers = scope["headers"]
        if scope["method"] != "POST" or not b"".join([value for _, value in headers]).isascii():
            return None
        fields = dict(reversed(headers))  # the first of those that have the same name
        content_type = fields.get(b"content-type", b"")
        codec = _TYPES.get(content_type) or _TYPES.get(content_type.partition(b";")[0].strip().lower())
        packing = self.compressions.get((fields.get(b"content-encoding") or b"identity").decode())
        timeout = fields.get(b"connect-timeout-ms", b"")
        if (
            codec is None
            or packing is None
            or fields.get(b"connect-protocol-version", b"1") != b"1"
            or (timeout and (len(timeout) > _LONGEST_TIMEOUT or not timeout.isdigit()))
        ):
            return None
        context = UnaryContext(self.endpoint.method, scope, fields, int(timeout) if timeout else None)
        return UnaryCall(self, context, CODECS[codec], packing, fields.get(b"accept-encoding"))


class UnaryContext(Context):
    """The context of a call. Its parts are made when they are used, which most methods do not."""

    def __init__(
        self,
        method: MethodInfo[Any, Any],
        scope: Scope,
        fields: Mapping[bytes, bytes],
        timeout_ms: int | None,
    ) -> None:
        super().__init__(
            method=method, http_method="POST", request_headers=_NO_HEADERS, timeout_ms=timeout_ms
        )
        self._scope = scope
        self._fields = fields
        self._call_state = scope.get("state") or self._call_state
        self.deadline: float = math.inf
        """When the server cancels the call, on Trio's clock, if it does that."""
        self.given_ms = timeout_ms
        """Milliseconds that the client gave the call; `timeout_ms` is what is left of them."""

    @cached_property
    def _received(self) -> Headers:
        return Headers([(name.decode(), value.decode()) for name, value in self._scope["headers"]])

    @property
    def request_headers(self) -> Headers:
        return self._received

    @property
    def server_address(self) -> str | None:
        return host_to_server_address(self._received.get("host"), self._scope.get("scheme", "http"))

    @property
    def client_address(self) -> str | None:
        client = self._scope.get("client")
        return f"{client[0]}:{client[1]}" if client else None

    def cancel_on_disconnect(self) -> bool:
        """Ask the server to cancel this task when the client leaves; return whether it does that."""
        extension = self._scope.get("extensions", {}).get(CANCEL_ON_DISCONNECT)
        if extension is None:
            return False
        extension["request"]()
        return True

    def cancel_at(self, deadline: float) -> bool:
        """Ask the server to cancel this task at a time; return whether it does that."""
        extension = self._scope.get("extensions", {}).get(DEADLINE)
        if extension is None:
            return False
        extension["set"](deadline)
        self.deadline = deadline
        return True

    @property
    def is_at_once(self) -> bool:
        """Whether the method does not wait, and runs in no task (`asgi.AT_ONCE`)."""
        return AT_ONCE in self._scope.get("extensions", ())

    def answered(self) -> HeaderList:
        """Return the headers and trailers that the method has set, as a response carries them."""
        headers, trailers = self._response_headers, self._response_trailers
        found = [(k.encode(), v.encode()) for k, v in headers.allitems()] if headers else []
        if trailers:
            found += [(f"trailer-{k}".encode(), v.encode()) for k, v in trailers.allitems()]
        return found


@attrs.define(eq=False)  # frozen, it would take twice the time to make one
class UnaryCall:
    """One call: its method, its context, its codec and compression."""

    method: UnaryMethod
    context: UnaryContext
    codec: Codec[Any, Any]
    packing: Compression
    """How the request is compressed."""
    accepts: bytes | None
    """The client's `accept-encoding`."""

    async def answer(self, receive: Receive, send: Send, place: Place) -> None:
        """Read the request, run the method, and answer, with room for both messages.

        Raises: ClientDisconnectedError; an interceptor's error that is no ConnectError, after the client has
        got the answer that connectrpc gives then.
        """
        try:
            content = await self._content_in_time(receive, place)
        except ClientDisconnectedError:
            raise
        except Exception as error:
            with suppress(ClientDisconnectedError):  # it would take the place of the error
                await self._fail(send, error)
            if not isinstance(error, ConnectError):
                raise
        except (trio.Cancelled, BaseExceptionGroup):
            # The cancellation goes on, but a client that is still there gets an answer.
            with trio.move_on_after(_ANSWER_S, shield=True), suppress(Exception):
                await self._fail(send, self._cancelled())
            raise
        else:
            await self._succeed(send, content)

    def _cancelled(self) -> ConnectError:
        """Return why the call was cancelled: its time is over, or somebody has ended it."""
        if trio.current_time() >= self.context.deadline:
            return ConnectError(Code.DEADLINE_EXCEEDED, "Request timed out")
        return ConnectError(Code.CANCELED, "Request was cancelled")

    async def _succeed(self, send: Send, content: bytes) -> None:
        packing = self.method.compressions["identity"]
        if self.accepts and len(content) > _SHORT:
            packing = negotiate_compression(self.accepts.decode(), self.method.compressions)
        headers = _fields_of(self.codec.name(), packing.name()) + self.context.answered()
        await send_response(send, _OK, packing.compress(content), headers)

    async def _fail(self, send: Send, error: Exception) -> None:
        wire_error = ConnectWireError.from_exception(error)
        headers = [(b"content-type", b"application/json"), *self.context.answered()]
        await send_response(send, wire_error.to_http_status().code, wire_error.to_json_bytes(), headers)

    async def _content_in_time(self, receive: Receive, place: Place) -> bytes:
        """Return the answer's content. Raises: ConnectError `deadline_exceeded` after the client's time."""
        if self.context.given_ms is None:
            return await self._content(receive, place)
        deadline = trio.current_time() + self.context.given_ms / 1000
        if self.context.cancel_at(deadline):
            return await self._content(receive, place)
        try:
            with nullcontext() if self.context.is_at_once else trio.CancelScope(deadline=deadline):
                content = await self._content(receive, place)
                if trio.current_time() < deadline:
                    return content
        except ConnectError:
            if trio.current_time() < deadline:
                raise
        raise ConnectError(Code.DEADLINE_EXCEEDED, "Request timed out")

    async def _content(self, receive: Receive, place: Place) -> bytes:
        request = self._decode(await self._read(receive, place), place)
        if self.context.is_at_once:
            response = self._respond_at_once(request)
        elif self.context.cancel_on_disconnect():
            response = await self.method.endpoint.function(request, self.context)
        else:
            response = await self._unless_client_leaves(request, receive)
        content = self.codec.encode(response)
        place.resize(len(content) * _COPIES)
        return content

    def _respond_at_once(self, request: Message) -> Any:
        """Run a method that does not wait. Raises: ConnectError `internal` if it does."""
        method = cast("Coroutine[Any, Any, Any]", self.method.endpoint.function(request, self.context))
        try:
            method.send(None)
        except StopIteration as ended:
            return ended.value
        method.close()
        named = self.context.method
        _log.error("%s/%s has waited, and is to be answered at once", named.service_name, named.name)
        raise ConnectError(Code.INTERNAL, "internal error")

    async def _read(self, receive: Receive, place: Place) -> bytes:
        limit, size = self.method.max_bytes, 0
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnectedError("the client left before the end of its request")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if limit is not None and size > limit:
                raise message_too_large_error(limit)
            place.receive(len(chunks[-1]), 1)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _decode(self, body: bytes, place: Place) -> Message:
        if (
            body and self.packing is not self.method.compressions["identity"]
        ):  # an empty one is never compressed
            body = decompress(self.packing, body, self.method.max_bytes)
        place.decode(len(body), _COPIES)
        try:
            message: Message = self.codec.decode(body, self.method.endpoint.method.input)
        except UnreadableError:
            self.method.on_unreadable(self.context)
            raise
        return message

    async def _unless_client_leaves(self, request: Message, receive: Receive) -> Any:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(_cancel_when_left, nursery.cancel_scope, receive)
            response = await self.method.endpoint.function(request, self.context)
            nursery.cancel_scope.cancel()
            return response
        raise ClientDisconnectedError("the client left before the answer")


@cache
def _fields_of(codec: str, packing: str) -> HeaderList:
    """Return the fields that all responses of an encoding and a compression have. Not to be changed."""
    return [
        (b"content-type", b"application/" + codec.encode()),
        (b"content-encoding", packing.encode()),
        (b"vary", b"Accept-Encoding"),
    ]


async def _cancel_when_left(scope: trio.CancelScope, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
