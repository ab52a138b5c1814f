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


class _Claims(dict[str, bool]):
    """Which fields are not for a caller to send, by name. It keeps usual names only."""

    def __init__(self) -> None:
        super().__init__()
        self.update({name.decode(): is_claim(name) for name in USUAL_NAMES})

    def __missing__(self, name: str) -> bool:
        return is_claim(name.encode("latin-1", "replace"))


_CLAIMS = _Claims()


def redirected(request: HttpRequest, url: str, proof: Mapping[str, str]) -> HttpRequest:
    """Return a request for another URL, with the fields of `proof` instead of what the request claims."""
    headers = [field for field in request.headers if not _CLAIMS[field[0]]]
    headers += proof.items()
    return HttpRequest(request.method, url, headers, request.body)
