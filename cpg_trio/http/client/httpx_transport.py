"""httpx over a pool: for a program that has both, and wants one set of connections.

httpx has no block around a request and its response, which may be in different tasks. So a body that has to
be sent while its response is read is sent by a task of the transport's own nursery.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import cast

import httpx
import trio

from cpg_trio._transport import NurseryTransport
from cpg_trio.asgi import HeaderList
from cpg_trio.http.client.errors import (
    ConnectionBrokenError,
    InvalidRequestError,
    NotSentError,
    PoolFullError,
    ProtocolError,
    UpstreamError,
)
from cpg_trio.http.client.exchange import ClientExchange, Response
from cpg_trio.http.client.origin import Origin
from cpg_trio.http.client.pool import Pool
from cpg_trio.http.client.request import ONE_WRITE_BYTES, PreparedRequest, Request

__all__ = ["PoolTransport"]


class PoolTransport(NurseryTransport):
    """Sends the requests of an `httpx.AsyncClient` on the connections of a pool, which stays its owner's.

    Of the timeouts of a request `connect` and `read` hold. `read` is for each part of a response's body, and
    for its head if the request's body is not a stream.
    Trailers are in the response's extensions, as `trailers`, once the body has been read to its end.
    Leaving the client's block ends all exchanges. A body can be streamed within the block only.

    Raises httpx's errors: UnsupportedProtocol, LocalProtocolError for what cannot be sent, ConnectError and
    ConnectTimeout, ReadError and ReadTimeout, RemoteProtocolError; and what a body's iterator raises, as is.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool
        self._exchanges: set[ClientExchange] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response when the head has arrived."""
        with _httpx_errors(request):
            origin = _origin_of(request.url.raw_scheme, request.url.raw_host, request.url.port)
            body = _body(request)
            sent = Request(request.method.encode(), request.url.raw_path, request.headers.raw, body)
            prepared = PreparedRequest.of(sent, origin.host_header)
            timeouts = _Timeouts(request)
            exchange = self._exchange(origin, prepared, timeouts)
            limit_s = math.inf if _is_stream(prepared) else timeouts.connect_s + timeouts.read_s
            self._exchanges.add(exchange)
            try:
                with trio.fail_after(limit_s):
                    response = await exchange.__aenter__()
            except BaseException:
                self._exchanges.discard(exchange)
                raise
        return _response(response, lambda trailers: _Body(exchange, response, timeouts, trailers, self._end))

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """End all exchanges."""
        await super().__aexit__(exc_type, exc, traceback)
        for exchange in list(self._exchanges):
            exchange.fail(ConnectionBrokenError("the client was closed before the answer ended"))
            exchange.abort()  # in case it connects
            self._end(exchange)

    def _exchange(self, origin: Origin, prepared: PreparedRequest, timeouts: _Timeouts) -> ClientExchange:
        if self._nursery is None and _is_stream(prepared):
            raise RuntimeError("a body is streamed inside the client's `async with` block only")
        return ClientExchange(
            self._pool, origin, prepared, connect_timeout_s=timeouts.connect_s, nursery=self._nursery
        )

    def _end(self, exchange: ClientExchange) -> None:
        self._exchanges.discard(exchange)
        exchange.close()


class _Timeouts:
    """How long the parts of an exchange may take, in seconds."""

    def __init__(self, request: httpx.Request) -> None:
        self._request = request
        given = request.extensions.get("timeout", {})
        self.connect_s: float = _or_inf(given.get("connect"))
        self.read_s: float = _or_inf(given.get("read"))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Limit a read, and raise its errors as httpx's."""
        with _httpx_errors(self._request), trio.fail_after(self.read_s):
            yield


def _or_inf(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


@lru_cache(maxsize=256)
def _origin_of(scheme: bytes, host: bytes, port: int | None) -> Origin:
    if scheme not in {b"http", b"https"}:
        raise httpx.UnsupportedProtocol("the URL's scheme is not http or https")
    try:
        return Origin(scheme.decode(), host.decode(), port or (443 if scheme == b"https" else 80))
    except ValueError as error:
        raise httpx.LocalProtocolError(f"not a URL to connect to: {error}") from error


def _body(request: httpx.Request) -> bytes | AsyncIterator[bytes]:
    try:
        return request.content
    except httpx.RequestNotRead:
        return aiter(cast("httpx.AsyncByteStream", request.stream))


def _is_stream(prepared: PreparedRequest) -> bool:
    """Whether sending a request may have to wait for a peer that waits for its response to be read."""
    return prepared.rest is not None or len(prepared.start) > 2 * ONE_WRITE_BYTES


def _response(response: Response, body: Callable[[HeaderList], httpx.AsyncByteStream]) -> httpx.Response:
    trailers: HeaderList = []
    extensions = {"http_version": b"HTTP/1.1", "reason_phrase": response.reason, "trailers": trailers}
    return httpx.Response(
        response.status, headers=response.headers, stream=body(trailers), extensions=extensions
    )


class _Body(httpx.AsyncByteStream):
    """The body of a response. No generator, since httpx leaves one half-way to the garbage collector."""

    def __init__(
        self,
        exchange: ClientExchange,
        response: Response,
        timeouts: _Timeouts,
        trailers: HeaderList,
        on_close: Callable[[ClientExchange], None],
    ) -> None:
        self._exchange = exchange
        self._response = response
        self._timeouts = timeouts
        self._trailers = trailers
        self._on_close = on_close

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with self._timeouts.reading():
            data = await anext(self._response, b"")
        if not data:
            self._trailers[:] = self._response.trailers
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        self._on_close(self._exchange)


@contextmanager
def _httpx_errors(request: httpx.Request) -> Iterator[None]:
    """Raise what goes wrong as httpx's errors, which name the request."""
    try:
        yield
    except httpx.TransportError as error:
        error.request = request
        raise
    except (UpstreamError, InvalidRequestError, trio.TooSlowError) as error:
        raise _httpx_error(error)(
            str(error) or "no answer within the time allowed", request=request
        ) from error


def _httpx_error(error: Exception) -> type[httpx.TransportError]:
    if isinstance(error, PoolFullError):
        return httpx.PoolTimeout
    if isinstance(error, NotSentError):
        timeout = isinstance(error.__cause__, trio.TooSlowError)
        return httpx.ConnectTimeout if timeout else httpx.ConnectError
    if isinstance(error, InvalidRequestError):
        return httpx.LocalProtocolError
    if isinstance(error, ProtocolError):
        return httpx.RemoteProtocolError
    return httpx.ReadTimeout if isinstance(error, trio.TooSlowError) else httpx.ReadError
