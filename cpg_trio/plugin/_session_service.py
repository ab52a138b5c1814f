"""The dependency of a session: as that of a plugin, but its first call waits until the host has told of it.

A plugin requires all before it runs, and has been told of it when it is called. A session may call at once
what it has just required.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs

from cpg_trio.plugin._redirecting import Discard, RedirectingClient, ResponseT, Send
from cpg_trio.plugin._required_service import RequiredService
from cpg_trio.plugin._session import SessionProvider
from cpg_trio.rpc import Duplex, HttpClient, HttpRequest
from cpg_trio.rpc.http_client import send_duplex


class SessionService(RequiredService):
    """A service that a session calls."""

    def _balanced(self, send_to: Callable[[SessionProvider], HttpClient]) -> HttpClient:
        return _AwaitingClient(self, super()._balanced(send_to))


@attrs.frozen
class _AwaitingClient(RedirectingClient):
    """Sends calls once the host has told of their service."""

    dependency: SessionService
    http: HttpClient

    @asynccontextmanager
    async def duplex(self, request: HttpRequest) -> AsyncIterator[Duplex]:
        """See `DuplexClient.duplex`."""
        await self.dependency.wait_told()
        async with send_duplex(self.http, request) as duplex:
            yield duplex

    async def _send(
        self,
        request: HttpRequest,
        send: Send[ResponseT],
        discard: Discard,  # noqa: ARG002 - each response counts
    ) -> ResponseT:
        await self.dependency.wait_told()
        return await send(self.http, request)
