"""Whose socket has something, of many: one epoll of our own for all of them, and one task that asks it.

To wait for a socket the usual way costs a trip through the scheduler and a change to Trio's epoll, each time.
Here a socket is entered once, and whoever watches it is called, in the task that asks, whenever something has
come (once for each arrival, not for as long as it is there) or the other side has ended. So what can be done
at once is done at once, for all that are ready, in one go; what has to wait is left to tasks. And that a
client has left is seen though nobody reads from it. Linux only.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Callable
from contextlib import suppress
from typing import Self, TypeAlias

import trio

#: Whether the platform has what it takes.
REACTOR_AVAILABLE = hasattr(select, "epoll")

_EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET if REACTOR_AVAILABLE else 0
_READABLE = select.EPOLLIN if REACTOR_AVAILABLE else 0
_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR if REACTOR_AVAILABLE else 0
_AT_ONCE = 64  # sockets that are seen to until other tasks have their turn

Watcher: TypeAlias = Callable[[bool, bool], None]
"""Is told whether something has come, and whether the other side has ended; both may be."""

_log = logging.getLogger("cpg_trio.http")  # the same that the rest of the serving side writes to


class Reactor:
    """Calls the watchers of sockets. A context manager; `keep` has to run within."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()

    def enter(self, fd: int) -> None:
        """Take a socket in. It is to be taken out before it is closed."""
        self._epoll.register(fd, _EVENTS)

    def watch(self, fd: int, watcher: Watcher) -> None:
        """Call `watcher` for a socket that has been entered, from now on; nobody else is called for it."""
        self._watchers[fd] = watcher

    def ignore(self, fd: int) -> None:
        """Call nobody for a socket."""
        self._watchers.pop(fd, None)

    def take_out(self, fd: int) -> None:
        """Take a socket out."""
        self.ignore(fd)
        with suppress(OSError, ValueError):  # whoever ends all of this may have closed the epoll before
            self._epoll.unregister(fd)

    async def keep(self) -> None:
        """Call watchers, until cancelled. What one of them raises is logged, and the others go on."""
        epoll, watchers = self._epoll, self._watchers
        while True:
            await trio.lowlevel.wait_readable(epoll.fileno())
            for fd, events in epoll.poll(0, _AT_ONCE):
                watcher = watchers.get(fd)  # whoever was called before may have taken it out
                if watcher is None:
                    continue
                try:
                    watcher(bool(events & _READABLE), bool(events & _GONE))
                except Exception:  # noqa: BLE001 - the barrier between one connection and the others
                    _log.exception("an error in what a connection does at once")
