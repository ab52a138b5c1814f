"""One HTTP exchange: the seam between the Connect client and whatever carries it.

`Exchange` is all that the client asks for. One that is a `UnaryExchange` as well saves the client of a unary
call what a response costs that could be a stream. `HttpxExchange` is the general one, over any
`httpx.AsyncClient`.
An exchange adds no timeout to a body: how long a call may take is the caller's to say, by a deadline or a
cancel scope.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

import attrs
import httpx
from connectrpc.code import Code
from connectrpc.errors import ConnectError


@attrs.frozen
class HttpRequest:
    """A request. A body that is an iterable is streamed, chunk by chunk, as it comes."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes | AsyncIterable[bytes]


@attrs.frozen
class HttpResponse:
    """A response whose head has arrived. `headers` have lower-case names; `body` is not decompressed."""

    status: int
    headers: list[tuple[str, str]]
    body: AsyncIterator[bytes]

    def header(self, name: str) -> str:
        """Return the first value of a header (`name` in lower case), or an empty string."""
        return _first(self.headers, name)


@attrs.frozen
class WholeResponse:
    """A response that has arrived whole. `headers` have lower-case names; `body` is not decompressed."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """Return the first value of a header (`name` in lower case), or an empty string."""
        return _first(self.headers, name)


def _first(headers: list[tuple[str, str]], name: str) -> str:
    for key, value in headers:
        if key == name:
            return value
    return ""


class Exchange(Protocol):
    """Sends a request; the response is valid, and its connection held, within the block."""

    def __call__(self, request: HttpRequest) -> AbstractAsyncContextManager[HttpResponse]:
        """Open the exchange.

        Raises: ConnectError `unavailable` for what the network does, on entering or while the body is read.
        """
        ...


Fetch: TypeAlias = Callable[[HttpRequest, int | None], Awaitable[WholeResponse]]
"""Sends a request and returns the whole response: `UnaryExchange.unary`, as a function."""


@runtime_checkable
class UnaryExchange(Exchange, Protocol):
    """An exchange that has a shorter way for a response that is wanted whole."""

    async def unary(self, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
        """Send a request; return the response when it has arrived whole.

        `max_bytes` bounds its body, as it travels; None is no bound.
        Raises: ConnectError `resource_exhausted` for a larger one, `unavailable` for what the network does.
        """
        ...


def fetching(exchange: Exchange) -> Fetch:
    """Return an exchange's way to a whole response: its own, or one that reads the body to its end."""
    return exchange.unary if isinstance(exchange, UnaryExchange) else partial(_read_whole, exchange)


async def _read_whole(exchange: Exchange, request: HttpRequest, max_bytes: int | None) -> WholeResponse:
    async with exchange(request) as response:
        return WholeResponse(response.status, response.headers, await read_body(response, max_bytes))


async def read_body(response: HttpResponse, max_bytes: int | None) -> bytes:
    """Read a body to its end. Raises: ConnectError `resource_exhausted` if it has more than `max_bytes`."""
    body = bytearray()
    async for chunk in response.body:
        body += chunk
        if max_bytes is not None and len(body) > max_bytes:
            raise ConnectError(Code.RESOURCE_EXHAUSTED, f"the answer is larger than {max_bytes} bytes")
    return bytes(body)


class HttpxExchange:
    """An exchange over an `httpx.AsyncClient`, which stays the caller's to configure and to close."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        # httpx gives up on a body after five quiet seconds unless told otherwise; a stream may be quiet.
        self._timeout = httpx.Timeout(None, connect=client.timeout.connect, pool=client.timeout.pool)

    @asynccontextmanager
    async def __call__(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        """See `Exchange`."""
        with _mapped_errors():
            sent = self._client.build_request(
                request.method,
                request.url,
                headers=request.headers,
                content=request.body,
                timeout=self._timeout,
            )
            response = await self._client.send(sent, stream=True, follow_redirects=False)
        try:
            headers = [(key.lower(), value) for key, value in response.headers.multi_items()]
            async with aclosing(_raw_body(response)) as body:
                yield HttpResponse(response.status_code, headers, body)
        finally:
            await response.aclose()


async def _raw_body(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    with _mapped_errors():
        async with aclosing(response.aiter_raw()) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConnectError(Code.INVALID_ARGUMENT, f"invalid URL: {error}") from error
    except UnicodeEncodeError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, "a URL or a header is not ASCII") from error
    except (httpx.HTTPError, httpx.StreamError, OSError, ssl.SSLError) as error:
        what = str(error) or type(error).__name__
        raise ConnectError(Code.UNAVAILABLE, f"no answer: {what}") from error
