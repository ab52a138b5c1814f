"""The HTTP/2 connections of a pool: one to an origin, and another one when that has no room for a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from cpg_trio.http.client.exchange import Connection
from cpg_trio.http.client.http2 import Http2Connection
from cpg_trio.http.client.origin import Origin


class Http2Pool:
    """Gives connections that have room for a stream. Changed between checkpoints only.

    `open_connection` opens one, which `close_connection` closes. While `keeps` is false, one that becomes
    idle is closed.
    """

    def __init__(
        self,
        open_connection: Callable[[Origin], Awaitable[Connection]],
        close_connection: Callable[[Connection], object],
        max_head_bytes: int,
    ) -> None:
        self._open = open_connection
        self._close = close_connection
        self._max_head_bytes = max_head_bytes
        self._connections: dict[str, list[Http2Connection]] = {}  # by origin
        self._opening: dict[str, trio.Lock] = {}
        self.keeps = True

    async def get(self, origin: Origin) -> Http2Connection:
        """Return a connection on which a stream can be opened at once. Raises: what opening one raises."""
        if (known := self._with_room(origin)) is not None:
            return known
        lock = self._opening.setdefault(origin.key, trio.Lock())
        try:
            async with lock:  # those who wait share the one that is opened
                if (known := self._with_room(origin)) is not None:
                    return known
                opened = Http2Connection(await self._open(origin), self._max_head_bytes, self._on_idle)
                self._connections.setdefault(origin.key, []).append(opened)
                return opened
        finally:
            if not lock.locked():
                self._opening.pop(origin.key, None)

    def close_idle(self, not_used_since: float) -> None:
        """Close those that have had no stream since then."""
        for connections in list(self._connections.values()):
            for each in list(connections):
                if each.is_idle and each.idle_since <= not_used_since:
                    self._end(each)

    def _with_room(self, origin: Origin) -> Http2Connection | None:
        for each in list(self._connections.get(origin.key, ())):
            if each.is_idle:
                each.catch_up()
            if each.has_room:
                return each
            if each.is_idle:
                self._end(each)
        return None

    def _on_idle(self, connection: Http2Connection) -> None:
        if connection.is_over or connection.is_behind or not self.keeps:
            self._end(connection)

    def _end(self, connection: Http2Connection) -> None:
        key = connection.connection.origin.key
        self._connections[key].remove(connection)
        if not self._connections[key]:
            del self._connections[key]
        self._close(connection.connection)
