"""Who has left, without reading: one epoll of our own for all connections, asked when it has something.

A server that reads on demand does not see that a client leaves in the middle of a call. The kernel does; and
told once for each connection to say so when the other side ends, and only then, it costs a call nothing.
Linux only.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

import trio

#: Whether the platform has what it takes.
HANGUPS_AVAILABLE = hasattr(select, "epoll")


class Hangups:
    """Tells of sockets whose other side has ended. A context manager; `keep` has to run within."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._told: dict[int, Callable[[], None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()

    @contextmanager
    def watched(self, fd: int, gone: Callable[[], None]) -> Iterator[None]:
        """Within the block, call `gone` when the other side of a socket ends, or the connection breaks."""
        self._told[fd] = gone
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLET)
        try:
            yield
        finally:
            # A socket that has been closed is out of the epoll already, and its number may be another's.
            if self._told.get(fd) is gone:
                del self._told[fd]
                with suppress(OSError):
                    self._epoll.unregister(fd)

    async def keep(self) -> None:
        """Tell, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, _ in self._epoll.poll(0):
                if (gone := self._told.get(fd)) is not None:
                    gone()
