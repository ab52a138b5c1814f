"""A router of common parts: an ASGI application on stock Hypercorn that forwards with `httpx.AsyncClient`.

It does what the host's router does for a call: check the two headers that prove the caller, rewrite the path,
replace the proof by the caller's name, and stream both bodies. The environment has the identity and the
provider.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncIterator

import httpx

from cpg_trio.asgi import Receive, Scope, Send

_DROPPED = {b"authorization", b"connection", b"host", b"transfer-encoding", b"x-plugin-runtime-id"}


class StockRouter:
    """The application. It forwards calls below `path` to the provider."""

    def __init__(self, runtime_id: str, token: str, path: str, provider: str) -> None:
        self._runtime_id = runtime_id.encode()
        self._proof = f"Bearer {token}".encode()
        self._path = path
        self._provider = provider
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        self._client = httpx.AsyncClient(limits=limits, timeout=None, trust_env=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])  # Hypercorn goes on without a lifespan
        headers = dict(scope["headers"])
        if headers.get(b"x-plugin-runtime-id") != self._runtime_id or not hmac.compare_digest(
            headers.get(b"authorization", b""), self._proof
        ):
            await _answer(send, 401)
        elif not scope["path"].startswith(self._path):
            await _answer(send, 404)
        else:
            await self._forward(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name not in _DROPPED]
        headers.append((b"x-plugin-caller-id", self._runtime_id))
        url = self._provider + scope["path"].removeprefix(self._path)
        request = self._client.build_request(scope["method"], url, headers=headers, content=_body(receive))
        response = await self._client.send(request, stream=True)
        try:
            kept = [(n.lower(), v) for n, v in response.headers.raw if n.lower() not in _DROPPED]
            await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await response.aclose()


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def app_from_environment() -> StockRouter:
    """Return the application that Hypercorn serves."""
    return StockRouter(*(os.environ[f"STOCK_{name}"] for name in ("RUNTIME_ID", "TOKEN", "PATH", "PROVIDER")))
