"""The router's way for calls that do not come through the relay: an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio

from cpg_trio.asgi import (
    ClientDisconnectedError,
    HeaderList,
    Receive,
    ResponseAbortedError,
    Scope,
    Send,
    accepts_trailers,
    header,
    note_proved,
    send_text,
)
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.refusal import PERHAPS_DELIVERED, RefusedError
from cpg_trio.host.routing.failures import refusal_of
from cpg_trio.host.routing.gateway import Router, record_of
from cpg_trio.host.routing.headers import RequestHeaderRules, forwarded_in_request, forwarded_in_response
from cpg_trio.host.routing.routes import Route
from cpg_trio.http import (
    InvalidRequestError,
    Pool,
    Request,
    Response,
    UpstreamError,
    body_too_large,
)
from cpg_trio.rpc import Code

_NO_CONTENT = 204
_METHODS_WITH_BODY = frozenset({"PATCH", "POST", "PUT"})


class AsgiRouter:
    """The ASGI application under `/services/`."""

    def __init__(
        self, router: Router, rules: RequestHeaderRules, pool: Pool, max_body_bytes: int | None = None
    ) -> None:
        self._router = router
        self._rules = rules
        self._pool = pool
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route one call."""
        fields, runtime_id, authorization = forwarded_in_request(scope["headers"], self._rules)
        peer = Peer.of_scope(scope)
        body = _RequestBody(receive, self._max_body_bytes)
        try:
            caller, route, statement = self._router.route(scope["raw_path"], runtime_id, authorization, peer)
            note_proved(scope, caller.runtime_id)
            body.check(int(header(scope, b"content-length") or 0))
        except RefusedError as refused:
            self._router.refuse(refused)
            await send_text(send, refused.status, f"{refused.plain}\n", refused.fields)
            return
        fields = [(b"host", route.host), *fields, *statement.fields]
        await _Call(route, caller.runtime_id, self._router, fields, self._pool, scope, body, send).run()


class _Call:
    """One call in flight. It ends when its answer has been passed on, or when either side is gone."""

    def __init__(
        self,
        route: Route,
        caller: str,
        router: Router,
        fields: HeaderList,
        pool: Pool,
        scope: Scope,
        body: _RequestBody,
        send: Send,
    ) -> None:
        self._route = route
        self._router = router
        self._record = record_of(route, caller, scope["http_version"])
        self._fields = fields
        self._pool = pool
        self._scope = scope
        self._send = send
        self._body = body
        self._responding = False

    async def run(self) -> None:
        lease = trio.CancelScope()
        self._router.begin(self._record, lease)
        try:
            with lease:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch_caller, nursery.cancel_scope)
                    await self._relay()
                    nursery.cancel_scope.cancel()
            if lease.cancelled_caught:
                await self._fail(None)
        finally:
            self._router.end(self._record, lease)
        if self._record.failure and self._responding:
            raise ResponseAbortedError(self._record.failure)

    async def _watch_caller(self, call: trio.CancelScope) -> None:
        await self._body.wait_gone()
        call.cancel()

    async def _relay(self) -> None:
        """Pass the call on and its answer back."""
        try:
            route, request = self._route, await self._request()
            async with self._pool.request(route.origin, request, caller=self._record.caller) as response:
                await self._respond(response)
        except ClientDisconnectedError:
            pass
        except RefusedError as refused:  # of a body that the provider has had a part of
            self._record.failure, self._record.status = refused.plain, refused.status
            if not self._responding:
                await send_text(self._send, refused.status, f"{refused.plain}\n", PERHAPS_DELIVERED)
        except InvalidRequestError as error:
            self._record.succeed(400)
            await send_text(self._send, 400, f"{error}\n", PERHAPS_DELIVERED)
        except UpstreamError as error:
            await self._fail(error)

    async def _fail(self, error: UpstreamError | None) -> None:
        """Note a failure for the log, and answer with it unless there is an answer already."""
        failure = self._router.failure(self._record, error)
        self._record.failure, self._record.status = failure.why, failure.status
        if not self._responding:
            await send_text(self._send, failure.status, f"{failure.text}\n", failure.fields)

    async def _request(self) -> Request:
        headers = list(self._fields)
        if accepts_trailers(self._scope["headers"]):
            headers.append((b"te", b"trailers"))
        method = self._scope["method"]
        body: AsyncIterator[bytes] | bytes = self._body
        length = header(self._scope, b"content-length")
        if length is None and await self._has_body(method):
            headers.append((b"transfer-encoding", b"chunked"))
        elif length is None or not int(length):
            await self._body.peek()  # only after the end of the body is a departure seen
            body = b""
            if length is None and method in _METHODS_WITH_BODY:
                headers.append((b"content-length", b"0"))
        query, target = self._scope["query_string"], self._route.target
        return Request(method.encode(), target + b"?" + query if query else target, headers, body)

    async def _has_body(self, method: str) -> bool:
        """Whether a request that gives no length has a body, of which nothing may have come yet."""
        if header(self._scope, b"transfer-encoding") is not None:
            return True
        if self._scope["http_version"] == "2" and method in _METHODS_WITH_BODY:
            return True  # HTTP/2 does not say; an empty body does no harm, waiting for one might
        return await self._body.peek()

    async def _respond(self, response: Response) -> None:
        if (refusal := refusal_of(response.status, response.headers)) is not None:
            raise refusal
        headers = forwarded_in_response(response.headers)
        if response.status == _NO_CONTENT:  # RFC 9110, section 8.6
            headers = [(name, value) for name, value in headers if name != b"content-length"]
        length = next((int(value) for name, value in headers if name == b"content-length"), None)
        # Trailers can follow only a body whose length was not said before it, and only to who asked for them.
        trailers = length is None and "http.response.trailers" in self._scope.get("extensions", {})
        self._responding = True
        await self._send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": headers,
                "trailers": trailers,
            }
        )
        async for chunk in response.body():
            length = None if length is None else length - len(chunk)
            if length == 0:  # the caller will have it all and may leave, which is no failure
                self._record.succeed(response.status)
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        if trailers:
            await self._send(
                {
                    "type": "http.response.trailers",
                    "headers": forwarded_in_response(response.trailers),
                    "more_trailers": False,
                }
            )
        self._record.succeed(response.status)


class _RequestBody:
    """The request's body as it comes from the caller, and the news that the caller has left.

    Raises: RefusedError where it turns out to be too large.
    """

    def __init__(self, receive: Receive, most: int | None) -> None:
        self._receive = receive
        self._most = most
        self._size = 0
        self._peeked: dict[str, Any] | None = None
        self._read = trio.Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._read.is_set():
            raise StopAsyncIteration
        message = self._peeked or await self._next()
        self._peeked = None
        if not message.get("more_body", False):
            self._read.set()
        return bytes(message.get("body", b""))

    def check(self, size: int) -> None:
        """Check how large it is, as far as is known. Raises: RefusedError."""
        if self._most is not None and size > self._most:
            raise RefusedError(Code.RESOURCE_EXHAUSTED, body_too_large(self._most), status=413)

    async def peek(self) -> bool:
        """Wait for the first part of the body; return whether there is a body at all."""
        self._peeked = self._peeked or await self._next()
        if self._peeked.get("body", b"") or self._peeked.get("more_body", False):
            return True
        self._read.set()
        return False

    async def wait_gone(self) -> None:
        """Return when the caller has left. What it sends is read before, by who sends it on."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> dict[str, Any]:
        message = dict(await self._receive())
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError("the caller left before its request was complete")
        self._size += len(message.get("body", b""))
        self.check(self._size)
        return message
