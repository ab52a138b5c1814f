"""The router: an authenticated, streaming way from one plugin to another.

A request for `/services/{type}/{provider}/{method}` is checked, rewritten and passed on, and the answer comes
back, byte for byte, both ways at once, with no body held and no timeout added. What it may not pass on it
drops: the caller's credentials, and what concerns only one connection. Refusals are plain text, with the
words that other implementations use.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeAlias
from urllib.parse import quote

import attrs
import trio

from cpg_trio import wire
from cpg_trio.asgi import (
    ClientDisconnectedError,
    HeaderList,
    Receive,
    ResponseAbortedError,
    Scope,
    Send,
    accepts_trailers,
    header,
    send_text,
)
from cpg_trio.http1 import (
    ConnectFailedError,
    InvalidRequestError,
    Origin,
    Pool,
    Request,
    Response,
    UpstreamError,
)
from cpg_trio.logs import LineLog

from .identity import Identities, Identity
from .liveness import Liveness
from .registry import Registration, Registry

PREFIX = b"/services/"

_log = logging.getLogger("cpg_trio.router")
_calls = LineLog(_log.name)

# RFC 9110, section 7.6.1, and older names for the same.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# What proves the caller to the host is nobody else's business; where a request came from is not the caller's
# to say; an expectation has been met by the time the body is read.
_NOT_PASSED_ON = _HOP_BY_HOP | {
    b"authorization",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-forwarded-proto",
    b"x-plugin-caller-id",
    b"x-plugin-runtime-id",
    b"x-real-ip",
}
# Whether a call was delivered is the host's to say.
_NOT_PASSED_BACK = _HOP_BY_HOP | {wire.UNDELIVERED_HEADER.lower().encode()}
_NO_CONTENT = 204

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

MayCall: TypeAlias = Callable[[Identity, str], bool]

_UNDELIVERED = [(wire.UNDELIVERED_HEADER.lower().encode(), b"true")]
_METHODS_WITH_BODY = frozenset({"PATCH", "POST", "PUT"})


class _RefusedError(Exception):
    """A call that goes nowhere: the answer to it, and what the log says of it (nothing, if empty)."""

    def __init__(self, status: int, text: str, log: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.log = log


@attrs.frozen
class _Route:
    """A call that has been let through."""

    caller: str
    provider: Registration
    method: str
    """As it follows the provider's path: `Store`."""
    origin: Origin
    host: bytes
    target: bytes

    def __str__(self) -> str:
        return f"{self.caller} → {self.provider.runtime_id} /{self.method}"


def everybody(_caller: Identity, _service_type: str) -> bool:
    """Let every plugin call every service."""
    return True


class Router:
    """The ASGI application under `/services/`. `may_call` is asked at each call."""

    def __init__(
        self,
        identities: Identities,
        registry: Registry,
        liveness: Liveness,
        pool: Pool,
        may_call: MayCall = everybody,
    ) -> None:
        self._identities = identities
        self._registry = registry
        self._liveness = liveness
        self._pool = pool
        self._may_call = may_call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route one call."""
        try:
            route = self._admit(scope)
        except _RefusedError as refused:
            if refused.log:
                _log.warning("[ROUTER] %s", refused.log)
            await send_text(send, refused.status, f"{refused.text}\n", _UNDELIVERED)
            return
        _calls.info(f"[ROUTER] {route} (service: {route.provider.service_type})")
        await _Call(route, self._liveness, self._pool, scope, receive, send).run()

    def _admit(self, scope: Scope) -> _Route:
        """Check a call, in the order that the protocol fixes. Raises: _RefusedError."""
        service_type, provider_id, method = _split(scope["raw_path"])
        caller = self._authenticate(scope)
        if not self._may_call(caller, service_type):
            denied = f"{caller.runtime_id} may not call {_printable(service_type.encode('latin-1'))}"
            raise _RefusedError(403, f"permission denied: {denied}", f"Denied: {denied}")
        provider = self._registry.provider(service_type, provider_id)
        if provider is None:
            raise _RefusedError(404, f"provider not found: {provider_id}")
        if not self._registry.health(provider_id).callable:
            raise _RefusedError(503, "service unavailable (provider unhealthy)")
        if not provider.base_url:
            raise _RefusedError(404, f"provider endpoint not registered: {provider_id}")
        return _route(caller.runtime_id, provider, method, scope["query_string"])

    def _authenticate(self, scope: Scope) -> Identity:
        path = _printable(scope["raw_path"])
        runtime_id = _printable(header(scope, wire.RUNTIME_ID_HEADER.lower().encode()) or b"")
        if not runtime_id:
            raise _RefusedError(
                401,
                f"{wire.RUNTIME_ID_HEADER} header required",
                f"Missing {wire.RUNTIME_ID_HEADER} header for {path}",
            )
        authorization = (header(scope, b"authorization") or b"").decode("latin-1")
        if not authorization.startswith(wire.BEARER_PREFIX):
            raise _RefusedError(
                401,
                "Authorization: Bearer <token> required",
                f"Missing/invalid Authorization header for {path} (caller: {runtime_id})",
            )
        token = authorization.removeprefix(wire.BEARER_PREFIX)
        identity = self._identities.authenticate(runtime_id, token)
        if identity is None:
            raise _RefusedError(401, "invalid token", f"Invalid token for caller: {runtime_id}")
        return identity


def _split(raw_path: bytes) -> tuple[str, str, bytes]:
    """Return service type, provider and method of a path; the method stays as it was encoded."""
    parts = raw_path.removeprefix(PREFIX).split(b"/", 2)
    wrong = len(parts) < 3 or not all(parts[:2]) or b"#" in raw_path  # noqa: PLR2004 - type, provider, method
    if wrong or _climbs(parts[2]):
        raise _RefusedError(
            400,
            "invalid service path format, expected /services/{type}/{provider-id}/{method}",
            f"Invalid path: {_printable(raw_path)} (parts: {len([p for p in parts if p])})",
        )
    return parts[0].decode("latin-1"), parts[1].decode("latin-1"), parts[2]


def _climbs(path: bytes) -> bool:
    """Whether a path has segments that leave the place it is relative to, however they are spelled."""
    return any(segment.lower().replace(b"%2e", b".") in (b".", b"..") for segment in path.split(b"/"))


def _route(caller: str, provider: Registration, method: bytes, query: bytes) -> _Route:
    try:
        origin, prefix = Origin.parse(provider.base_url)
    except ValueError as error:
        log = f"{caller} → {provider.runtime_id} FAILED: {error}"
        raise _RefusedError(500, "failed to create proxy request", log) from error
    # The address that was checked is the one that is used: a name may lead elsewhere by now.
    address = provider.address or origin.host
    path = quote(provider.endpoint_path, safe="/%:@!$&'()*+,;=~").encode()
    # A generated client asks for /package.Service/Method, and the provider's path says the service already.
    method = method.removeprefix(path.strip(b"/") + b"/") if path.strip(b"/") else method
    target = prefix + path + (b"" if path.endswith(b"/") else b"/") + method
    return _Route(
        caller,
        provider,
        _printable(method),
        attrs.evolve(origin, host=address),
        origin.host_header,
        target + (b"?" + query if query else b""),
    )


def _printable(value: bytes) -> str:
    """Return bytes from a stranger in a form that cannot break or forge a line of a log."""
    return "".join(c if c.isprintable() else "�" for c in value.decode("latin-1"))


class _Call:
    """One call in flight. It ends when its answer has been passed on, or when either side is gone."""

    def __init__(
        self, route: _Route, liveness: Liveness, pool: Pool, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._route = route
        self._liveness = liveness
        self._pool = pool
        self._scope = scope
        self._send = send
        self._body = _RequestBody(receive)
        self._started = time.perf_counter()
        self._responding = False
        self._outcome = "FAILED: canceled"  # until there is another

    async def run(self) -> None:
        try:
            with self._liveness.call(self._route.provider.runtime_id) as lease:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch_caller, nursery.cancel_scope)
                    await self._relay()
                    nursery.cancel_scope.cancel()
            if lease.cancelled_caught:
                await self._fail("the provider is gone", 503, "service unavailable (provider unhealthy)")
        finally:
            elapsed = go_duration(time.perf_counter() - self._started)
            _calls.info(f"[ROUTER] {self._route} {self._outcome} (duration: {elapsed})")
        if self._outcome.startswith("FAILED") and self._responding:
            raise ResponseAbortedError(self._outcome)

    async def _watch_caller(self, call: trio.CancelScope) -> None:
        await self._body.wait_gone()
        call.cancel()

    async def _relay(self) -> None:
        """Pass the call on and its answer back."""
        try:
            async with self._pool.request(self._route.origin, await self._request()) as response:
                await self._respond(response)
        except ClientDisconnectedError:
            pass
        except InvalidRequestError as error:
            self._outcome = "400"
            await send_text(self._send, 400, f"{error}\n")
        except UpstreamError as error:
            unreached = isinstance(error, ConnectFailedError)
            if unreached:
                self._liveness.suspect(self._route.provider.runtime_id)
            await self._fail(str(error), 502, "failed to proxy request", _UNDELIVERED if unreached else ())

    async def _fail(self, reason: str, status: int, text: str, headers: Headers = ()) -> None:
        """Note a failure for the log, and answer with it unless there is an answer already."""
        self._outcome = f"FAILED: {reason}"
        if not self._responding:
            await send_text(self._send, status, f"{text}\n", headers)

    async def _request(self) -> Request:
        headers = [(b"host", self._route.host), *_passed_on(self._scope["headers"], _NOT_PASSED_ON)]
        headers.append((wire.CALLER_ID_HEADER.lower().encode(), self._route.caller.encode()))
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
        return Request(method.encode(), self._route.target, headers, body)

    async def _has_body(self, method: str) -> bool:
        """Whether a request that gives no length has a body, of which nothing may have come yet."""
        if header(self._scope, b"transfer-encoding") is not None:
            return True
        if self._scope["http_version"] != "1.1" and method in _METHODS_WITH_BODY:
            return True  # HTTP/2 does not say; an empty body does no harm, waiting for one might
        return await self._body.peek()

    async def _respond(self, response: Response) -> None:
        headers = _passed_on(response.headers, _NOT_PASSED_BACK)
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
                self._outcome = str(response.status)
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        if trailers:
            await self._send(
                {"type": "http.response.trailers", "headers": response.trailers, "more_trailers": False}
            )
        self._outcome = str(response.status)


class _RequestBody:
    """The request's body as it comes from the caller, and the news that the caller has left."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
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
        return message


def _passed_on(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> HeaderList:
    """Return the headers that travel on: without `dropped`, and without those that Connection names."""
    headers = [(name.lower(), value) for name, value in headers]
    named = {
        token.strip().lower()
        for name, value in headers
        if name == b"connection"
        for token in value.split(b",")
    }
    # No name for one connection only can take what frames the message for all of them.
    named.discard(b"content-length")
    # Some servers read X_Plugin_Caller_Id as X-Plugin-Caller-ID; neither is the caller's to send.
    return [
        (name, value)
        for name, value in headers
        if name.replace(b"_", b"-") not in dropped and name not in named
    ]


def go_duration(seconds: float) -> str:
    """Return a duration as Go prints it, to three or four digits: `429.5µs`, `1.2ms`, `2.05s`."""
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if (value := seconds * factor) < 1000:  # noqa: PLR2004 - the next unit begins there
            return f"{value:.1f}".removesuffix(".0") + unit
    return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
