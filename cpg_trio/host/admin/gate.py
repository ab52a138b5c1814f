"""A port for browsers: on loopback, in the program of an operator, before the admin address of a host.

A browser has no way to a Unix socket, and is not to have the admin token. So the program opens a port of its
own, to which a one-time address lets one browser of the same user in, and passes on what that browser asks
for. The address is good for two minutes and for one use; from then on the browser has a cookie, until the
program ends or eight hours pass without a request. The host sees the program, and neither the browser nor its
cookie.

    browser ── cookie ──▶ gate (127.0.0.1) ── Unix socket, or URL and token ──▶ host
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Self
from weakref import WeakKeyDictionary

import attrs
import trio

from cpg_trio import wire
from cpg_trio._lines import one_line
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.asgi import HeaderList, Receive, Scope, Send, no_websocket, send_response, send_text
from cpg_trio.call_context import NO_CALL
from cpg_trio.call_record import Call, CallKind
from cpg_trio.host.admin.browsers import BrowserRequest, PageRules, permitted, secured
from cpg_trio.host.admin.listener import LOGOUT_PATH, MAX_BODY_BYTES
from cpg_trio.host.admin.login import STYLE, STYLE_PATH, entered_page, message_page
from cpg_trio.host.admin.loopback import why_not_ours
from cpg_trio.host.admin.sessions import Sessions
from cpg_trio.host.routing import RequestHeaderRules, forwarded_in_request, forwarded_in_response
from cpg_trio.http import Origin, Pool, ServeConfig, UndeliveredError, UpstreamError, serve
from cpg_trio.http.client.origin import UNIX
from cpg_trio.http.heads import MalformedError
from cpg_trio.http.outgoing import field_lines
from cpg_trio.http.relay import Failure, Relay, RelayCall, RequestRefusedError
from cpg_trio.http.server.connection import ServerConnection
from cpg_trio.http.server.exchange import ServerExchange

ONCE_S = 120.0
"""Seconds for which a one-time address is good."""

_MOST_ADDRESSES = 16  # that have not been used
_ONCE = b"once="
_HTML_FIELDS: HeaderList = [(b"content-type", b"text/html; charset=utf-8")]
_NOT_LET_IN = (
    "this browser has not been let in, or has been idle for eight hours: open the address that"
    " `cpg-trio dashboard` prints, which is good for one use (after a link from another page, enter this"
    " address again)"
)
_PLAIN_FIELDS = [field for field in secured([]) if field[0] != b"x-content-type-options"]  # which text has
_SERVE = ServeConfig(grace_s=0, header_timeout_s=5, body_timeout_s=5, max_connections=64, backlog=64)
_RULES = RequestHeaderRules(["last-event-id"])


@attrs.frozen
class AdminAddress:
    """Where the admin service of a host is, and what lets this program in."""

    origin: Origin
    token: str = attrs.field(default="", repr=False)

    @classmethod
    def of_socket(cls, path: Path | str) -> Self:
        """Return that of a Unix socket."""
        return cls(Origin("http", "localhost", 80, (f"{UNIX}{path}",)))

    @classmethod
    def of_url(cls, url: str, token: str) -> Self:
        """Return that of a URL. Raises: ValueError for what is none, or has a path."""
        origin, path = Origin.parse(url)
        if path:
            raise ValueError("the URL of an admin address has no path")
        return cls(origin, token)


class Gate:
    """An open gate: its URL, and addresses that let a browser in."""

    def __init__(self, url: str) -> None:
        self.url = url
        """Its own, by which a browser that has been let in calls."""
        self._codes: dict[str, float] = {}  # those that were not used, and until when they are good

    def one_time_address(self, good_for_s: float = ONCE_S) -> str:
        """Return a new address that lets one browser in, within so many seconds."""
        code = secrets.token_urlsafe(32)
        self._codes[code] = trio.current_time() + good_for_s
        while len(self._codes) > _MOST_ADDRESSES:
            del self._codes[next(iter(self._codes))]
        return f"{self.url}/?once={code}"

    def take(self, shown: str) -> bool:
        """Whether a code lets a browser in now. It does so once."""
        digest = wire.token_digest(shown)
        good = [code for code in self._codes if secrets.compare_digest(wire.token_digest(code), digest)]
        return bool(good) and trio.current_time() <= self._codes.pop(good[0])


@asynccontextmanager
async def open_gate(
    address: AdminAddress, *, port: int = 0, ssl_context: Callable[[], ssl.SSLContext] | None = None
) -> AsyncIterator[Gate]:
    """Open a gate on a loopback port, until the end of the block. Port 0 takes any free one.

    `ssl_context` is what a host is called with that has TLS. Raises: BindError.
    """
    bind = f"127.0.0.1:{port}"
    rules, sessions = PageRules([bind]), Sessions()
    async with Pool(ssl_context=ssl_context) as pool, open_plain_nursery() as nursery:
        gate = Gate("")
        relay = Relay(_Gateway(address, rules, sessions), pool)
        app = _OwnPages(gate, rules, sessions)
        nursery.start_soon(pool.sweep)
        (gate.url,) = await nursery.start(partial(serve, app, bind=bind, config=_SERVE, relay=relay))
        yield gate
        nursery.cancel_scope.cancel()


class _OwnPages:
    """What the gate answers itself: one-time addresses, and the end of a session. An ASGI application."""

    def __init__(self, gate: Gate, rules: PageRules, sessions: Sessions) -> None:
        self._gate = gate
        self._rules = rules
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
            return
        request = BrowserRequest.of(scope["method"], scope["headers"])
        why = why_not_ours(scope["client"], scope["server"]) or self._rules.why_not(request, scope["server"])
        if why:
            await send_text(send, 403, f"{why}\n", _PLAIN_FIELDS)
        elif scope["path"] == STYLE_PATH:
            await send_response(send, 200, STYLE, secured([(b"content-type", b"text/css")]))
        elif scope["path"] == LOGOUT_PATH:
            await self._log_out(request, send)
        else:
            await self._let_in(request, scope["query_string"], send)

    async def _let_in(self, request: BrowserRequest, query: bytes, send: Send) -> None:
        code = query.removeprefix(_ONCE).decode("latin-1")
        if request.method != "GET" or request.host is None or not self._gate.take(code):
            await _page(send, 401, message_page("Not let in", _NOT_LET_IN))
            return
        await _page(send, 200, entered_page(), self._sessions.open(request.host, secure=False))

    async def _log_out(self, request: BrowserRequest, send: Send) -> None:
        if not request.changes_something or self._rules.why_not_by_cookie(request):
            await send_text(send, 403, "log out with the form of a page\n", _PLAIN_FIELDS)
            return
        cookie = self._sessions.close(request.host, request.cookies, secure=False)
        await _page(send, 200, message_page("Logged out", "This browser is not let in any more."), cookie)


async def _page(send: Send, status: int, body: bytes, cookie: bytes = b"") -> None:
    own = [(b"set-cookie", cookie)] if cookie else []
    await send_response(send, status, body, secured(_HTML_FIELDS, own))


class _Gateway:
    """Decides which requests are passed on. See `relay.Gateway`."""

    def __init__(self, address: AdminAddress, rules: PageRules, sessions: Sessions) -> None:
        self._address = address
        self._rules = rules
        self._sessions = sessions
        self._whose = WeakKeyDictionary[ServerConnection, str]()

    def claims(self, target: bytes, /) -> bool:
        """See `relay.Gateway`."""
        path, _, query = target.partition(b"?")
        own = path in {LOGOUT_PATH.encode(), STYLE_PATH.encode()}
        return not own and not (path == b"/" and query.startswith(_ONCE))

    def admit(self, exchange: ServerExchange, /) -> _Passed:
        """See `relay.Gateway`."""
        connection = exchange.connection
        request = BrowserRequest.of(exchange.head.method.decode(), exchange.headers)
        if why := self._why_not_ours(connection) or self._rules.why_not(request, connection.server):
            raise _refused(403, why)
        if self._sessions.find(request.host, request.cookies, secure=False) is None:
            raise _refused(401, _NOT_LET_IN)
        if why := self._rules.why_not_by_cookie(request):
            raise _refused(403, why)
        try:
            exchange.limit_body(MAX_BODY_BYTES)
        except MalformedError as error:
            raise _refused(error.status, str(error)) from None
        exchange.prove("browser")
        return _Passed(exchange, self._address)

    def _why_not_ours(self, connection: ServerConnection) -> str:
        """Return why a connection is not taken, for as long as it lasts."""
        if connection not in self._whose:
            self._whose[connection] = why_not_ours(connection.client, connection.server)
        return self._whose[connection]


def _refused(status: int, why: str) -> RequestRefusedError:
    return RequestRefusedError(status, why, _PLAIN_FIELDS)


class _Passed:
    """A request that is passed on. See `relay.Forward`."""

    is_here = False
    context = NO_CALL
    caller = ""
    may_move = False

    def __init__(self, exchange: ServerExchange, address: AdminAddress) -> None:
        self._exchange = exchange
        self._address = address
        self.origin = address.origin

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `relay.Forward`."""
        raise NotImplementedError

    def head(self) -> bytes:
        """See `relay.Forward`."""
        exchange, head = self._exchange, self._exchange.head
        fields, *_ = forwarded_in_request([*head.fields, *exchange.context, *exchange.metadata], _RULES)
        if self._address.token:
            fields.append((b"authorization", wire.bearer(self._address.token).encode()))
        first = b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (head.method, head.target, self.origin.host_header)
        return first + field_lines(fields)

    def move(self, _call: RelayCall, _error: UpstreamError, /) -> bool:
        """See `relay.Forward`."""
        return False

    def refusal(self, status: int, _fields: HeaderList) -> UndeliveredError | None:
        """See `relay.Forward`. A browser is not to log in at the host: this program has the token."""
        if status != 401:  # noqa: PLR2004 - RFC 9110, 15.5.2
            return None
        return UndeliveredError("it does not accept the token of this command (ADMIN_TOKEN)")

    def head_back(self, fields: HeaderList) -> HeaderList:
        """See `relay.Forward`."""
        return secured(forwarded_in_response(fields))

    def fields_back(self, fields: HeaderList) -> HeaderList:
        """See `relay.Forward`."""
        return permitted(forwarded_in_response(fields))

    def code_of_head(self, _status: int, _fields: HeaderList) -> str:
        """See `relay.Forward`. Nobody asks for the codes of these calls."""
        return "ok"

    def code_of_end(self, _status: int, _fields: HeaderList, _trailers: HeaderList, _body: bytes) -> str:
        """See `relay.Forward`."""
        return "ok"

    def begin(self, _call: RelayCall) -> Call:
        """See `relay.Forward`. Nobody listens to the records of these calls."""
        return Call(CallKind.ROUTED)

    def end(self, _call: RelayCall) -> None:
        """See `relay.Forward`."""

    def failure(self, error: UpstreamError | MalformedError | None) -> Failure:
        """See `relay.Forward`."""
        if isinstance(error, MalformedError):
            return Failure(error.status, str(error), str(error), "invalid_argument", _PLAIN_FIELDS)
        why = f"the host is not there: {one_line(str(error))}"
        return Failure(502, why, why, "unavailable", _PLAIN_FIELDS)
