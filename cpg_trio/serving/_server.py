"""The nursery of all connections: accept, serve, drain, stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import trio
from hypercorn.trio.worker_context import WorkerContext

from cpg_trio._sockets import enable_keepalive
from cpg_trio.asgi import App
from cpg_trio.serving._calls import unwrapped
from cpg_trio.serving._config import ServeConfig, hypercorn_config, logger
from cpg_trio.serving._connection import Connection, Service
from cpg_trio.serving._listen import listening, url

_DEFAULTS = ServeConfig()


async def serve(
    app: App,
    *,
    bind: str | Sequence[str] = "127.0.0.1:0",
    config: ServeConfig = _DEFAULTS,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application until `stop` is set, and then until what was in flight is done.

    `bind` is one address or several: `host:port` (port 0 takes any free port), `[::1]:port` or
    `unix:/path`. Reports, once it listens, the URLs it is reached at, e.g. `("http://127.0.0.1:41231",)`.

    From `stop` on nothing new is accepted, idle connections are closed, WebSockets are closed with code
    1001, and calls in flight have `config.grace_s` to finish; then they are cancelled, and `serve` returns.
    Cancelling `serve` ends everything at once.

    Raises: `BindError` when it cannot listen. Nothing that a client or the application does raises here.
    """
    binds = [bind] if isinstance(bind, str) else bind
    await _Server(app, config).run(binds, trio.Event() if stop is None else stop, task_status)


class _Server:
    def __init__(self, app: App, settings: ServeConfig) -> None:
        self._settings = settings
        self._context = WorkerContext(None)
        self._service = Service(app, settings, hypercorn_config(settings), self._context)
        self._connections: set[Connection] = set()
        self._departure = trio.lowlevel.ParkingLot()

    async def run(
        self, binds: Sequence[str], stop: trio.Event, task_status: trio.TaskStatus[tuple[str, ...]]
    ) -> None:
        async with AsyncExitStack() as stack:
            listeners = await stack.enter_async_context(listening(binds, self._settings.backlog))
            async with trio.open_nursery() as handlers:
                try:
                    task_status.started(tuple(map(url, listeners)))
                    await self._accept(listeners, handlers, stop)
                    await stack.aclose()
                    await self._drain(handlers)
                finally:
                    # The end of the grace, or a cancellation, or an error: whatever is left ends now.
                    for connection in self._connections:
                        connection.abort()

    async def _accept(
        self, listeners: list[trio.SocketListener], handlers: trio.Nursery, stop: trio.Event
    ) -> None:
        async with trio.open_nursery() as nursery:
            serve_all = partial(trio.serve_listeners, self._serve_connection, listeners)
            nursery.start_soon(partial(serve_all, handler_nursery=handlers))
            await stop.wait()
            nursery.cancel_scope.cancel()

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        if self._context.terminated.is_set():
            return
        enable_keepalive(stream.socket, unread_s=self._settings.send_timeout_s)
        connection = Connection(stream, self._service)
        self._connections.add(connection)
        try:
            await _guard(connection.run)
        finally:
            self._connections.remove(connection)
            self._departure.unpark_all()

    async def _drain(self, handlers: trio.Nursery) -> None:
        logger.debug("draining %d connections", len(self._connections))
        await self._context.terminated.set()
        with trio.move_on_after(self._settings.grace_s):
            for connection in self._connections:
                handlers.start_soon(_guard, connection.drain)
            while self._connections:
                await self._departure.park()


async def _guard(task: Callable[[], Awaitable[None]]) -> None:
    """Let no error of one connection reach the others."""
    try:
        await task()
    except* Exception as error:  # noqa: BLE001 - this is the barrier
        logger.error("an error ended a connection", exc_info=unwrapped(error))
