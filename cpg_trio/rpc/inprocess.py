"""An httpx transport that calls an ASGI application in this process, without a socket, and streams.

`httpx.ASGITransport` runs the application to its end before it returns, so a stream arrives when it is over.
Here each request runs the application as a task of the transport's own nursery; the response is returned as
soon as it starts, and chunks pass one at a time (a slow reader holds the application up, as a socket would).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import trio

from cpg_trio._transport import NurseryTransport
from cpg_trio.asgi import App, ClientDisconnectedError, Message, ResponseAbortedError, Scope
from cpg_trio.call_context import received, serving

_log = logging.getLogger(__name__)


class AsgiTransport(NurseryTransport):
    """Connects an `httpx.AsyncClient` to an ASGI application.

    Enter it (or the client that it is given to) to open its nursery; leaving cancels what still runs.
    The application is treated as by a server: its unexpected exceptions are logged and become a bare 500, or
    a broken response if that had begun, and it gets `http.disconnect` when the client leaves.
    """

    def __init__(self, app: App, client: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__()
        self._app = app
        self._client = client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Run the application for a request; return when its response starts."""
        if self._nursery is None:
            raise RuntimeError("use the client (or the transport) as a context manager")
        exchange = _Exchange(request)
        self._nursery.start_soon(exchange.run, self._app, self._scope(request))
        try:
            return await exchange.response()
        except BaseException:
            exchange.disconnect()
            raise

    def _scope(self, request: httpx.Request) -> Scope:
        raw_path, _, query = request.url.raw_path.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": [(key.lower(), value) for key, value in request.headers.raw],
            "client": self._client,
            "server": (request.url.host, request.url.port),
            "extensions": {},
            "state": {},
        }


class _Exchange:
    """One request and its response, between the caller's task and the application's."""

    def __init__(self, request: httpx.Request) -> None:
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise TypeError("the body of an asynchronous request is an asynchronous stream")
        self._request_body = aiter(request.stream)
        self._request_done = False
        self._head = trio.Event()
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._request_id = b""
        self._reading = trio.CancelScope()
        self._gone = trio.Event()
        self._broken = False
        self._send_chunk, self._chunks = trio.open_memory_channel[bytes](0)

    async def run(self, app: App, scope: Scope) -> None:
        """Run the application to its end, as a server would."""
        with self._send_chunk:
            context = received(scope["headers"])
            self._request_id = context.request_id.encode()
            try:
                with serving(context):
                    await app(scope, self._receive, self._send)
            except Exception as error:  # noqa: BLE001 - what a server does with any application's error
                self._broken = self._head.is_set()
                _report(error)
            if not self._head.is_set():
                self._status = 500
                self._head.set()

    async def response(self) -> httpx.Response:
        """Wait for the response to start."""
        await self._head.wait()
        return httpx.Response(self._status, headers=self._headers, stream=_Body(self))

    async def next_chunk(self) -> bytes | None:
        """Return the response's next chunk, or None at its end."""
        try:
            return await self._chunks.receive()
        except trio.EndOfChannel:
            if self._broken:
                raise httpx.RemoteProtocolError("the application broke its response off") from None
            return None

    def disconnect(self) -> None:
        """Send the application `http.disconnect`."""
        self._gone.set()
        self._reading.cancel()
        self._chunks.close()

    async def _receive(self) -> Message:
        if not self._request_done and not self._gone.is_set():
            self._reading = trio.CancelScope()
            with self._reading:
                chunk = await anext(self._request_body, None)
                self._request_done = chunk is None
                return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [(b"x-request-id", self._request_id), *message.get("headers", ())]
            self._head.set()
        elif body := message.get("body", b""):
            await self._send_body(bytes(body))
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._send_chunk.close()

    async def _send_body(self, body: bytes) -> None:
        try:
            await self._send_chunk.send(body)
        except trio.BrokenResourceError:
            raise ClientDisconnectedError("the client has left") from None


class _Body(httpx.AsyncByteStream):
    """The response's body, for httpx. Closing it early ends the exchange."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._exchange.next_chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self._exchange.disconnect()


def _report(error: Exception) -> None:
    expected = (ClientDisconnectedError, ResponseAbortedError)
    group: Any = error if isinstance(error, ExceptionGroup) else ExceptionGroup("", [error])
    if group.split(expected)[1] is not None:
        _log.error("unexpected exception in the application", exc_info=error)
