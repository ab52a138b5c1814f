"""The router: an authenticated, streaming way from one plugin to another.

A request for `/services/{type}/{provider}/{method}` is checked, rewritten and passed on, and the answer comes
back, byte for byte, both ways at once, with no body held and no timeout added. Who may pass, and with what,
is `admission`'s to say, for both ways that requests come in:

- on HTTP/1.1 as bytes: `RouterGateway` tells `http1.Relay` what to do with a head;
- on everything else as calls of the ASGI application `Router`.

Both ways write the same two lines for each call.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

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
    note_proved,
    send_text,
)
from cpg_trio.host.access.peers import Peer
from cpg_trio.host.access.rate_limiting import retry_after
from cpg_trio.host.directory.leases import Liveness
from cpg_trio.host.routing.admission import (
    PERHAPS_DELIVERED,
    PREFIX,
    UNDELIVERED,
    Admission,
    RefusedError,
    Route,
    passed_back,
    passed_on,
)
from cpg_trio.host.routing.statistics import Tally
from cpg_trio.http import (
    FORBIDDEN,
    Address,
    BrowserGuard,
    ConnectFailedError,
    Failure,
    IncomingRequest,
    InvalidRequestError,
    MalformedError,
    NotSentError,
    Origin,
    Pool,
    PoolFullError,
    RelayCall,
    Request,
    Response,
    ServerConnection,
    UndeliveredError,
    UpstreamError,
    body_too_large,
)
from cpg_trio.http import RefusedError as RelayRefusedError
from cpg_trio.logs import LineLog

_calls = LineLog("cpg_trio.router")

_NO_CONTENT = 204
_UNAUTHORIZED = 401
_UNDELIVERED = wire.UNDELIVERED_HEADER.lower().encode()
_CLOCK = wire.CLOCK_HEADER.lower().encode()
_MOST_DIGITS = 12  # of seconds since 1970
_METHODS_WITH_BODY = frozenset({"PATCH", "POST", "PUT"})


class _Record:
    """What is written down of one call: that it begins, and how it ended."""

    __slots__ = ("_label", "_started", "_tally")

    def __init__(self, route: Route, tally: Tally) -> None:
        self._tally = tally
        self._label = route.label
        self._started = time.perf_counter()
        tally.begun()
        _calls.info(f"[ROUTER] {self._label} (service: {route.provider.service_type})")

    def end(self, outcome: str) -> None:
        elapsed = time.perf_counter() - self._started
        self._tally.ended(elapsed, failed=outcome.startswith("FAILED"))
        _calls.info(f"[ROUTER] {self._label} {outcome} (duration: {go_duration(elapsed)})")


def _failure(error: UpstreamError | None, route: Route, liveness: Liveness, admission: Admission) -> Failure:
    """Return what a failure means to the caller; None is that one of both is gone.

    Only what a provider itself does counts against it: that nothing listens there, that what listens does not
    answer or is not accepted, that it is another one.
    """
    if error is None and not admission.still(route):
        return Failure(401, "invalid token", "the caller's identity has ended", PERHAPS_DELIVERED)
    if error is None:
        return Failure(
            503, "service unavailable (provider unhealthy)", "the provider is gone", PERHAPS_DELIVERED
        )
    if isinstance(error, PoolFullError):
        return _no_room(error)
    if isinstance(error, ConnectFailedError | UndeliveredError) and not isinstance(error, ClocksDifferError):
        liveness.suspect(route.provider.runtime_id)
    if isinstance(error, NotSentError | UndeliveredError):
        return Failure(502, "failed to proxy request", str(error), UNDELIVERED)
    return Failure(502, "failed to proxy request", str(error), PERHAPS_DELIVERED)


def _no_room(error: PoolFullError) -> Failure:
    """Return what a caller is told when no connection came free. Nobody has seen the call."""
    fields = [*UNDELIVERED, retry_after(1)]
    if error.own_share:
        return Failure(429, "too many calls in flight to this provider", str(error), fields)
    return Failure(503, "service unavailable (all connections to providers are in use)", str(error), fields)


class ClocksDifferError(UndeliveredError):
    """The provider is there, and refuses what this host has signed, as its clock shows another time."""


def _refusal(status: int, fields: HeaderList) -> UndeliveredError | None:
    """Return what it means that a provider's guard says that a call is not for it; None for an answer.

    That is another run of the plugin, say, which has got the address of the one that the host knows.
    """
    if status != _UNAUTHORIZED:
        return None
    said = {name.lower(): value for name, value in fields}
    if _UNDELIVERED not in said:
        return None
    if (clock := said.get(_CLOCK)) is not None and clock.isdigit():
        return ClocksDifferError(_clocks_differ(int(clock[:_MOST_DIGITS]) - time.time()))
    return UndeliveredError("who answers there is not the provider")


def _clocks_differ(ahead_s: float) -> str:
    which = "ahead of" if ahead_s > 0 else "behind"
    return f"the provider's clock is {abs(ahead_s):.0f} s {which} this host's: set them right"


class RouterGateway:
    """The router, as the relay asks it."""

    def __init__(
        self,
        admission: Admission,
        liveness: Liveness,
        browsers: BrowserGuard,
        max_body_bytes: int | None = None,
    ) -> None:
        self._admission = admission
        self._liveness = liveness
        self._browsers = browsers
        self._max_body_bytes = max_body_bytes

    def claims(self, target: bytes, /) -> bool:
        """Whether a request is the router's."""
        return target.startswith(PREFIX)

    def admit(self, request: IncomingRequest, client: ServerConnection) -> _Forward:
        """Return what to do with a request. Raises: http1.RefusedError."""
        known = request.head.remembered
        said = known if isinstance(known, _Said) else self._read(request)
        path, _, query = request.target.partition(b"?")
        try:
            if said.no_page_at is None or said.no_page_at != client.server:
                _check_page(request, client, self._browsers)
                said.no_page_at = client.server
            authorization = request.authorization or said.authorization
            peer = Peer.of(client.client, client.peer_names)
            route = self._admission.admit(path, query, said.runtime_id, authorization, peer)
            client.prove(route.caller)
            if self._max_body_bytes is not None:
                _limit_body(request, self._max_body_bytes)
        except RefusedError as refused:
            self._admission.note_refusal(refused)
            raise RelayRefusedError(refused.status, refused.text, refused.fields) from None
        if known is None:
            request.keep_head()
        return _Forward(route, request, said.lines, self._liveness, self._admission)

    def _read(self, request: IncomingRequest) -> _Said:
        head = request.head
        said = head.remembered = _Said(*passed_on(head.fields, self._admission.passed_on))
        return said


def _check_page(request: IncomingRequest, client: ServerConnection, browsers: BrowserGuard) -> None:
    if why := browsers.why_not(request.head.host, request.head.origin, client.server):
        raise RefusedError(FORBIDDEN, why)


def _limit_body(request: IncomingRequest, most: int) -> None:
    try:
        request.limit_body(most)
    except MalformedError as error:
        raise RefusedError(error.status, str(error)) from None


class _Said:
    """What the head of a request says to the router; for all requests that have the same."""

    __slots__ = ("authorization", "lines", "no_page_at", "runtime_id")

    def __init__(self, fields: HeaderList, runtime_id: bytes, authorization: bytes) -> None:
        self.lines = _lines(fields)
        """Of what goes on."""
        self.no_page_at: Address = None
        """Where such a request may come to, as no web page sends it; None if that is not known."""
        self.runtime_id = runtime_id
        self.authorization = authorization


class _Forward:
    """One call that the relay passes on."""

    __slots__ = (
        "_admission",
        "_call",
        "_lines",
        "_liveness",
        "_record",
        "_request",
        "_route",
        "caller",
        "origin",
    )

    _call: RelayCall
    _record: _Record

    def __init__(
        self,
        route: Route,
        request: IncomingRequest,
        lines: bytes,
        liveness: Liveness,
        admission: Admission,
    ) -> None:
        self.origin: Origin = route.origin
        self.caller = route.caller
        self._route = route
        self._request = request
        self._lines = lines
        self._liveness = liveness
        self._admission = admission

    def head(self) -> bytes:
        """See `http1.Forward`."""
        route, request = self._route, self._request
        first = b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (request.method, route.target, route.host)
        trailers = b"te: trailers\r\n" if request.accepts_trailers else b""
        return first + trailers + self._lines + _lines(route.identifying)

    def refusal(self, status: int, fields: HeaderList) -> UndeliveredError | None:
        """See `http1.Forward`."""
        return _refusal(status, fields)

    def lines_back(self, fields: HeaderList) -> bytes:
        """See `http1.Forward`."""
        return _lines(passed_back(fields))

    def holds(self) -> bool:
        """See `http1.Forward`."""
        return self._admission.holds(self._route)

    def begin(self, call: RelayCall) -> None:
        """See `http1.Forward`."""
        self._call = call
        self._record = _Record(self._route, self._admission.tally)
        self._liveness.begin_call(self._route.caller, self._route.provider.runtime_id, call)

    def end(self, outcome: str) -> None:
        """See `http1.Forward`."""
        self._liveness.end_call(self._route.caller, self._route.provider.runtime_id, self._call)
        self._record.end(outcome)

    def failure(self, error: UpstreamError | None) -> Failure:
        """See `http1.Forward`."""
        return _failure(error, self._route, self._liveness, self._admission)


def _lines(fields: HeaderList) -> bytes:
    """Return fields as they were read, which was strictly, as lines."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


class Router:
    """The ASGI application under `/services/`."""

    def __init__(
        self, admission: Admission, liveness: Liveness, pool: Pool, max_body_bytes: int | None = None
    ) -> None:
        self._admission = admission
        self._liveness = liveness
        self._pool = pool
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route one call."""
        fields, runtime_id, authorization = passed_on(scope["headers"], self._admission.passed_on)
        peer = Peer.of_scope(scope)
        path, query = scope["raw_path"], scope["query_string"]
        body = _RequestBody(receive, self._max_body_bytes)
        try:
            route = self._admission.admit(path, query, runtime_id, authorization, peer)
            note_proved(scope, route.caller)
            body.check(int(header(scope, b"content-length") or 0))
        except RefusedError as refused:
            self._admission.note_refusal(refused)
            await send_text(send, refused.status, f"{refused.text}\n", refused.fields)
            return
        await _Call(route, self._admission, fields, self._liveness, self._pool, scope, body, send).run()


class _Call:
    """One call in flight. It ends when its answer has been passed on, or when either side is gone."""

    def __init__(
        self,
        route: Route,
        admission: Admission,
        fields: HeaderList,
        liveness: Liveness,
        pool: Pool,
        scope: Scope,
        body: _RequestBody,
        send: Send,
    ) -> None:
        self._route = route
        self._admission = admission
        self._record = _Record(route, admission.tally)
        self._fields = fields
        self._liveness = liveness
        self._pool = pool
        self._scope = scope
        self._send = send
        self._body = body
        self._responding = False
        self._outcome = "FAILED: canceled"  # until there is another

    async def run(self) -> None:
        try:
            with self._liveness.call(self._route.caller, self._route.provider.runtime_id) as lease:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch_caller, nursery.cancel_scope)
                    await self._relay()
                    nursery.cancel_scope.cancel()
            if lease.cancelled_caught:
                await self._fail(None)
        finally:
            self._record.end(self._outcome)
        if self._outcome.startswith("FAILED") and self._responding:
            raise ResponseAbortedError(self._outcome)

    async def _watch_caller(self, call: trio.CancelScope) -> None:
        await self._body.wait_gone()
        call.cancel()

    async def _relay(self) -> None:
        """Pass the call on and its answer back."""
        try:
            route, request = self._route, await self._request()
            async with self._pool.request(route.origin, request, caller=route.caller) as response:
                await self._respond(response)
        except ClientDisconnectedError:
            pass
        except RefusedError as refused:  # of a body that the provider has had a part of
            self._outcome = f"FAILED: {refused.text}"
            if not self._responding:
                await send_text(self._send, refused.status, f"{refused.text}\n", PERHAPS_DELIVERED)
        except InvalidRequestError as error:
            self._outcome = "400"
            await send_text(self._send, 400, f"{error}\n", PERHAPS_DELIVERED)
        except UpstreamError as error:
            await self._fail(error)

    async def _fail(self, error: UpstreamError | None) -> None:
        """Note a failure for the log, and answer with it unless there is an answer already."""
        failure = _failure(error, self._route, self._liveness, self._admission)
        self._outcome = f"FAILED: {failure.why}"
        if not self._responding:
            await send_text(self._send, failure.status, f"{failure.text}\n", failure.fields)

    async def _request(self) -> Request:
        headers = [(b"host", self._route.host), *self._fields, *self._route.identifying]
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
        if self._scope["http_version"] == "2" and method in _METHODS_WITH_BODY:
            return True  # HTTP/2 does not say; an empty body does no harm, waiting for one might
        return await self._body.peek()

    async def _respond(self, response: Response) -> None:
        if (refusal := _refusal(response.status, response.headers)) is not None:
            raise refusal
        headers = passed_back(response.headers)
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
                {
                    "type": "http.response.trailers",
                    "headers": passed_back(response.trailers),
                    "more_trailers": False,
                }
            )
        self._outcome = str(response.status)


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
            raise RefusedError(413, body_too_large(self._most))

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


def go_duration(seconds: float) -> str:
    """Return a duration as Go prints it, to three or four digits: `429.5µs`, `1.2ms`, `2.05s`."""
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if (value := seconds * factor) < 1000:  # noqa: PLR2004 - the next unit begins there
            return f"{value:.1f}".removesuffix(".0") + unit
    return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
