"""An `HttpClient` that calls an application of this process, without a socket.

A unary call runs in its caller's task as far as the application does (an `AppServer` runs it elsewhere). A
stream has tasks in a nursery that ends with its block: one calls the application, one reads the caller's
body. Both directions go on at the same time, one piece at a time, so that the slower side holds the other
one up.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

import attrs
import trio
from connectrpc.code import Code
from trio_websocket import CloseReason, ConnectionClosed, ConnectionRejected

from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import (
    App,
    ClientDisconnectedError,
    HeaderList,
    Message,
    ResponseAbortedError,
    Scope,
)
from cpg_trio.http import InvalidRequestError, Request, UpstreamError
from cpg_trio.http.client.request import check_request
from cpg_trio.http.outgoing import USUAL_NAMES
from cpg_trio.rpc.faults import CallError, Fault
from cpg_trio.rpc.http_client import (
    Duplex,
    HttpRequest,
    HttpResponse,
    WholeResponse,
    error_of_upstream,
    read_body,
    text_of,
)

_log = logging.getLogger("cpg_trio.http")

_ASGI = {"version": "3.0", "spec_version": "2.4"}
_CHUNKED = (b"transfer-encoding", b"chunked")
_ABNORMAL = 1006  # a close code (RFC 6455, section 7.4.1)
_LONGEST_KEPT_URL = 512  # characters
# Usual fields that say nothing of the connection or of the framing.
_PLAIN = {
    name.decode(): name
    for name in USUAL_NAMES - {b"connection", b"content-length", b"host", b"te", b"transfer-encoding"}
}
_NOTHING: Mapping[str, Any] = {}


class LocalHost(Protocol):
    """The host, for a plugin that runs as a task in its process: no call between them needs a socket."""

    @property
    def http(self) -> AppClient:
        """Sends requests to the host, whatever host their URLs name, as from this plugin."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other hosts have the same directory. They cannot call a plugin without an address."""
        ...

    def serving(self, app: App) -> AbstractAsyncContextManager[str]:
        """Have the host send an application what is called at the URL that this yields.

        When the block is left, no call comes any more, and those in flight finish; a cancellation ends them.
        """
        ...


class AppClient:
    """An `HttpClient` that calls an application of this process, without a socket. Both directions stream.

    `extensions` are those of each call's scope, by which the application may know who calls. `peer` is whose
    failure it is that the application does not answer.
    """

    def __init__(
        self, app: App, extensions: Mapping[str, Any] = _NOTHING, peer: Fault = Fault.PROVIDER
    ) -> None:
        self._app = app
        self._extensions = extensions
        self._peer = peer

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """See `HttpClient`."""
        if not isinstance(request.body, bytes):
            async with self.stream(request) as response:
                return WholeResponse(response.status, response.headers, await read_body(response, max_bytes))
        scope, answer = self._scope(request), _Whole(request.body, max_bytes)
        try:
            await self._app(scope, answer.receive, answer.send)
        except Exception as error:
            if not answer.is_too_large:
                raise self._error_of(error, request) from error
        finally:
            answer.leave()
        return answer.response()

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        """See `HttpClient`."""
        async with self.duplex(request) as duplex:
            yield await duplex.response()

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        """See `DuplexClient`."""
        scope = self._scope(request)
        async with open_plain_nursery() as nursery:
            call = _Streamed(request.body)
            if not isinstance(request.body, bytes):
                nursery.start_soon(call.upload)
            nursery.start_soon(self._run, call, scope, request)
            try:
                yield call
            finally:
                call.leave()
                nursery.cancel_scope.cancel()

    async def _run(self, call: _Streamed, scope: Scope, request: HttpRequest) -> None:
        error: CallError | None = None
        try:
            await self._app(scope, call.receive, call.send)
        except Exception as failed:  # noqa: BLE001 - see `_error_of`
            error = self._error_of(failed, request)
            error.__cause__ = failed
        call.end(error)

    def _error_of(self, error: Exception, request: HttpRequest) -> CallError:
        """Return what an error of the application is to its caller, which is told nothing of a bug in it."""
        if isinstance(error, UpstreamError):
            return error_of_upstream(error, self._peer, self._peer)
        if not isinstance(error, ResponseAbortedError | ClientDisconnectedError):
            _log.error("the application failed on %s", request.url, exc_info=error)
        return CallError(Code.UNAVAILABLE, "no answer: the response was broken off", fault=self._peer)

    def _checked(self, request: HttpRequest, place: _Place) -> HeaderList:
        """Return the fields of a request that is checked. Raises: CallError."""
        body, framing = request.body, _CHUNKED
        if isinstance(body, bytes):
            framing = (b"content-length", b"%d" % len(body))
        try:
            target = request.url.rpartition("://")[2]
            target = target[target.find("/") :] if "/" in target else ""
            fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in request.headers]
            checked = [*fields, (b"host", place.host), framing]
            check_request(Request(request.method.encode("ascii"), target.encode("ascii"), checked, body))
        except (InvalidRequestError, UnicodeEncodeError) as error:
            raise error_of_upstream(error, self._peer, self._peer) from error
        return fields

    @asynccontextmanager
    async def websocket(
        self, url: str, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[LocalWebSocket]:
        """Open a websocket, which is closed when the block is left.

        Raises: trio_websocket.ConnectionRejected if the application refuses it; ConnectFailedError.
        """
        scope = self._scope(HttpRequest("GET", url, list(headers.items()), b""))
        del scope["method"]
        scope.update(type="websocket", subprotocols=list(subprotocols))
        scope["extensions"]["websocket.http.response"] = {}
        async with open_plain_nursery() as nursery:
            socket = LocalWebSocket()
            nursery.start_soon(self._run_websocket, socket, scope)
            try:
                await socket.opened()
                yield socket
            finally:
                socket.leave()
                nursery.cancel_scope.cancel()

    async def _run_websocket(self, socket: LocalWebSocket, scope: Scope) -> None:
        try:
            await self._app(scope, socket.receive, socket.send)
        except UpstreamError as error:
            socket.fail(error)
        socket.end(_ABNORMAL, "the application has ended")

    def _scope(self, request: HttpRequest) -> Scope:
        """Return the scope of a request, which is checked as if it were to go over a network.

        It may go on over one, and its headers may be what somebody else has written. Raises: CallError.
        """
        is_short = len(request.url) <= _LONGEST_KEPT_URL
        place = (_kept_place if is_short else _place)(request.url)
        if not place.is_plain or (fields := _plain_fields(request.headers)) is None:
            fields = self._checked(request, place)
        fields.append((b"host", place.host))
        if isinstance(request.body, bytes):
            fields.append((b"content-length", b"%d" % len(request.body)))
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": "1.1",
            "method": request.method,
            "scheme": place.scheme,
            "path": place.path,
            "raw_path": place.raw_path,
            "query_string": place.query,
            "root_path": "",
            "headers": fields,
            "client": None,
            "server": None,
            "state": {},
            "extensions": {**self._extensions},
        }


@attrs.frozen
class _Place:
    """What a URL means for a call."""

    scheme: str
    host: bytes
    path: str
    raw_path: bytes
    query: bytes
    is_plain: bool
    """Whether it needs no closer look."""


def _place(url: str) -> _Place:
    scheme, _, rest = url.rpartition("://")
    authority, slash, rest = rest.partition("/")
    target = (slash + rest).encode("ascii", "replace")
    raw_path, _, query = target.partition(b"?")
    host = authority.encode("ascii", "replace") or b"localhost"
    is_plain = bool(slash) and url.isascii() and url.isprintable() and " " not in url
    return _Place(scheme or "http", host, unquote(raw_path.decode("ascii")), raw_path, query, is_plain)


_kept_place = lru_cache(maxsize=1024)(_place)  # a client calls the same few methods again and again


def _plain_fields(headers: Sequence[tuple[str, str]]) -> HeaderList | None:
    """Return fields as they go on if they are usual ones, so that no more of them need be checked."""
    fields: HeaderList = []
    for name, value in headers:
        known = _PLAIN.get(name)
        if known is None or not (value.isascii() and value.isprintable()) or value != value.strip(" "):
            return None
        fields.append((known, value.encode()))
    return fields


class _Whole:
    """The messages of a call whose request is here and whose response is wanted whole."""

    __slots__ = ("_body", "_has_left", "_head", "_left", "_limit", "_pieces", "_size", "is_too_large")

    def __init__(self, body: bytes, limit: int | None) -> None:
        self._body: bytes | None = body
        self._limit = limit
        self._head: Message = {}
        self._pieces: list[bytes] = []
        self._size = 0
        self.is_too_large = False
        self._has_left = False
        self._left: trio.Event | None = None

    async def receive(self) -> Message:
        if (body := self._body) is not None:
            self._body = None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self._has_left:
            self._left = self._left or trio.Event()
            await self._left.wait()
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        """Note that the caller has left. Few applications wait for that."""
        self._has_left = True
        if self._left is not None:
            self._left.set()

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._head = message
        elif kind == "http.response.body" and (body := message.get("body", b"")):
            self._size += len(body)
            if self._limit is not None and self._size > self._limit:
                self.is_too_large = True
                raise ClientDisconnectedError("the response is larger than its caller takes")
            self._pieces.append(bytes(body))

    def response(self) -> WholeResponse:
        """Return the response. Raises: ConnectError `resource_exhausted`."""
        if self.is_too_large:
            text = f"the answer is larger than {self._limit} bytes"
            raise CallError(Code.RESOURCE_EXHAUSTED, text, fault=Fault.CALLER)
        head = self._head
        return WholeResponse(head["status"], text_of(head.get("headers", [])), b"".join(self._pieces))


class _Streamed:
    """The messages of a call whose request or response goes on while the other one does."""

    def __init__(self, body: object) -> None:
        self._given = body
        self._error: CallError | None = None
        self._head: Message | None = None
        self._has_head = trio.Event()
        self._left = trio.Event()
        self._to_app, self._request = trio.open_memory_channel[bytes](0)
        self._to_caller, self._response = trio.open_memory_channel[bytes](0)
        self._is_last = False

    # In tasks of the caller's

    async def upload(self) -> None:
        """Send the body of the request. Raises: what the body's iterator raises."""
        with self._to_app:
            async for piece in self._given:  # type: ignore[attr-defined] # it is no bytes
                try:
                    await self._to_app.send(piece)
                except trio.BrokenResourceError:
                    return  # the application wants no more of it

    async def response(self) -> HttpResponse:
        """See `Duplex`."""
        await self._has_head.wait()
        if self._head is None:
            assert self._error is not None  # noqa: S101 - one of them is there
            raise self._error
        return HttpResponse(self._head["status"], text_of(self._head.get("headers", [])), self)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece of the response. Raises: ConnectError."""
        try:
            return await self._response.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from self._error.__cause__
            raise StopAsyncIteration from None

    def leave(self) -> None:
        """Note that the caller has left."""
        self._left.set()
        self._response.close()

    def end(self, error: CallError | None) -> None:
        """Note that the application has ended."""
        if not self._is_last:
            self._error = error
        self._to_caller.close()
        self._request.close()
        self._has_head.set()

    # In the application's

    async def receive(self) -> Message:
        if isinstance(self._given, bytes):
            body, self._given = self._given, None
            return {"type": "http.request", "body": body, "more_body": False}
        try:
            return {"type": "http.request", "body": await self._request.receive(), "more_body": True}
        except trio.EndOfChannel:
            if self._given is not None:
                self._given = None
                return {"type": "http.request", "body": b"", "more_body": False}
        except trio.ClosedResourceError:
            pass
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._head = message
            self._has_head.set()
        elif kind == "http.response.body":
            try:
                if body := message.get("body", b""):
                    await self._to_caller.send(bytes(body))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise ClientDisconnectedError("the caller has left") from None
            if not message.get("more_body", False):
                self._is_last = True
                self._to_caller.close()


class LocalWebSocket:
    """A websocket to an application of this process. Its errors are those of trio-websocket."""

    def __init__(self) -> None:
        self.handshake_headers: HeaderList = []
        """Those of the answer to the handshake."""
        self._is_begun = False
        self._answered = trio.Event()
        self._refusal: Exception | None = None
        self._status, self._status_headers = 0, HeaderList()
        self._reason = CloseReason(_ABNORMAL, "")
        self._is_closed = False  # by the application
        self._to_app, self._requests = trio.open_memory_channel[bytes](1)
        self._to_caller, self._updates = trio.open_memory_channel[bytes | str](0)

    async def opened(self) -> None:
        """Wait until the handshake has been answered. Raises: ConnectionRejected; ConnectFailedError."""
        await self._answered.wait()
        if self._refusal is not None:
            raise self._refusal

    async def send_message(self, message: bytes) -> None:
        """Send a binary message. Raises: ConnectionClosed."""
        try:
            await self._to_app.send(message)
        except trio.BrokenResourceError:
            raise ConnectionClosed(self._reason) from None

    async def get_message(self) -> bytes | str:
        """Return the next message. Raises: ConnectionClosed."""
        try:
            return await self._updates.receive()
        except trio.EndOfChannel:
            raise ConnectionClosed(self._reason) from None

    async def ping(self) -> None:
        """Wait for an answer of the application's side, which is this process."""
        await trio.lowlevel.checkpoint()

    def leave(self) -> None:
        """Note that the caller has left."""
        self._to_app.close()
        self._updates.close()

    def fail(self, error: Exception) -> None:
        """Note that there is no application any more."""
        self._refusal = error

    def end(self, code: int, reason: str) -> None:
        """Note that the application has ended."""
        if not self._answered.is_set() and self._refusal is None:
            self._refusal = ConnectionRejected(self._status or 500, tuple(self._status_headers), b"")
        self._answered.set()
        if not self._is_closed:
            self._reason = CloseReason(code, reason)
        self._to_caller.close()
        self._requests.close()

    async def receive(self) -> Message:
        """Return the next message for the application. Called by it."""
        if not self._is_begun:
            self._is_begun = True
            return {"type": "websocket.connect"}
        try:
            return {"type": "websocket.receive", "bytes": await self._requests.receive()}
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return {"type": "websocket.disconnect", "code": 1001}

    async def send(self, message: Message) -> None:
        """Take a message of the application. Called by it."""
        match message["type"]:
            case "websocket.accept":
                self.handshake_headers = list(message.get("headers", ()))
                self._answered.set()
            case "websocket.send":
                data = message.get("bytes")
                try:
                    await self._to_caller.send(message["text"] if data is None else data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    raise ClientDisconnectedError("the caller has left") from None
            case "websocket.close":
                self._is_closed = True
                self._reason = CloseReason(message.get("code", 1000), message.get("reason", ""))
                self._to_caller.close()
            case "websocket.http.response.start":
                self._status, self._status_headers = message["status"], list(message.get("headers", ()))
