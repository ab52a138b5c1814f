"""What a Connect client sends its requests with.

`HttpClient` is all that a Connect client needs. `HttpxClient` is the general one, over any
`httpx.AsyncClient`; `PoolClient` is the fast one, over a pool of connections. Neither adds a timeout to a
body: the caller decides how long a call may take, by a deadline or a cancel scope.
"""

from __future__ import annotations

import logging
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import attrs
import httpx
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from h2.errors import ErrorCodes

from cpg_trio.asgi import HeaderList
from cpg_trio.http import (
    BodyTooLargeError,
    ConnectFailedError,
    InvalidRequestError,
    LocalFailureError,
    Origin,
    Pool,
    PoolFullError,
    Request,
    Response,
    StreamResetError,
    UnknownNameError,
    UpstreamError,
)
from cpg_trio.http.client.http2 import Http2Exchange
from cpg_trio.http.client.request import PreparedRequest
from cpg_trio.rpc.faults import CallError, Fault
from cpg_trio.rpc.response_code import code_of_end, code_of_head

if TYPE_CHECKING:
    from cpg_trio.calls import Retry

_log = logging.getLogger(__name__)

_LONGEST_KEPT_URL = 512  # characters
_CODE_OF_RESET: Mapping[int, Code] = {
    ErrorCodes.CANCEL: Code.CANCELED,
    ErrorCodes.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


@attrs.frozen
class CallTraits:
    """What is known of a call to whoever chooses its provider, and may send it again."""

    idempotent: bool = False
    """Whether it may run several times, as its method says (`idempotency_level`)."""
    retry: bool | Retry | None = None
    """What the caller says of that; see `CallOptions`. None if nothing."""
    key: str = ""
    """What the provider is chosen by, if it is chosen by a key."""


NO_TRAITS = CallTraits()


def _do_nothing() -> None:
    """Do nothing about a stream that has begun."""


@attrs.frozen
class HttpRequest:
    """A request. A body that is an iterable is streamed chunk by chunk."""

    method: str
    url: str
    headers: list[tuple[str, str]] = attrs.field(repr=False)
    body: bytes | AsyncIterable[bytes]
    call: CallTraits = NO_TRAITS
    """Is not sent."""
    on_begun: Callable[[], None] = attrs.field(default=_do_nothing, repr=False)
    """Called when the first message of a stream has come, by a client that waits for that."""


@attrs.frozen
class HttpResponseHead:
    """The head of a response. `headers` have lower-case names."""

    status: int
    headers: list[tuple[str, str]]

    def header(self, name: str) -> str:
        """Return the first value of a header (`name` in lower case), or an empty string."""
        for key, value in self.headers:
            if key == name:
                return value
        return ""


@attrs.frozen
class HttpResponse(HttpResponseHead):
    """A response whose head has arrived. `body` is not decompressed."""

    body: AsyncIterator[bytes]


@attrs.frozen
class WholeResponse(HttpResponseHead):
    """A response that has arrived whole. `body` is not decompressed."""

    body: bytes


class Duplex(Protocol):
    """A request that is being sent, whose response may come meanwhile."""

    async def response(self) -> HttpResponse:
        """Return the response when its head has arrived. Called once. Raises: ConnectError."""
        ...


class HttpClient(Protocol):
    """Sends requests. What a client of a service stands on; anything with these methods will do."""

    def stream(self, request: HttpRequest) -> AbstractAsyncContextManager[HttpResponse]:
        """Send a request; the block has the response, and the connection, from when its head has arrived.

        Raises: ConnectError `unavailable` for what the network does, on entering or while the body is read.
        """
        ...

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """Send a request; return the response when it has arrived whole.

        `max_bytes` bounds its body, as it travels; None is no bound.
        Raises: ConnectError `resource_exhausted` for a larger one, `unavailable` for what the network does.
        """
        ...


def code_of(response: HttpResponseHead, last: bytes) -> str:
    """Return the code of a response of Connect that has ended; `last` is the last piece of its body."""
    fields = [(b"content-type", response.header("content-type").encode("latin-1", "replace"))]
    return code_of_head(response.status, fields) or code_of_end(response.status, fields, [], last)


@runtime_checkable
class DuplexClient(Protocol):
    """Sends requests whose body goes on while the response comes."""

    def duplex(self, request: HttpRequest) -> AbstractAsyncContextManager[Duplex]:
        """Send a request; the block, which sends its body, begins before there is a response.

        Raises: ConnectError `unavailable` for what the network does, on entering or while the body is read.
        """
        ...


def send_duplex(http: HttpClient, request: HttpRequest) -> AbstractAsyncContextManager[Duplex]:
    """Send a request with a `DuplexClient`, as that does it.

    With any other client, the request is sent when its response is asked for; most transports of httpx then
    send all of it before they read the response.
    """
    return http.duplex(request) if isinstance(http, DuplexClient) else _half_duplex(http, request)


@asynccontextmanager
async def _half_duplex(http: HttpClient, request: HttpRequest) -> AsyncIterator[Duplex]:
    async with AsyncExitStack() as stack:
        yield _HalfDuplex(http, request, stack)


@attrs.frozen
class _HalfDuplex:
    http: HttpClient
    request: HttpRequest
    block: AsyncExitStack

    async def response(self) -> HttpResponse:
        return await self.block.enter_async_context(self.http.stream(self.request))


async def read_body(response: HttpResponse, max_bytes: int | None) -> bytes:
    """Read a body to its end. Raises: ConnectError `resource_exhausted` if it has more than `max_bytes`."""
    body = bytearray()
    async for chunk in response.body:
        body += chunk
        if max_bytes is not None and len(body) > max_bytes:
            text = f"the answer is larger than {max_bytes} bytes"
            raise CallError(Code.RESOURCE_EXHAUSTED, text, fault=Fault.CALLER)
    return bytes(body)


def http_client_of(http: httpx.AsyncClient | Pool | HttpClient) -> HttpClient:
    """Return an `HttpClient` for what a caller has."""
    if isinstance(http, httpx.AsyncClient):
        return HttpxClient(http)
    return PoolClient(http) if isinstance(http, Pool) else http


class HttpxClient:
    """Sends requests with an `httpx.AsyncClient`, which stays the caller's to configure and to close.

    That should speak HTTP/1.1. On HTTP/2, a call that is cancelled or runs out of time while httpx writes
    takes frames of other calls with it, and the server ends their connection. A line of the log says so.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._has_warned = False
        # By default httpx gives up on a body after five silent seconds; a stream may be silent.
        self._timeout = httpx.Timeout(None, connect=client.timeout.connect, pool=client.timeout.pool)

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """See `HttpClient`."""
        async with self.stream(request) as response:
            return WholeResponse(response.status, response.headers, await read_body(response, max_bytes))

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        """See `HttpClient`."""
        errors = _HttpxErrors()
        with errors:
            sent = self._client.build_request(
                request.method,
                request.url,
                headers=request.headers,
                content=request.body if isinstance(request.body, bytes) else errors.of_caller(request.body),
                timeout=self._timeout,
            )
            response = await self._client.send(sent, stream=True, follow_redirects=False)
        if not self._has_warned and response.http_version == "HTTP/2":
            self._has_warned = True
            _log.warning(
                "calls go over HTTP/2 of httpx, where one that is cancelled or runs out of time can end the"
                " connection of all: use a Pool, or httpx with HTTP/1.1"
            )
        try:
            headers = [(key.lower(), value) for key, value in response.headers.multi_items()]
            async with aclosing(_raw_body(response, errors)) as body:
                yield HttpResponse(response.status_code, headers, body)
        finally:
            with errors:
                await response.aclose()


async def _raw_body(response: httpx.Response, errors: _HttpxErrors) -> AsyncGenerator[bytes, None]:
    with errors:
        async with aclosing(response.aiter_raw()) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk


class _HttpxErrors:
    """Raises every exception of an httpx client as a ConnectError.

    It may have any transport, and the usual ones raise more than httpx documents: a bad `:status` on HTTP/2
    is a ValueError. Only an error of the caller's own stream of requests is raised as it is.
    """

    def __init__(self) -> None:
        self._of_caller: Exception | None = None

    async def of_caller(self, body: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield the chunks of the caller's body, and remember its error."""
        try:
            async for chunk in body:
                yield chunk
        except Exception as error:
            self._of_caller = error
            raise

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, Exception) and exc is not self._of_caller and not isinstance(exc, ConnectError):
            raise (_mapped(exc) or _no_answer(exc)) from exc


def _ignore(_: str) -> None:
    """Note nothing."""


class PoolClient:
    """Sends requests on the connections of a pool, which stays the caller's to open and to close.

    `addresses` are where to connect, if not to the URL's host (see `Origin`). `caller` is the caller that the
    pool counts the requests for. `peer` is whose failure it is that it cannot be connected to; a provider is
    also at fault for what goes wrong later, as nobody else stands in between. `connect_timeout_s` is the
    pool's, or less. `unreachable` is told why if nothing can be sent, each time. Calls that stream
    both ways are sent over HTTP/2, on a connection that the calls to an origin share. With `http2` all calls
    are, and if it is False none is: then the answers may come only when all requests have been sent. `caller`
    and `connect_timeout_s` are for HTTP/1.1.
    """

    def __init__(
        self,
        pool: Pool,
        addresses: tuple[str, ...] = ("",),
        caller: str = "",
        peer: Fault = Fault.WAY,
        connect_timeout_s: float | None = None,
        unreachable: Callable[[str], object] = _ignore,
        *,
        http2: bool | None = None,
    ) -> None:
        self._pool = pool
        self._http2 = http2
        self._addresses = addresses
        self._caller = caller
        self._connect_timeout_s = connect_timeout_s
        self._errors = _MappedErrors(peer, peer if peer is Fault.PROVIDER else Fault.WAY, unreachable)

    def stream(self, request: HttpRequest) -> AbstractAsyncContextManager[HttpResponse]:
        """See `HttpClient`."""
        if self._http2:
            return self._stream_over_http2(request)
        with self._errors:
            place = _place(request.url, self._addresses)
            sent = _as_sent(request, place)
            block = self._pool.request(
                place.origin, sent, caller=self._caller, connect_timeout_s=self._connect_timeout_s
            )
            return _PoolBlock(block, self._errors)

    def duplex(self, request: HttpRequest) -> AbstractAsyncContextManager[Duplex]:
        """See `DuplexClient`."""
        if self._http2 is False:
            return _half_duplex(self, request)
        with self._errors:
            place = _place(request.url, self._addresses)
            return _DuplexBlock(self._pool.duplex(place.origin, _as_sent(request, place)), self._errors)

    @asynccontextmanager
    async def _stream_over_http2(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        async with self.duplex(request) as duplex:
            yield await duplex.response()

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """See `HttpClient`."""
        if self._http2:
            async with self.stream(request) as response:
                body = await read_body(response, max_bytes)
            return WholeResponse(response.status, response.headers, body)
        limit = sys.maxsize if max_bytes is None else max_bytes
        with self._errors:
            place = _place(request.url, self._addresses)
            whole = await self._pool.fetch(
                place.origin,
                _prepared(request, place) or _as_sent(request, place),
                max_body_bytes=limit,
                caller=self._caller,
                connect_timeout_s=self._connect_timeout_s,
            )
        return WholeResponse(whole.status, whole.texts(), whole.body)


@attrs.frozen
class _Place:
    """What a URL means for a request."""

    origin: Origin
    host_header: bytes
    host: str
    """The same as text."""
    target: str


def _place(url: str, addresses: tuple[str, ...]) -> _Place:
    """Parse a URL. Short ones are cached, because a client calls the same few again and again."""
    return _kept_place(url, addresses) if len(url) <= _LONGEST_KEPT_URL else _found_place(url, addresses)


def _found_place(url: str, addresses: tuple[str, ...]) -> _Place:
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    try:
        origin, _ = Origin.parse(f"{scheme}://{authority}")
        connect_to = origin.at(addresses)
    except ValueError as error:
        raise CallError(Code.INVALID_ARGUMENT, f"invalid URL: {error}", fault=Fault.CALLER) from error
    host = origin.host_header
    return _Place(connect_to, host, host.decode("latin-1"), slash + path or "/")


_kept_place = lru_cache(maxsize=1024)(_found_place)


def _prepared(request: HttpRequest, place: _Place) -> PreparedRequest | None:
    """Return a request of the usual form as it goes on the wire; None for any other."""
    body = request.body
    if not isinstance(body, bytes):
        return None
    return PreparedRequest.plain(request.method, place.target, place.host, request.headers, body)


def _as_sent(request: HttpRequest, place: _Place) -> Request:
    body = request.body
    if isinstance(body, bytes):
        framing = (b"content-length", b"%d" % len(body))
    else:
        framing = (b"transfer-encoding", b"chunked")
    headers = [(name.encode("ascii"), value.encode("ascii")) for name, value in request.headers]
    return Request(
        request.method.encode(),
        place.target.encode("ascii"),
        [(b"host", place.host_header), framing, *headers],
        body,
    )


def text_of(headers: HeaderList) -> list[tuple[str, str]]:
    """Return the header fields of a response as texts."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


class _PoolBlock:
    """The block of a request. Errors of the network are raised by entering it and by reading the body."""

    def __init__(self, block: AbstractAsyncContextManager[Response], errors: _MappedErrors) -> None:
        self._block = block
        self._errors = errors

    async def __aenter__(self) -> HttpResponse:
        with self._errors:
            response = await self._block.__aenter__()
        return HttpResponse(response.status, text_of(response.headers), _PoolBody(response, self._errors))

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._block.__aexit__(exc_type, exc, traceback)


class _DuplexBlock:
    """The block of a request over HTTP/2. Errors of the network are raised by entering it and by reading."""

    def __init__(self, exchange: Http2Exchange, errors: _MappedErrors) -> None:
        self._exchange = exchange
        self._errors = errors

    async def __aenter__(self) -> Self:
        with self._errors:
            await self._exchange.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._exchange.__aexit__(exc_type, exc, traceback)

    async def response(self) -> HttpResponse:
        """See `Duplex`."""
        with self._errors:
            status, headers = await self._exchange.response()
        return HttpResponse(status, text_of(headers), _PoolBody(self._exchange, self._errors))


class _PoolBody:
    """A response's body, with the errors of an `HttpClient`."""

    def __init__(self, response: Response | Http2Exchange, errors: _MappedErrors) -> None:
        self._response = response
        self._errors = errors

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with self._errors:
            return await anext(self._response)


class _MappedErrors:
    """Raises known errors as a CallError. A class: a generator would cost too much for each read.

    `unconnected` is whose failure it is that there is no connection, `broken` what goes wrong on one.
    `unreachable` is told if there is none.
    """

    def __init__(self, unconnected: Fault, broken: Fault, unreachable: Callable[[str], object]) -> None:
        self._unconnected = unconnected
        self._broken = broken
        self._unreachable = unreachable

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None and (mapped := _mapped(exc, self._unconnected, self._broken)) is not None:
            if isinstance(exc, (ConnectFailedError, UnknownNameError)):
                self._unreachable(mapped.message)
            raise mapped from exc


def error_of_upstream(
    error: UpstreamError | InvalidRequestError | UnicodeEncodeError, unconnected: Fault, broken: Fault
) -> CallError:
    """Return what an error on the way, or of the request, is to a caller. See `_MappedErrors`."""
    return _mapped(error, unconnected, broken) or _no_answer(error, broken)


def _mapped(
    error: BaseException, unconnected: Fault = Fault.WAY, broken: Fault = Fault.WAY
) -> CallError | None:
    fault = Fault.CALLER
    match error:
        case httpx.InvalidURL() | httpx.UnsupportedProtocol():
            code, text = Code.INVALID_ARGUMENT, f"invalid URL: {error}"
        case BodyTooLargeError() | PoolFullError():
            code, text = Code.RESOURCE_EXHAUSTED, str(error)
        case StreamResetError(code=reset) if reset in _CODE_OF_RESET:
            code, text, fault = _CODE_OF_RESET[reset], str(error), broken
        case InvalidRequestError():
            code, text = Code.INVALID_ARGUMENT, str(error)
        case UnicodeEncodeError():
            code, text = Code.INVALID_ARGUMENT, "a URL or a header is not ASCII"
        case LocalFailureError() | httpx.PoolTimeout() | httpx.LocalProtocolError():
            return _no_answer(error, Fault.CALLER)
        case ConnectFailedError():
            return _no_answer(error, unconnected)
        case UpstreamError() | httpx.HTTPError() | httpx.StreamError() | OSError() | ssl.SSLError():
            return _no_answer(error, broken)
        case _:
            return None
    return CallError(code, text, fault=fault)


def _no_answer(error: BaseException, fault: Fault = Fault.WAY) -> CallError:
    return CallError(Code.UNAVAILABLE, f"no answer: {str(error) or type(error).__name__}", fault=fault)
