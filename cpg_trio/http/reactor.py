"""Callbacks for many sockets: one is called whenever its socket has something to read, or its peer has left.

The usual way to wait for a socket, `trio.lowlevel.wait_readable`, costs a trip through the scheduler and a
change to Trio's epoll for each wait, and a task that waits. For small calls this was the largest single cost.
So a socket is registered once, in an epoll of our own, for which one task waits, and the watchers of all
sockets that are ready are called. A watcher does what it can without waiting, and leaves the rest to a task.
It also learns that a client has left although nobody reads.

What watchers send goes out when all watchers of a round have been called (`after_round`), and not one piece
after each of them. Python and the kernel each find their code and data still in the caches of the processor,
and a peer that sleeps is woken once for a round instead of once for each piece. Where waking is dear, this
takes a sixth off the processor's time for a routed call with 16 connections, and a quarter with 64; with few,
there is nothing to gather. A round has few sockets, so that the first of them does not wait long. To receive
from all sockets before any message is judged was tried, and so was to gather what tasks send: neither saved
anything.

What no peer waits for comes behind that (`behind_round`): the log line of a call and its statistics, which
take a third of the time between an answer of a provider and what is sent of it.

A watcher runs outside of the task that its connection belongs to. It must not raise for that connection's
sake: it logs the error, and ends that connection. What it raises all the same is logged, and the other
sockets are served. What is no `Exception` ends the reactor's task, as it would end that of a connection.

Epoll is Linux's. Elsewhere one task waits for each socket (`TaskReactor`). That is slower, and there a peer
that has left is noticed only when all that it sent before has been read. Open: kqueue reports that at once
(`EV_EOF`), but Trio's public interface gives no way to have it beside `wait_readable`.
"""

from __future__ import annotations

import logging
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Self, TypeAlias
from weakref import WeakSet

import trio

_HAS_EPOLL = hasattr(select, "epoll")
_EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET if _HAS_EPOLL else 0
_READABLE = select.EPOLLIN if _HAS_EPOLL else 0
_WRITABLE = select.EPOLLOUT if _HAS_EPOLL else 0
_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR if _HAS_EPOLL else 0
_WAKES_WRITER = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR if _HAS_EPOLL else 0
_FAILED = "an error in a callback of a connection"  # is logged, and the other callbacks are called
_AT_ONCE = 64  # sockets that are seen to until other tasks have their turn
_ROUND = 16  # sockets that are seen to until what has been left for the end of the round is done
_BUFFER_BYTES = 256 * 1024
_RECORD_BYTES = 16 * 1024  # the most in one record of TLS

Watcher: TypeAlias = Callable[[bool, bool], None]
"""Called with whether something can be read, and whether the peer has ended its side; both may be true."""

_log = logging.getLogger("cpg_trio.http")


def open_reactor() -> Reactor:
    """Return the fastest reactor that the platform has."""
    return EpollReactor() if _HAS_EPOLL else TaskReactor()


def peek(sock: socket.socket) -> bytes | None:
    """Return what a read would begin with: b"" if the peer has ended, None if there is nothing yet."""
    try:
        return sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


class Reactor(ABC):
    """Calls the watchers of sockets. A context manager; `run` has to run within."""

    @cached_property
    def held(self) -> WeakSet[object]:
        """Who holds a part of what was received, as its receiver does not take more."""
        return WeakSet()

    @cached_property
    def buffer(self) -> memoryview:
        """What a watcher may receive into. Others do so as well, so nothing in it outlasts the call."""
        return memoryview(bytearray(_BUFFER_BYTES))

    @cached_property
    def plain_buffer(self) -> memoryview:
        """As `buffer`, for what is in the TLS records there: one of them may be here in part already."""
        return memoryview(bytearray(_BUFFER_BYTES + _RECORD_BYTES))

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Release what the reactor holds of the system."""

    @abstractmethod
    def register(self, sock: socket.socket) -> Callable[[], None] | None:
        """Take a socket in. It must be unregistered before it is closed.

        Returns: what to call after each read that returned something; None if the reactor need not know.
        """

    @abstractmethod
    def unregister(self, fd: int) -> None:
        """Forget a socket. Tasks in `wait_readable` for it get `trio.ClosedResourceError`."""

    @abstractmethod
    def watch(self, fd: int, watcher: Watcher) -> None:
        """Call `watcher`, and no other, for a registered socket from now on: once for each arrival."""

    @abstractmethod
    def ignore(self, fd: int) -> None:
        """Call no watcher for a socket. It stays registered."""

    @abstractmethod
    def call_again(self, fd: int) -> None:
        """Call the watcher again, for what it has left unread, when other tasks have had their turn."""

    @abstractmethod
    def when_writable(self, fd: int, call: Callable[[], None]) -> None:
        """Call `call` once when something can be sent, or the socket is broken, until `ignore`."""

    def after_round(self, call: Callable[[], None]) -> None:
        """Call `call` when the watchers of this round have been called, in the order of such calls.

        Outside of a round it is called at once. No task has its turn before it.
        """
        call()

    def behind_round(self, call: Callable[[], None]) -> None:
        """Call `call` behind all that is called after this round, in the order of such calls.

        For what nobody waits for at the other end of a socket. Outside of a round it is called at once. No
        task has its turn before it.
        """
        call()

    @abstractmethod
    async def wait_readable(self, fd: int) -> None:
        """Wait until a registered socket has something to read, as one of its tasks."""

    @abstractmethod
    async def run(self) -> None:
        """Call watchers, until cancelled."""


class EpollReactor(Reactor):
    """One epoll, edge-triggered, and one task for all sockets."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._has_left_some = False  # a watcher, which is to be called again when others have had their turn
        # For the end of the round, and behind that; None outside of a round.
        self._left_for_end: list[Callable[[], None]] | None = None
        self._left_behind: list[Callable[[], None]] | None = None

    def __exit__(self, *_: object) -> None:
        self._epoll.close()

    def register(self, sock: socket.socket) -> None:
        self._epoll.register(sock, _EVENTS)

    def unregister(self, fd: int) -> None:
        self.ignore(fd)
        with suppress(OSError, ValueError):  # the epoll may have been closed before
            self._epoll.unregister(fd)

    def watch(self, fd: int, watcher: Watcher) -> None:
        self._watchers[fd] = watcher

    def ignore(self, fd: int) -> None:
        self._watchers.pop(fd, None)
        if self._writers:
            self._writers.pop(fd, None)

    def call_again(self, fd: int) -> None:
        self._has_left_some = True
        # Reports what is there, as when it was registered.
        self._epoll.modify(fd, _EVENTS | _WRITABLE if fd in self._writers else _EVENTS)

    def when_writable(self, fd: int, call: Callable[[], None]) -> None:
        self._writers[fd] = call
        self._epoll.modify(fd, _EVENTS | _WRITABLE)

    def after_round(self, call: Callable[[], None]) -> None:
        if self._left_for_end is None:
            call()
        else:
            self._left_for_end.append(call)

    def behind_round(self, call: Callable[[], None]) -> None:
        if self._left_behind is None:
            call()
        else:
            self._left_behind.append(call)

    async def wait_readable(self, fd: int) -> None:
        await trio.lowlevel.wait_readable(fd)

    async def run(self) -> None:
        task = trio.lowlevel.current_task()
        poll = _Poll(task, self._call_watchers)
        trio.lowlevel.add_instrument(poll)
        try:
            while True:
                task.custom_sleep_data = poll
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                if poll.error is not None:
                    raise poll.error
        finally:
            trio.lowlevel.remove_instrument(poll)

    def _call_watchers(self) -> None:
        left = _AT_ONCE
        self._has_left_some = False
        while left > 0:
            ready = self._epoll.poll(0, _ROUND)
            at_end: list[Callable[[], None]] = []
            behind: list[Callable[[], None]] = []
            self._left_for_end, self._left_behind = at_end, behind
            self._call_those_of(ready)
            self._left_for_end = None
            _call_all(at_end)
            _call_all(behind)
            self._left_behind = None
            # Where there were several, more may have come meanwhile.
            if len(ready) < 2 or self._has_left_some:  # noqa: PLR2004
                return
            left -= len(ready)

    def _call_those_of(self, ready: list[tuple[int, int]]) -> None:
        watchers, writers = self._watchers, self._writers
        for fd, events in ready:
            try:
                if events & _WAKES_WRITER and fd in writers:
                    writers.pop(fd)()
                watcher = watchers.get(fd)  # another watcher may have closed the socket just now
                if watcher is not None and events != _WRITABLE:
                    watcher(events & _READABLE > 0, events & _GONE > 0)
            except Exception:  # noqa: BLE001 - the barrier between one connection and the others
                _log.exception(_FAILED)


def _call_all(calls: list[Callable[[], None]]) -> None:
    """Call each, also those that are added meanwhile."""
    for call in calls:
        try:
            call()
        except Exception:  # noqa: BLE001 - the barrier between one connection and the others
            _log.exception(_FAILED)


class _Poll(trio.abc.Instrument):
    """Calls watchers as soon as the loop knows that the epoll is ready, and before any task has its turn.

    So a task that a watcher wakes has its turn in the same round of the loop, and not in the next one. The
    reactor's task waits for the epoll, so that the loop wakes up, and the watchers have its context. That it
    was woken is seen by its `custom_sleep_data`, which Trio clears then.
    """

    def __init__(self, task: trio.lowlevel.Task, call_watchers: Callable[[], None]) -> None:
        self._task = task
        self._call_watchers = call_watchers
        self.error: BaseException | None = None
        """For the reactor's task to raise. What an instrument raises would only have Trio call it no more."""

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - the signature is Trio's
        if self._task.custom_sleep_data is None:
            try:
                self._task.context.run(self._call_watchers)
            except BaseException as error:  # noqa: BLE001 - it is raised where it ends the server
                self.error = error


class _Registered:
    """A socket of a `TaskReactor`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.watcher: Watcher | None = None
        self.writing: trio.CancelScope | None = None
        """Of the task that waits until something can be sent."""
        self.life = trio.CancelScope()
        self.arrival = trio.lowlevel.ParkingLot()
        """Where tasks wait for something to read."""
        self._unread = False  # the watcher has been called, and nobody has read since
        self._read = trio.lowlevel.ParkingLot()

    async def follow(self) -> None:
        """Call the watcher for each arrival."""
        with self.life:
            while not self.life.cancel_called:  # or the socket may be closed
                await trio.lowlevel.wait_readable(self.sock)
                self.arrival.unpark_all()
                self._unread = True
                if self.watcher is not None:
                    begin = peek(self.sock)
                    if begin is None:  # somebody has read it since
                        continue
                    try:
                        self.watcher(True, not begin)  # noqa: FBT003 - that is what watchers take
                    except Exception:  # noqa: BLE001 - the barrier between one connection and the others
                        _log.exception(_FAILED)
                while self._unread:  # the socket stays readable: to wait for it now would never wait
                    await self._read.park()

    async def call_when_writable(self, call: Callable[[], None], scope: trio.CancelScope) -> None:
        """Call when something can be sent, in a scope."""
        with scope, suppress(trio.ClosedResourceError):
            if not scope.cancel_called:  # or the socket may be closed
                await trio.lowlevel.wait_writable(self.sock)
        if self.writing is scope and not scope.cancel_called:
            self.writing = None
            try:
                call()
            except Exception:  # noqa: BLE001 - the barrier between one connection and the others
                _log.exception(_FAILED)

    def ignore(self) -> None:
        """Call nobody."""
        self.watcher = None
        if self.writing is not None:
            self.writing.cancel()
            self.writing = None

    def rearm(self) -> None:
        """Have the next arrival reported, or what is there still."""
        self._unread = False
        self._read.unpark_all()


class TaskReactor(Reactor):
    """One task for each socket, on `trio.lowlevel.wait_readable`: for platforms without epoll.

    Only one task may wait for a socket that way. So the tasks that read it wait for the socket's task.
    """

    def __init__(self) -> None:
        self._sockets: dict[int, _Registered] = {}
        self._nursery: trio.Nursery | None = None

    def __exit__(self, *_: object) -> None:
        pass

    def register(self, sock: socket.socket) -> Callable[[], None]:
        registered = self._sockets[sock.fileno()] = _Registered(sock)
        if self._nursery is not None:
            self._nursery.start_soon(registered.follow)
        return registered.rearm

    def unregister(self, fd: int) -> None:
        registered = self._sockets.pop(fd)
        registered.ignore()  # its task may be about to call it
        registered.life.cancel()
        registered.arrival.unpark_all()

    def watch(self, fd: int, watcher: Watcher) -> None:
        self._sockets[fd].watcher = watcher
        self._sockets[fd].rearm()

    def ignore(self, fd: int) -> None:
        self._sockets[fd].ignore()

    def call_again(self, fd: int) -> None:
        self._sockets[fd].rearm()

    def when_writable(self, fd: int, call: Callable[[], None]) -> None:
        registered, scope = self._sockets[fd], trio.CancelScope()
        registered.writing = scope
        if self._nursery is not None:
            self._nursery.start_soon(registered.call_when_writable, call, scope)

    async def wait_readable(self, fd: int) -> None:
        registered = self._sockets[fd]
        registered.rearm()
        await registered.arrival.park()
        if self._sockets.get(fd) is not registered:
            raise trio.ClosedResourceError("the socket was closed")

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            for registered in self._sockets.values():
                self._nursery.start_soon(registered.follow)
            await trio.sleep_forever()
