"""The nursery of all connections: accept, serve, drain, stop."""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from typing import Protocol, TypeAlias

import trio

from cpg_trio._addresses import address_key
from cpg_trio._sockets import enable_keepalive
from cpg_trio.asgi import App
from cpg_trio.http.certificates import Contexts
from cpg_trio.http.channel import Address, Channel, SocketChannel
from cpg_trio.http.schemes import TLS_IS_SPOKEN, WrongSchemes
from cpg_trio.http.server.asgi import unwrapped
from cpg_trio.http.server.capacity import fitted_to_descriptors
from cpg_trio.http.server.config import Http1Engine, ServeConfig
from cpg_trio.http.server.connection_limit import Client, ConnectionLimit, Slot
from cpg_trio.http.server.errors import log_ending, logger
from cpg_trio.http.server.http1 import Http1Connection, Http1Exchange
from cpg_trio.http.server.http1_h11 import H11Exchange
from cpg_trio.http.server.http2 import Http2Connection
from cpg_trio.http.server.listen import is_unix, listening, url
from cpg_trio.http.server.overload import Overload
from cpg_trio.http.server.service import RequestRelay, Service
from cpg_trio.http.server.tls_handshake import Handshake
from cpg_trio.http.tls import TlsChannel

_Waiting: TypeAlias = Callable[[], Iterator[trio.SocketStream]]

_DEFAULTS = ServeConfig()
_ENGINES = {Http1Engine.OWN: Http1Exchange, Http1Engine.HYPERCORN: H11Exchange}
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_AGAIN_S = 0.1
_ACCEPTED_AT_ONCE = 16  # connections of one listener, in one round of the loop
_WAIT_UNTOLD_S = 1.0  # for calls in flight to finish, before it is told of in the log


async def serve(
    app: App,
    *,
    bind: str | Sequence[str] = "127.0.0.1:0",
    config: ServeConfig = _DEFAULTS,
    stop: trio.Event | None = None,
    relay: RequestRelay | None = None,
    connections: ConnectionLimit | None = None,
    at_once: Collection[bytes] = (),
    task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application until `stop` is set, and then until what was in flight is done.

    `bind` is one address or several: `host:port` (port 0 takes any free port), `[::1]:port` or
    `unix:/path`, a socket for the user and the group that its file belongs to. Reports, once it listens, the
    URLs it is reached at, e.g. `("http://127.0.0.1:41231",)`. With a certificate (`config.tls`) what is not
    a Unix socket is served with TLS, and those are https.

    From `stop` on nothing new is accepted, idle connections are closed, WebSockets are closed with code
    1001, and calls in flight have `config.grace_s` to finish; then they are cancelled, and `serve` returns.
    Cancelling `serve` ends everything at once.

    Requests that `relay` claims are its to answer, the others the application's. `connections` limits and
    counts the connections in place of `config.max_connections`. Requests for a target in `at_once` are
    answered without a task: the application does not wait for anything there (`asgi.AT_ONCE`).

    Raises: `BindError` when it cannot listen; `StartError` for a certificate that is of no use. Nothing that
    a client or the application does raises here.
    """
    binds = [bind] if isinstance(bind, str) else bind
    await _Server(app, config, relay, connections, at_once).run(
        binds, trio.Event() if stop is None else stop, task_status
    )


class _Client(Client, Protocol):
    """One client's connection, whatever protocol it speaks."""

    async def run(self) -> None:
        """Speak to it, until it has ended or is somebody else's."""

    async def drain(self) -> None:
        """Finish what is in flight and take nothing more; return when the client has been told."""

    def abort(self) -> None:
        """End at once."""


class _Server:
    def __init__(
        self,
        app: App,
        settings: ServeConfig,
        relay: RequestRelay | None,
        connections: ConnectionLimit | None,
        at_once: Collection[bytes],
    ) -> None:
        self._settings = settings = fitted_to_descriptors(settings)
        self._wrong_schemes = WrongSchemes()
        self._service = Service(
            app, settings, relay, wrong_schemes=self._wrong_schemes, at_once=frozenset(at_once)
        )
        self._contexts = settings.tls.server_contexts() if settings.tls.serves else None
        self._clients: set[_Client] = set()
        self._departure = trio.lowlevel.ParkingLot()
        if connections is None:
            connections = ConnectionLimit(settings.max_connections)
        self._limit = connections
        self._overload = Overload(settings)

    async def run(
        self, binds: Sequence[str], stop: trio.Event, task_status: trio.TaskStatus[tuple[str, ...]]
    ) -> None:
        if self._contexts is not None:
            self._contexts.check()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._service.running())
            await self._listen(binds, stop, task_status)

    async def _listen(
        self, binds: Sequence[str], stop: trio.Event, task_status: trio.TaskStatus[tuple[str, ...]]
    ) -> None:
        async with AsyncExitStack() as stack:
            settings = self._settings
            listeners = await stack.enter_async_context(
                listening(binds, settings.backlog, settings.socket_mode)
            )
            async with trio.open_nursery() as handlers:
                try:
                    scheme = "http" if self._contexts is None else "https"
                    task_status.started(tuple(url(listener, scheme) for listener in listeners))
                    await self._accept(listeners, handlers, stop)
                    await stack.aclose()
                    await self._drain(handlers)
                finally:
                    # The end of the grace, or a cancellation, or an error: whatever is left ends now.
                    self._overload.abort()
                    for client in list(self._clients):
                        client.abort()

    async def _accept(
        self, listeners: list[trio.SocketListener], handlers: trio.Nursery, stop: trio.Event
    ) -> None:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                contexts = None if is_unix(listener) else self._contexts
                serve_each = partial(self._serve_connection, contexts)
                nursery.start_soon(self._accept_from, listener, serve_each, handlers)
            await stop.wait()
            nursery.cancel_scope.cancel()

    async def _accept_from(
        self,
        listener: trio.SocketListener,
        serve_each: Callable[[trio.SocketStream], Awaitable[None]],
        handlers: trio.Nursery,
    ) -> None:
        async with listener:
            with _waiting(listener) as waiting:
                try:
                    await self._accept_until_cancelled(listener, waiting, serve_each, handlers)
                finally:
                    # Who has connected may have sent a request, and could not know whether it has run.
                    with suppress(OSError):
                        for _ in range(math.ceil(self._settings.backlog / _ACCEPTED_AT_ONCE)):
                            for stream in waiting():
                                handlers.start_soon(_closing, serve_each, stream)

    async def _accept_until_cancelled(
        self,
        listener: trio.SocketListener,
        waiting: _Waiting,
        serve_each: Callable[[trio.SocketStream], Awaitable[None]],
        handlers: trio.Nursery,
    ) -> None:
        while True:
            try:
                stream = await listener.accept()
                handlers.start_soon(_closing, serve_each, stream)
                for stream in waiting():
                    handlers.start_soon(_closing, serve_each, stream)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._overload.cannot_accept(error)
                await trio.sleep(_ACCEPT_AGAIN_S)

    async def _serve_connection(self, contexts: Contexts | None, stream: trio.SocketStream) -> None:
        if self._service.draining:
            return
        try:
            peer = stream.socket.getpeername()
        except OSError:  # the client left before we came to look
            return
        self._overload.note(len(self._limit))
        slot = self._limit.admit(address_key(peer[0] if isinstance(peer, tuple) else ""))
        if slot is None:
            await self._overload.refuse(stream, encrypted=contexts is not None)
            return
        try:
            await self._serve_in(slot, contexts, stream)
        finally:
            self._limit.release(slot)

    async def _serve_in(self, slot: Slot, contexts: Contexts | None, stream: trio.SocketStream) -> None:
        enable_keepalive(stream.socket, unread_s=self._settings.send_timeout_s)
        raw = SocketChannel.of(stream)
        try:
            addresses = raw.addresses()
        except OSError:  # the client left before we came to look
            raw.close()
            return
        channel = raw if contexts is None else await self._with_tls(slot, raw, contexts, addresses[0])
        if channel is not None:
            await self._serve_channel(slot, channel, *addresses)

    async def _with_tls(
        self, slot: Slot, raw: SocketChannel, contexts: Contexts, client: Address
    ) -> TlsChannel | None:
        """Return a client's connection when it has shaken hands, None for one that has not."""
        on_plain = partial(self._wrong_schemes.note, client, TLS_IS_SPOKEN)
        handshake = Handshake(raw, contexts(), self._settings.header_timeout_s, on_plain)
        await self._serve_client(slot, handshake)
        if handshake.channel is not None and slot.gone:  # at the last moment
            handshake.channel.close()
            return None
        return handshake.channel

    async def _serve_channel(self, slot: Slot, channel: Channel, client: Address, server: Address) -> None:
        http2 = await self._serve_http1(slot, channel, client, server)
        if http2 is not None:
            await self._serve_client(slot, http2)

    async def _serve_http1(
        self, slot: Slot, channel: Channel, client: Address, server: Address
    ) -> Http2Connection | None:
        """Serve HTTP/1.1. Return what serves the client if that turns out to speak another protocol."""
        ends = client, server
        engine = _ENGINES[self._settings.http1_engine]
        http1 = Http1Connection(channel, self._service, *ends, slot, engine)
        await self._serve_client(slot, http1)
        if read := http1.read_of_another_protocol:
            return Http2Connection(channel, self._service, *ends, slot, read)
        return None

    async def _serve_client(self, slot: Slot, client: _Client) -> None:
        slot.client = client
        self._clients.add(client)
        try:
            await _guard(client.run)
        finally:
            self._clients.remove(client)
            self._departure.unpark_all()

    async def _drain(self, handlers: trio.Nursery) -> None:
        await trio.lowlevel.checkpoint()  # those that were accepted last have begun then
        logger.debug("draining %d connections", len(self._clients))
        self._service.draining = True
        with trio.move_on_after(self._settings.grace_s):
            for client in self._clients:
                handlers.start_soon(_guard, client.drain)
            with trio.move_on_after(_WAIT_UNTOLD_S):
                await self._all_left()
            if self._clients:
                self._tell_of_the_wait()
            await self._all_left()

    async def _all_left(self) -> None:
        while self._clients:
            await self._departure.park()

    def _tell_of_the_wait(self) -> None:
        left_s = self._settings.grace_s - _WAIT_UNTOLD_S
        limit = "" if math.isinf(left_s) else f" for {left_s:g} s at most"
        count = len(self._clients)
        logger.info(
            "waiting for the calls in flight on %d connection%s%s; a second signal ends them at once",
            count,
            "" if count == 1 else "s",
            limit,
        )


async def _closing(
    serve_each: Callable[[trio.SocketStream], Awaitable[None]], stream: trio.SocketStream
) -> None:
    """Serve a connection, and close it unless somebody has taken its socket over."""
    try:
        await serve_each(stream)
    finally:
        stream.socket.close()


@contextmanager
def _waiting(listener: trio.SocketListener) -> Iterator[_Waiting]:
    """Yield what accepts some of those who wait for it, on the spot.

    A listener of Trio's accepts one in each round of the loop, and a round is long when there is much to do.
    """
    with socket.socket(fileno=os.dup(listener.socket.fileno())) as same:
        same.settimeout(0)

        def accepted() -> Iterator[trio.SocketStream]:
            for _ in range(_ACCEPTED_AT_ONCE):
                try:
                    client, _ = same.accept()
                except OSError as error:
                    if error.errno in _NO_ROOM:
                        raise
                    return  # nobody waits, or the client was gone before: Trio knows all that says so
                yield trio.SocketStream(trio.socket.from_stdlib_socket(client))

        yield accepted


async def _guard(task: Callable[[], Awaitable[None]]) -> None:
    """Let no error of one connection reach the others."""
    try:
        await task()
    except* Exception as error:  # noqa: BLE001 - this is the barrier
        log_ending(unwrapped(error))
