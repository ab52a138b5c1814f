"""Connections above `max_connections`: answer 503 and close.

That costs a server hardly more than the accept: one answer, which fits the buffer of a new socket. A bounded
number of these connections stay open for a moment, in which what they send is dropped: to close while a
client sends would reset the connection, and the answer might be lost. The log has two lines for each time
that there is no room: when it begins, and when a tenth of all connections is free again.
"""

from __future__ import annotations

import os

import trio

from cpg_trio._throttle import LogThrottle
from cpg_trio.http.channel import SocketChannel
from cpg_trio.http.outgoing import plain_response
from cpg_trio.http.server.config import ServeConfig
from cpg_trio.http.server.errors import logger

_MOST_LINGERING = 100
_LEAST_LINGERING = 10
_LINGERING = 10  # between them a tenth of all connections: each has a file descriptor
_ROOM = 0.9  # of all connections; fewer are room again
_CLOSE = (b"connection", b"close")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Overload:
    """The connections that a server has no room for."""

    def __init__(self, settings: ServeConfig) -> None:
        self._most = settings.max_connections
        self._linger_s = settings.linger_s
        self._lingering: set[SocketChannel] = set()
        self._refused = 0  # since there was room
        self._most_lingering = min(
            _MOST_LINGERING, max(_LEAST_LINGERING, settings.max_connections // _LINGERING)
        )
        self._throttle = LogThrottle()

    def note(self, connections: int) -> None:
        """Note how many connections there are, and log it if there is room again."""
        if self._refused and connections < self._most * _ROOM:
            logger.warning("there is room for connections again; %d were refused", self._refused)
            self._refused = 0

    async def refuse(self, stream: trio.SocketStream, *, encrypted: bool) -> None:
        """Answer a connection with 503, and close it. One that expects TLS is only closed."""
        if not self._refused:
            logger.warning("%d connections are all that is allowed; more are refused", self._most)
        self._refused += 1
        channel = SocketChannel.of(stream)
        try:
            if encrypted:
                return
            text = f"too many connections (max: {self._most})\n"
            channel.send_nowait(plain_response(503, text, [_CLOSE]))
            if len(self._lingering) < self._most_lingering:
                await self._linger(channel)
        except _GONE:
            pass
        finally:
            channel.close()

    def cannot_accept(self, error: OSError) -> None:
        """Note that no connection can be accepted for want of a resource; log it once in a while."""
        if (more := self._throttle.suffix()) is not None:
            why = os.strerror(error.errno or 0).lower()
            logger.warning("new connections wait, and those that there are go on: %s%s", why, more)

    def abort(self) -> None:
        """Close the connections that stay open for a moment."""
        for channel in self._lingering:
            channel.close()

    async def _linger(self, channel: SocketChannel) -> None:
        self._lingering.add(channel)
        try:
            channel.shut_down(sending_only=True)
            with trio.move_on_after(self._linger_s):
                while await channel.receive():
                    pass
        finally:
            self._lingering.remove(channel)
