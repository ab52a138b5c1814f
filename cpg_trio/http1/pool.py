"""The connections of a client: opened when needed, kept while useful, closed by whoever leaves the pool.

An idle connection belongs to the pool, one in use to the `request` block that uses it; there is no third
state, so that a cancellation anywhere finds each connection with exactly one owner, who closes it.

May touch: sockets, TLS, and the connections that it opened. What is said on them is `connection`'s.
"""

from __future__ import annotations

import ipaddress
import math
import re
import ssl
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import attrs
import trio

from cpg_trio._sockets import enable_keepalive
from cpg_trio.http1.connection import (
    MAX_HEAD_BYTES,
    ConnectFailedError,
    Connection,
    ConnectionBrokenError,
    PreparedRequest,
    Request,
    Response,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65535
_NOT_IN_A_URL = re.compile(r"[^\x21-\x7e]")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*:[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]{1,5}))?")
# A host name as resolvers take it; the underscore is no letter of RFC 1123, but container names have it.
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")


def _check_host(_: Origin, __: object, host: str) -> None:
    if ":" in host:
        # Raises a ValueError that says what is wrong. A zone (%eth0) means nothing to the peer.
        ipaddress.IPv6Address(host if "%" not in host else "")
    elif not _HOST_NAME.fullmatch(host):
        raise ValueError("the host must be a name or an address, in ASCII (xn--...) and without a port")


def _check_port(_: Origin, __: object, port: int) -> None:
    if not 1 <= port <= _MAX_PORT:
        raise ValueError(f"the port must be a number from 1 to {_MAX_PORT}")


@attrs.frozen
class Origin:
    """Where to connect: `host` is a name or an address, an IPv6 address without brackets."""

    scheme: str = attrs.field(validator=attrs.validators.in_(tuple(_DEFAULT_PORTS)))
    host: str = attrs.field(validator=_check_host)
    port: int = attrs.field(validator=_check_port)

    @classmethod
    def parse(cls, url: str) -> tuple[Self, bytes]:
        """Split a base URL into its origin and its path without a trailing slash (b"" for the root).

        Raises: ValueError for what is not an absolute http or https URL, or has more than a path after the
        origin. The message doesn't quote the URL, which may hold a password.
        """
        _check_base_url(url)
        parts = urlsplit(url)
        authority = _AUTHORITY.fullmatch(parts.netloc)
        if parts.scheme not in _DEFAULT_PORTS or authority is None or not authority["host"]:
            raise ValueError(
                "a base URL is http or https, a host, and perhaps a port from 1 to 65535 and a path"
            )
        host = authority["host"].strip("[]").lower()
        port = int(authority["port"] or _DEFAULT_PORTS[parts.scheme])
        return cls(parts.scheme, host, port), parts.path.rstrip("/").encode("ascii")

    @property
    def host_header(self) -> bytes:
        """The value of `host` for this origin: IPv6 in brackets, the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host.encode() if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}".encode()


def _check_base_url(url: str) -> None:
    if _NOT_IN_A_URL.search(url):
        raise ValueError("a base URL has no spaces, control characters or letters beyond ASCII")
    if "?" in url or "#" in url:
        raise ValueError("a base URL has no query and no fragment")
    if "@" in urlsplit(url).netloc:
        raise ValueError("a base URL has no user information")


@attrs.frozen
class PoolStatistics:
    """What a pool has: connections `idle` and `active` now, `opened` and `reused` since it began."""

    idle: int
    active: int
    opened: int
    reused: int


@attrs.frozen
class _Idle:
    connection: Connection
    since: float


class Pool:
    """A client's connections to any number of origins, kept for the next request while the block lasts.

    There is no limit to the connections in use and no timeout but `connect_timeout_s` (seconds, for
    name, TCP and TLS together): both are the caller's to set, who knows what a request is for. A machine
    that vanishes while it owes an answer is noticed by the kernel (`enable_keepalive`).
    `max_idle_per_origin`: connections kept; more are closed after use. `idle_expiry_s`: seconds after which
    an idle connection is not used again. `max_head_bytes`: the largest response head.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 5.0,
        max_idle_per_origin: int = 64,
        idle_expiry_s: float = 15.0,
        ssl_context: ssl.SSLContext | None = None,
        max_head_bytes: int = MAX_HEAD_BYTES,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._max_idle_per_origin = max_idle_per_origin
        self._idle_expiry_s = idle_expiry_s
        self._given_ssl_context = ssl_context
        self._max_head_bytes = max_head_bytes
        # Changed between checkpoints only. The last of a list is the one used last: it is the likeliest to
        # be alive, and those that a lull leaves over expire together.
        self._idle: dict[Origin, list[_Idle]] = {}
        self._entered = False
        self._active = 0
        self._opened = 0
        self._reused = 0

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the idle connections. One in use is closed when its own block ends."""
        self._entered = False
        await self._close_idle(not_used_since=math.inf)

    def statistics(self) -> PoolStatistics:
        """Return the numbers of this moment."""
        idle = sum(len(connections) for connections in self._idle.values())
        return PoolStatistics(idle=idle, active=self._active, opened=self._opened, reused=self._reused)

    async def sweep(self) -> None:
        """Close what expires, until cancelled: origins go away, and are never asked for again.

        A task of whoever has the pool. Without it a connection that expired is closed when its origin is
        next asked for.
        """
        while True:
            await trio.sleep(self._idle_expiry_s)
            await self._close_idle(not_used_since=trio.current_time() - self._idle_expiry_s)

    @asynccontextmanager
    async def request(self, origin: Origin, request: Request) -> AsyncIterator[Response]:
        """Send a request; the block has the response, from when its head has arrived.

        Leaving the block before the body's end closes the connection, as does every error. An idempotent
        request whose body is still whole is sent once more, on a new connection, if a kept one turns out
        to be dead before it answered anything.

        Raises: InvalidRequestError before anything is done, or if the body belies its content-length;
        ConnectFailedError; ProtocolError; ConnectionBrokenError; and whatever the body's iterator raises,
        as itself, in place of the cancellation that it causes in the block.
        """
        if not self._entered:
            raise trio.ClosedResourceError("a pool is used inside its own `async with` block")
        prepared = PreparedRequest.of(request, origin.host_header)
        async with AsyncExitStack() as stack:
            yield await self._start(stack, origin, prepared)

    async def _start(self, stack: AsyncExitStack, origin: Origin, request: PreparedRequest) -> Response:
        kept = await self._take_idle(origin)
        if kept is not None:
            self._reused += 1
            try:
                return await stack.enter_async_context(self._exchange(origin, kept, request))
            except ConnectionBrokenError:
                if not kept.may_retry:
                    raise
        return await stack.enter_async_context(self._exchange(origin, await self._open(origin), request))

    @asynccontextmanager
    async def _exchange(
        self, origin: Origin, connection: Connection, request: PreparedRequest
    ) -> AsyncIterator[Response]:
        self._active += 1
        try:
            async with connection.exchange(request) as response:
                yield response
        finally:
            self._active -= 1
            await self._give_back(origin, connection)

    async def _give_back(self, origin: Origin, connection: Connection) -> None:
        idle = self._idle.setdefault(origin, [])
        if self._entered and connection.reusable and len(idle) < self._max_idle_per_origin:
            idle.append(_Idle(connection, trio.current_time()))
        else:
            await _close(connection.stream)

    async def _take_idle(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin, [])
        while idle:
            candidate = idle.pop()
            expired = trio.current_time() - candidate.since >= self._idle_expiry_s
            if not expired and not candidate.connection.is_stale():
                return candidate.connection
            await _close(candidate.connection.stream)
        return None

    async def _close_idle(self, *, not_used_since: float) -> None:
        for origin, idle in list(self._idle.items()):
            while idle and idle[0].since <= not_used_since:
                await _close(idle.pop(0).connection.stream)
            # Looked up again: while one was being closed, the list may have been replaced.
            if not self._idle.get(origin):
                self._idle.pop(origin, None)

    async def _open(self, origin: Origin) -> Connection:
        stream = await connect(origin, lambda: self._ssl_context, timeout_s=self._connect_timeout_s)
        self._opened += 1
        return Connection(stream, max_head_bytes=self._max_head_bytes)

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        """The context given, or the default one; made late, because it reads every CA of the system."""
        return self._given_ssl_context or ssl.create_default_context()


async def connect(
    origin: Origin,
    ssl_context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    *,
    timeout_s: float = 5.0,
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    """Return a connection, which is the caller's to close.

    `ssl_context` is asked for only if the scheme is https; `timeout_s` is for name, TCP and TLS together.
    Raises: ConnectFailedError.
    """
    with _connect_errors(origin), trio.fail_after(timeout_s):
        tcp = await trio.open_tcp_stream(origin.host, origin.port)  # with TCP_NODELAY, as all of Trio's
        enable_keepalive(tcp.socket)  # and no limit to what it leaves unread: a request may be a stream
        if origin.scheme == "http":
            return tcp
        tls = trio.SSLStream(tcp, ssl_context(), server_hostname=origin.host, https_compatible=True)
        try:
            await tls.do_handshake()
        except BaseException:
            await _close(tls)
            raise
        return tls


async def _close(stream: trio.abc.Stream) -> None:
    """Close at once. It never waits, so it is shielded, and the caller's exception is never replaced."""
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)


@contextmanager
def _connect_errors(origin: Origin) -> Iterator[None]:
    """Raise what goes wrong on the way to the peer as a ConnectFailedError that says where and why."""
    try:
        yield
    except (OSError, UnicodeError, trio.BrokenResourceError, trio.TooSlowError) as exc:
        where = origin.host_header.decode()
        raise ConnectFailedError(f"cannot connect to {origin.scheme}://{where}: {_reason(exc)}") from exc


def _reason(exc: BaseException) -> str:
    """Return what the system said, which Trio keeps as the cause: one error, or one an address."""
    if isinstance(exc, trio.TooSlowError):
        return "no connection within the time allowed"
    cause = exc.__cause__ or exc
    causes = cause.exceptions if isinstance(cause, BaseExceptionGroup) else [cause]
    return "; ".join(sorted({str(each) for each in causes}))
