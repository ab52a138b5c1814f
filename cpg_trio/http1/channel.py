"""A way to the other side: bytes in, bytes out, and nothing between the kernel and whoever asks.

`SocketChannel` talks to a non-blocking socket: it tries first, and waits only when the kernel says that there
is nothing, which saves a trip through the scheduler for most sends. `StreamChannel` does the same with any
Trio stream: TLS, or a stream in memory.

Errors are Trio's: `BrokenResourceError` for what the other side or the network does, `ClosedResourceError`
after `close`. Each method may be cancelled at its waits; what a cancelled send has sent, nobody knows.
"""

from __future__ import annotations

import select
import socket
import struct
from abc import ABC, abstractmethod
from contextlib import suppress

import trio

from .readiness import Readiness, Watcher

#: Bytes. The most that is asked of the other side at a time, and so the most held of a body.
RECEIVE_BYTES = 64 * 1024

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Channel(ABC):
    """One connection's bytes. One task may receive while another one sends."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Return what has come, waiting for something; nothing when the other side has ended."""

    @abstractmethod
    def receive_nowait(self) -> bytes | None:
        """Return what has come, or None if there is nothing, or it cannot be known without waiting."""

    @abstractmethod
    async def send_all(self, data: bytes) -> None:
        """Send everything."""

    @abstractmethod
    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting; return how many bytes that was."""

    @abstractmethod
    async def send_some(self, data: bytes | memoryview) -> int:
        """Send something, waiting until that is possible; return how much."""

    @abstractmethod
    def has_news(self) -> bool:
        """Look whether something has come, or the other side has ended, without taking it."""

    def watch(self, readiness: Readiness, watcher: Watcher) -> None:
        """Have `watcher` called when something comes, or the other side ends, until `ignore`."""
        raise NotImplementedError

    def ignore(self) -> None:  # noqa: B027 - where nobody is called there is nothing to do
        """Have nobody called any more."""

    @abstractmethod
    def shut_down(self, *, sending_only: bool = False) -> None:
        """End both directions, or one; whoever waits for them is told. The channel is still to be closed."""

    @abstractmethod
    def close(self, *, reset: bool = False) -> None:
        """Close at once, and wake whoever waits. With `reset`, what was sent and not read may be lost."""


class SocketChannel(Channel):
    """A channel over a connected socket, which it owns."""

    __slots__ = ("_drained", "_fd", "_full", "_news", "_readiness", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 - the name says it
        self._sock = sock
        self._fd = sock.fileno()
        self._drained = False  # the last read took all that there was, so the next one would be in vain
        self._full = False  # the last read took all that was asked for, so there may be more, without end
        self._news = select.poll()  # a third of the time that a look at the data takes
        self._news.register(self._fd, select.POLLIN)
        self._readiness: Readiness | None = None

    @classmethod
    def of(cls, stream: trio.SocketStream) -> SocketChannel:
        """Take a stream's socket over."""
        family, kind, proto = stream.socket.family, stream.socket.type, stream.socket.proto
        return cls(socket.socket(family, kind, proto, fileno=stream.socket.detach()))

    @property
    def socket(self) -> socket.socket:
        """The socket, for its options and addresses."""
        return self._sock

    @property
    def may_have_more(self) -> bool:
        """Whether the last read took all that was asked for, so that nobody is told of what it left."""
        return self._full

    def watch(self, readiness: Readiness, watcher: Watcher) -> None:
        if self._readiness is not readiness:
            self._leave_readiness()
            readiness.enter(self._fd)
            self._readiness = readiness
        readiness.watch(self._fd, watcher)

    def ignore(self) -> None:
        # It stays entered: to watch again costs next to nothing.
        if self._readiness is not None:
            self._readiness.ignore(self._fd)

    def _leave_readiness(self) -> None:
        if self._readiness is not None:
            self._readiness.take_out(self._fd)
            self._readiness = None

    def release(self) -> trio.SocketStream:
        """Give the socket up, as a stream of Trio's."""
        self._leave_readiness()
        return trio.SocketStream(trio.socket.from_stdlib_socket(self._sock))

    async def receive(self) -> bytes:
        while True:
            if self._drained:
                await self._readable()
            elif self._full:  # a peer that sends as fast as we read lets nobody else run
                await trio.lowlevel.checkpoint()
            if (data := self.receive_nowait()) is not None:
                return data

    def receive_nowait(self) -> bytes | None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            self._drained, self._full = True, False
            return None
        except OSError as error:
            raise self._broken() from error
        self._full = len(data) == RECEIVE_BYTES
        self._drained = not self._full
        return data

    async def send_all(self, data: bytes) -> None:
        sent = self.send_nowait(data)
        if sent == len(data):
            return
        with memoryview(data) as rest:
            while sent < len(data):
                sent += await self.send_some(rest[sent:])

    async def send_some(self, data: bytes | memoryview) -> int:
        while True:
            await self._writable()
            if sent := self.send_nowait(data):
                return sent

    def send_nowait(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._broken() from error

    def has_news(self) -> bool:
        return bool(self._news.poll(0))

    def shut_down(self, *, sending_only: bool = False) -> None:
        with suppress(OSError):  # the other side was first
            self._sock.shutdown(socket.SHUT_WR if sending_only else socket.SHUT_RDWR)

    def close(self, *, reset: bool = False) -> None:
        if self._sock.fileno() < 0:
            return
        self._leave_readiness()
        trio.lowlevel.notify_closing(self._fd)
        if reset:
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self._sock.close()

    async def _readable(self) -> None:
        self._check_open()
        await trio.lowlevel.wait_readable(self._fd)

    async def _writable(self) -> None:
        self._check_open()
        await trio.lowlevel.wait_writable(self._fd)

    def _check_open(self) -> None:
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError("this channel is closed")

    def _broken(self) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._sock.fileno() < 0:
            return trio.ClosedResourceError("this channel is closed")
        return trio.BrokenResourceError("the connection broke")


class StreamChannel(Channel):
    """A channel over any stream of Trio's, which it owns."""

    __slots__ = ("_stream",)

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive(self) -> bytes:
        return bytes(await self._stream.receive_some(RECEIVE_BYTES))

    def receive_nowait(self) -> bytes | None:
        return None

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def send_some(self, data: bytes | memoryview) -> int:
        await self._stream.send_all(data)
        return len(data)

    def send_nowait(self, data: bytes | memoryview) -> int:  # noqa: ARG002 - none of it
        return 0

    def has_news(self) -> bool:
        stream = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        return isinstance(stream, trio.SocketStream) and stream.socket.is_readable()

    def shut_down(self, *, sending_only: bool = False) -> None:
        stream = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        if isinstance(stream, trio.SocketStream):
            with suppress(OSError):
                stream.socket.shutdown(socket.SHUT_WR if sending_only else socket.SHUT_RDWR)

    def close(self, *, reset: bool = False) -> None:
        stream = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        if isinstance(stream, trio.SocketStream):
            with suppress(OSError):
                if reset:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            stream.socket.close()
