"""The bytes of one connection, without a layer between the caller and the kernel.

`SocketChannel` uses a non-blocking socket: it tries first, and waits only when the kernel has nothing, which
saves a trip through the scheduler for most sends. `tls.TlsChannel` is the same with TLS. `ChannelStream` is a
stream of Trio's over a channel.

Errors are Trio's: `BrokenResourceError` for what the other side or the network does, `ClosedResourceError`
after `close`. Each method may be cancelled at its waits; how much a cancelled send has sent is unknown.
"""

from __future__ import annotations

import select
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import attrs
import trio

from cpg_trio.http.reactor import Reactor, Watcher, peek

#: Bytes. The most that is asked of the other side at a time, and so the most held of a body.
RECEIVE_BYTES = 64 * 1024

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid


Address: TypeAlias = tuple[str, int] | None
"""A host and a port; None where there is none."""


@attrs.frozen
class PeerProcess:
    """The process at the other end of a Unix socket, as the kernel has noted it when it connected."""

    uid: int
    pid: int


class Channel(ABC):
    """One connection's bytes. One task may receive while another one sends."""

    __slots__ = ()

    @property
    def peer_names(self) -> tuple[str, ...]:
        """The names in the certificate that the other side has proved to be its own; none without TLS.

        An empty one is that of a certificate without names.
        """
        return ()

    @property
    def peer_process(self) -> PeerProcess | None:
        """The process at the other end; None where the kernel does not tell, as for TCP."""
        return None

    @property
    def tls(self) -> dict[str, Any] | None:
        """What ASGI's extension `tls` says of the connection, for one call; None without TLS."""
        return None

    @property
    @abstractmethod
    def socket(self) -> socket.socket:
        """The socket, for its options and addresses."""

    @property
    @abstractmethod
    def may_have_more(self) -> bool:
        """Whether the last read may have left something, which the reactor does not report."""

    @property
    @abstractmethod
    def drained(self) -> bool:
        """Whether the last read took all that there was, so that the next one would be in vain."""

    @abstractmethod
    def receive_nowait(self) -> bytes | None:
        """Return what has come, or None if there is nothing; b"" when the other side has ended."""

    def receive_shared_nowait(self, *, much: bool) -> bytes | memoryview | None:
        """As `receive_nowait`, for a watcher, which gets more at a time if it asks for `much`.

        What it gets is in the buffer of its reactor, and is to be used before the watcher returns.
        """
        del much
        return self.receive_nowait()

    @abstractmethod
    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting; return how many bytes that was.

        What is sent next begins with the byte behind those.
        """

    @abstractmethod
    async def wait_readable(self) -> None:
        """Wait until there may be something to receive."""

    @abstractmethod
    async def wait_writable(self) -> None:
        """Wait until something may be sent."""

    async def receive(self) -> bytes:
        """Return what has come, waiting for something; nothing when the other side has ended."""
        while True:
            if self.may_have_more:  # a fast peer must not keep other tasks from running
                await trio.lowlevel.checkpoint()
            elif self.drained:
                await self.wait_readable()
            if (data := self.receive_nowait()) is not None:
                return data

    async def send_all(self, data: bytes | memoryview) -> None:
        """Send everything."""
        sent = self.send_nowait(data)
        if sent == len(data):
            return
        with memoryview(data) as rest:
            while sent < len(data):
                sent += await self.send_some(rest[sent:])

    async def send_some(self, data: bytes | memoryview) -> int:
        """Send something, waiting until that is possible; return how much."""
        while True:
            await self.wait_writable()
            if sent := self.send_nowait(data):
                return sent

    @abstractmethod
    def is_readable(self) -> bool:
        """Look whether something has come, or the other side has ended, without taking it."""

    @abstractmethod
    def watch(self, reactor: Reactor, watcher: Watcher) -> None:
        """Have `reactor` call `watcher` when something comes, or the peer ends, until `ignore`."""

    @abstractmethod
    def ignore(self, *, for_good: bool = False) -> None:
        """Have no watcher called any more. To watch again costs next to nothing, unless it was `for_good`."""

    def call_again(self) -> bool:
        """Have the watcher called again for what it has left unread; return whether that can be done."""
        return False

    def when_writable(self, call: Callable[[], None]) -> None:
        """Have `call` called by the reactor that watches it, when something can be sent, until `ignore`."""
        raise NotImplementedError

    @abstractmethod
    def shut_down(self, *, sending_only: bool = False) -> None:
        """End both directions, or one, and wake the tasks that wait. The channel must still be closed."""

    @abstractmethod
    def close(self, *, reset: bool = False) -> None:
        """Close at once, and wake the tasks that wait. With `reset`, data on their way may be lost."""


class SocketChannel(Channel):
    """A channel over a connected socket, which it owns."""

    __slots__ = ("_drained", "_fd", "_full", "_on_read", "_poll", "_reactor", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 - the name says it
        self._sock = sock
        self._fd = sock.fileno()
        self._drained = False  # the last read took all that there was, so the next one would be in vain
        self._full = False  # the last read took all that was asked for, so there may be more, without end
        self._poll: select.poll | None = None
        if hasattr(select, "poll"):
            self._poll = select.poll()  # takes a third of the time of a look at the data
            self._poll.register(self._fd, select.POLLIN)
        self._reactor: Reactor | None = None
        self._on_read: Callable[[], None] | None = None  # tells the reactor, if that has to know

    @classmethod
    def of(cls, stream: trio.SocketStream) -> SocketChannel:
        """Take a stream's socket over."""
        family, kind, proto = stream.socket.family, stream.socket.type, stream.socket.proto
        return cls(socket.socket(family, kind, proto, fileno=stream.socket.detach()))

    @property
    def socket(self) -> socket.socket:
        return self._sock

    @property
    def peer_process(self) -> PeerProcess | None:
        if self._sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
            return None
        told = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(told)
        return PeerProcess(uid, pid)

    def addresses(self) -> tuple[Address, Address]:
        """Return the other side's address, and ours; None each for a Unix socket.

        Raises: OSError if the other side has left.
        """
        return _address(self._sock.getpeername()), _address(self._sock.getsockname())

    @property
    def may_have_more(self) -> bool:
        return self._full

    @property
    def drained(self) -> bool:
        return self._drained

    def watch(self, reactor: Reactor, watcher: Watcher) -> None:
        if self._reactor is not reactor:
            self._leave_reactor()
            self._on_read = reactor.register(self._sock)
            self._reactor = reactor
        reactor.watch(self._fd, watcher)

    def ignore(self, *, for_good: bool = False) -> None:
        if for_good:
            self._leave_reactor()
        elif self._reactor is not None:
            self._reactor.ignore(self._fd)

    def call_again(self) -> bool:
        if self._reactor is None:
            return False
        self._reactor.call_again(self._fd)
        return True

    def when_writable(self, call: Callable[[], None]) -> None:
        if self._reactor is not None:
            self._reactor.when_writable(self._fd, call)

    def _leave_reactor(self) -> None:
        if self._reactor is not None:
            self._reactor.unregister(self._fd)
            self._reactor = self._on_read = None

    def receive_nowait(self) -> bytes | None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            self._drained, self._full = True, False
            return None
        except OSError as error:
            raise self._broken(error) from error
        self._full = len(data) == RECEIVE_BYTES
        self._drained = not self._full
        if self._on_read is not None and data:  # nothing comes behind the end
            self._on_read()
        return data

    def receive_shared_nowait(self, *, much: bool) -> bytes | memoryview | None:
        if self._reactor is None:
            return self.receive_nowait()
        buffer = self._reactor.buffer
        most = len(buffer) if much else RECEIVE_BYTES
        try:
            size = self._sock.recv_into(buffer, most)
        except BlockingIOError:
            self._drained, self._full = True, False
            return None
        except OSError as error:
            raise self._broken(error) from error
        self._full = size == most
        self._drained = not self._full
        if self._on_read is not None and size:
            self._on_read()
        return buffer[:size]

    def send_nowait(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._broken(error) from error

    def is_readable(self) -> bool:
        return bool(self._poll.poll(0)) if self._poll is not None else peek(self._sock) is not None

    def shut_down(self, *, sending_only: bool = False) -> None:
        with suppress(OSError):  # the other side was first
            self._sock.shutdown(socket.SHUT_WR if sending_only else socket.SHUT_RDWR)

    def close(self, *, reset: bool = False) -> None:
        if self._sock.fileno() < 0:
            return
        self._leave_reactor()
        trio.lowlevel.notify_closing(self._fd)
        if reset:
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self._sock.close()

    async def wait_readable(self) -> None:
        self._check_open()
        if self._reactor is None:
            await trio.lowlevel.wait_readable(self._fd)
        else:
            await self._reactor.wait_readable(self._fd)

    async def wait_writable(self) -> None:
        self._check_open()
        await trio.lowlevel.wait_writable(self._fd)

    def _check_open(self) -> None:
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError("this channel is closed")

    def _broken(self, error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._sock.fileno() < 0:
            return trio.ClosedResourceError("this channel is closed")
        return trio.BrokenResourceError((error.strerror or str(error)).lower())


def _address(name: Any) -> Address:
    if not isinstance(name, tuple):
        return None
    # To a socket of both families, an IPv4 client has an address of IPv6 (RFC 4291, section 2.5.5.2).
    host = name[0].removeprefix("::ffff:")
    return (host if "." in host else name[0]), name[1]


class ChannelStream(trio.abc.Stream):
    """A channel, which it owns, as a stream of Trio's."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - it is what comes
        return await self._channel.receive()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        await self._channel.send_all(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await self._channel.wait_writable()

    async def aclose(self) -> None:
        self._channel.close()
        await trio.lowlevel.checkpoint()
