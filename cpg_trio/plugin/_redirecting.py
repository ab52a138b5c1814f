"""The base of HTTP clients that decide for each request where it goes, and whether it is sent again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias, TypeVar

from cpg_trio.http.outgoing import USUAL_NAMES
from cpg_trio.metadata import is_claim
from cpg_trio.rpc import Duplex, HttpClient, HttpRequest, HttpResponse, WholeResponse

ResponseT = TypeVar("ResponseT", HttpResponse, WholeResponse)
Send: TypeAlias = Callable[[HttpClient, HttpRequest], Awaitable[ResponseT]]
"""Sends a request with a client, and returns the response: whole, or with its head."""
Discard: TypeAlias = Callable[[], Awaitable[None]]


class RedirectingClient(ABC):
    """An `HttpClient` that sends its requests with other clients."""

    def unary(self, request: HttpRequest, max_bytes: int | None) -> Coroutine[Any, Any, WholeResponse]:
        """See `HttpClient.unary`."""
        return self._send(request, lambda http, sent: http.unary(sent, max_bytes), _nothing_to_discard)

    @asynccontextmanager
    async def stream(self, request: HttpRequest) -> AsyncIterator[HttpResponse]:
        """See `HttpClient.stream`."""
        async with AsyncExitStack() as stack:
            yield await self._send(
                request, lambda http, sent: stack.enter_async_context(http.stream(sent)), stack.aclose
            )

    @abstractmethod
    def duplex(self, request: HttpRequest) -> AbstractAsyncContextManager[Duplex]:
        """See `DuplexClient.duplex`. The request is sent once."""

    @abstractmethod
    async def _send(self, request: HttpRequest, send: Send[ResponseT], discard: Discard) -> ResponseT:
        """Send a request with `send`, once or several times; return the response that counts.

        `discard` gives up a response that does not count.
        """


async def _nothing_to_discard() -> None:
    """Discard a response that has arrived whole."""


_NO_CLAIMS = frozenset(name.decode() for name in USUAL_NAMES if not is_claim(name))


def redirected(request: HttpRequest, url: str, proof: Mapping[str, str]) -> HttpRequest:
    """Return a request for another URL, with the fields of `proof` instead of what the request claims."""
    headers = request.headers
    if not dict(headers).keys() <= _NO_CLAIMS:  # which they are in most calls
        headers = [field for field in headers if not is_claim(field[0].encode("latin-1", "replace"))]
    return HttpRequest(request.method, url, [*headers, *proof.items()], request.body)
