"""httpx over a pool: for a program that has both, and wants one set of connections.

A request whose body is small and in memory is sent by whoever asks for it. Any other needs a task to send it
while its response is read, and httpx has no block around the two, which may be in different tasks; so the
whole exchange is a task of the transport's, and what comes of the response is handed over chunk by chunk.

May touch: the pool that it is given.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import cast

import httpx
import trio

from cpg_trio._transport import NurseryTransport
from cpg_trio.asgi import HeaderList
from cpg_trio.http.client.connection import Exchange, Response
from cpg_trio.http.client.errors import (
    ConnectionBrokenError,
    InvalidRequestError,
    NotSentError,
    PoolFullError,
    ProtocolError,
    UpstreamError,
)
from cpg_trio.http.client.origin import Origin
from cpg_trio.http.client.pool import Pool
from cpg_trio.http.client.request import ONE_WRITE_BYTES, Request


class PoolTransport(NurseryTransport):
    """Sends the requests of an `httpx.AsyncClient` on the connections of a pool, which stays its owner's.

    Of the timeouts of a request `connect` and `read` hold. `read` is for each part of a body, and for the
    head of a response if the request goes out at once; a stream that goes out may take its time.
    Trailers are in the response's extensions, as `trailers`, once the body has been read to its end.

    Raises httpx's errors: UnsupportedProtocol, LocalProtocolError for what cannot be sent, ConnectError and
    ConnectTimeout, ReadError and ReadTimeout, RemoteProtocolError; and what a body's iterator raises, as is.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response when the head has arrived."""
        with _httpx_errors(request):
            origin = _origin_of(request.url.raw_scheme, request.url.raw_host, request.url.port)
            sent = Request(request.method.encode(), request.url.raw_path, request.headers.raw, _body(request))
            timeouts = _Timeouts(request)
            if _goes_out_at_once(request, sent):
                return await self._exchange(origin, sent, timeouts)
            return await self._exchange_in_a_task(origin, sent, timeouts)

    async def _exchange(self, origin: Origin, sent: Request, timeouts: _Timeouts) -> httpx.Response:
        with trio.fail_after(timeouts.connect_s + timeouts.read_s):
            exchange = await self._pool.begin(origin, sent, connect_timeout_s=timeouts.connect_s)
        return _response(exchange.response, lambda trailers: _Body(self._pool, exchange, timeouts, trailers))

    async def _exchange_in_a_task(self, origin: Origin, sent: Request, timeouts: _Timeouts) -> httpx.Response:
        if self._nursery is None:
            raise RuntimeError("a body is streamed inside the client's `async with` block only")
        task = _Task(self._pool, origin, sent)
        self._nursery.start_soon(task.run)
        response = await task.response()
        return _response(response, lambda trailers: _TasksBody(task, timeouts, trailers))


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


def _goes_out_at_once(request: httpx.Request, sent: Request) -> bool:
    return (
        isinstance(sent.body, bytes) and len(sent.body) <= ONE_WRITE_BYTES and "expect" not in request.headers
    )


def _response(response: Response, body: Callable[[HeaderList], httpx.AsyncByteStream]) -> httpx.Response:
    trailers: HeaderList = []
    extensions = {"http_version": b"HTTP/1.1", "reason_phrase": response.reason, "trailers": trailers}
    return httpx.Response(
        response.status, headers=response.headers, stream=body(trailers), extensions=extensions
    )


# The bodies are no generators: httpx leaves one that is not read to its end to the garbage collector.


class _Body(httpx.AsyncByteStream):
    """The body of a response that whoever reads it has the connection of."""

    def __init__(self, pool: Pool, exchange: Exchange, timeouts: _Timeouts, trailers: HeaderList) -> None:
        self._pool = pool
        self._exchange = exchange
        self._timeouts = timeouts
        self._trailers = trailers

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        response = self._exchange.response
        with self._timeouts.reading():
            data = await anext(response, b"")
        if not data:
            self._trailers[:] = response.trailers
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        await self._exchange.end(None, None, None)
        self._pool.give_back(self._exchange.connection)


class _Task:
    """An exchange in a task of its own: what it receives is for whoever has this."""

    def __init__(self, pool: Pool, origin: Origin, sent: Request) -> None:
        self.scope = trio.CancelScope()
        self.trailers: HeaderList = []
        self._pool = pool
        self._origin = origin
        self._sent = sent
        self._response: Response | None = None
        self._decided = trio.Event()
        self._error: Exception | None = ConnectionBrokenError("the client was closed before the answer ended")
        self._send, self._receive = trio.open_memory_channel[bytes](0)

    async def run(self) -> None:
        with self.scope, self._send:
            try:
                await self._exchange()
                self._error = None
            except Exception as error:  # noqa: BLE001 - it is for whoever reads
                self._error = error
            finally:
                self._decided.set()

    async def _exchange(self) -> None:
        async with self._pool.request(self._origin, self._sent) as response:
            self._response = response
            self._decided.set()
            async for data in response:
                await self._send.send(data)
            self.trailers = response.trailers

    async def response(self) -> Response:
        """Wait for the head. Raises: what the exchange does."""
        try:
            await self._decided.wait()
        except BaseException:
            self.scope.cancel()
            raise
        if self._response is None:
            self._raise()
        return cast("Response", self._response)

    async def receive(self) -> bytes:
        """Return a part of the body, or nothing when it has ended. Raises: what the exchange does."""
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            self._raise()
            return b""

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class _TasksBody(httpx.AsyncByteStream):
    """The body of a response that a task receives."""

    def __init__(self, task: _Task, timeouts: _Timeouts, trailers: HeaderList) -> None:
        self._task = task
        self._timeouts = timeouts
        self._trailers = trailers

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with self._timeouts.reading():
            data = await self._task.receive()
        if not data:
            self._trailers[:] = self._task.trailers
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        self._task.scope.cancel()


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
