"""Connecting to an origin: name, TCP or a Unix socket, and TLS; and whose fault it is if that fails.

May touch: sockets, TLS, the system's resolver.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import trio

from cpg_trio._nursery import open_plain_nursery
from cpg_trio._sockets import enable_keepalive
from cpg_trio.http.channel import Channel, SocketChannel
from cpg_trio.http.client.errors import (
    ConnectFailedError,
    LocalFailureError,
    NotSentError,
    UnknownNameError,
)
from cpg_trio.http.client.origin import UNIX, Origin
from cpg_trio.http.client.resolver import LookUpError, Resolver
from cpg_trio.http.tls import TlsChannel, client_context

_HTTP1, _H2 = "http/1.1", "h2"  # in TLS
_NEXT_S = 0.25  # after which the next address is tried beside one that is silent (RFC 8305, section 8)

# Errors of the system that are about this machine, and not about the peer.
_LOCAL = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,  # no port is free, or the family of addresses is not there
        errno.EAFNOSUPPORT,
        errno.ENETDOWN,
        errno.ENETUNREACH,  # there is no route
        errno.EACCES,
        errno.EPERM,  # a packet filter of this machine
    }
)


def connect_unix(path: str) -> trio.SocketStream:
    """Return a connection to the socket at a path, without waiting.

    A symbolic link in the last place is not followed. Otherwise, a process that may write in the directory
    could make us connect to a socket elsewhere that it may not use itself. Links further up are followed.
    Raises: OSError; BlockingIOError if no more connections may wait there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the name says it
        with _held(path) as held:
            sock.connect(held)
    except BaseException:
        sock.close()
        raise
    # Trio's `connect` would take BlockingIOError for a connection in progress.
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


@contextmanager
def _held(path: str) -> Iterator[str]:
    """Yield a path to the file that is checked here, even if another one takes its place meanwhile.

    The path is short, too: a socket's path has 107 bytes at most. Systems other than Linux have no such path;
    there the file may be replaced between the check and the connection.
    """
    if not hasattr(os, "O_PATH"):
        _check(os.lstat(path), path)
        yield path
        return
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check(os.fstat(file), path)
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)


def _check(found: os.stat_result, path: str) -> None:
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), path)


async def connect(
    origin: Origin,
    ssl_context: Callable[[], ssl.SSLContext] = client_context,
    *,
    timeout_s: float = 5.0,
    resolver: Resolver | None = None,
    http2: bool = False,
) -> Channel:
    """Return a connection, which the caller closes: with TLS for https, except through a Unix socket.

    The addresses of the origin are tried in turn. `ssl_context` is asked for TLS alone; `timeout_s` is for
    all of it together; `resolver` looks names up. With TLS, the protocol is agreed on; without, the peer is
    known to speak it.
    Raises: ConnectFailedError; LocalFailureError; for the last address.
    """
    deadline = trio.current_time() + timeout_s
    resolver = resolver or Resolver()
    for address in origin.addresses[:-1]:
        try:
            return await _connect_to(address, origin, ssl_context, deadline, resolver, http2=http2)
        except NotSentError:
            continue
    return await _connect_to(origin.addresses[-1], origin, ssl_context, deadline, resolver, http2=http2)


async def _connect_to(
    address: str,
    origin: Origin,
    ssl_context: Callable[[], ssl.SSLContext],
    deadline: float,
    resolver: Resolver,
    *,
    http2: bool,
) -> Channel:
    place = where(origin, address)
    if address.startswith(UNIX):
        await trio.lowlevel.checkpoint()
        with _errors_of(place):
            return SocketChannel.of(connect_unix(address.removeprefix(UNIX)))
    context = _context(place, origin, ssl_context)
    found = await _look_up(place, address or origin.host, origin.port, deadline, resolver)
    with _errors_of(place), trio.fail_at(deadline):
        channel = await _connect_tcp(found, origin.port)
        return channel if context is None else await _with_tls(channel, context, origin.tls_name, http2=http2)


def _context(place: str, origin: Origin, ssl_context: Callable[[], ssl.SSLContext]) -> ssl.SSLContext | None:
    """Return what to speak TLS with, None for plain HTTP. Raises: LocalFailureError if none can be made."""
    if origin.scheme == "http":
        return None
    try:
        return ssl_context()
    except Exception as error:
        raise LocalFailureError(f"cannot connect to {place}: {error}") from error


async def _look_up(place: str, host: str, port: int, deadline: float, resolver: Resolver) -> list[str]:
    """Return the IP addresses of a name. Raises: UnknownNameError."""
    try:
        with trio.fail_at(deadline):
            return await resolver.addresses(host, port)
    except LookUpError as error:
        why = f"its name cannot be looked up: {error}"
        raise UnknownNameError(f"cannot connect to {place}: {why}") from error
    except trio.TooSlowError as error:
        why = "its name was not looked up within the time allowed"
        raise UnknownNameError(f"cannot connect to {place}: {why}") from error


async def _connect_tcp(addresses: Sequence[str], port: int) -> SocketChannel:
    if len(addresses) == 1:
        stream = await _open_tcp(addresses[0], port)
    else:
        stream = await _first_of(addresses, port)
    enable_keepalive(stream.socket)  # and no limit to what it leaves unread: a request may be a stream
    return SocketChannel.of(stream)


async def _open_tcp(address: str, port: int) -> trio.SocketStream:
    """Connect to one address. Raises: OSError, also if the socket got connected to itself.

    That happens where nothing listens and the kernel gives our end the same port (RFC 9293, 3.5).
    """
    stream = await trio.open_tcp_stream(address, port)  # with TCP_NODELAY, as all of Trio's
    if _is_connected_to_itself(stream.socket):
        stream.socket.close()
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return stream


def _is_connected_to_itself(sock: trio.socket.SocketType) -> bool:
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # the peer has left already
        return False


async def _first_of(addresses: Sequence[str], port: int) -> trio.SocketStream:
    """Return the first connection to one of several addresses. Raises: OSError for all of their errors."""
    failures: list[OSError] = []
    streams: list[trio.SocketStream] = []

    async def attempt(address: str, failed: trio.Event) -> None:
        try:
            streams.append(await _open_tcp(address, port))
        except OSError as error:
            failures.append(error)
            failed.set()
        else:
            nursery.cancel_scope.cancel()

    try:
        async with open_plain_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(_NEXT_S):
                    await failed.wait()
    except BaseException:
        _close(streams)
        raise
    if not streams:
        raise OSError from ExceptionGroup("no address could be connected to", failures)
    _close(streams[1:])
    return streams[0]


def _close(streams: Sequence[trio.SocketStream]) -> None:
    for stream in streams:
        stream.socket.close()


async def _with_tls(channel: SocketChannel, context: ssl.SSLContext, host: str, *, http2: bool) -> TlsChannel:
    try:
        tls = _tls_channel(channel, context, host, _H2 if http2 else _HTTP1)
        await tls.shake_hands()
        _check_protocol(tls, http2=http2)
    except BaseException:
        channel.close()
        raise
    return tls


def _tls_channel(channel: SocketChannel, context: ssl.SSLContext, host: str, protocol: str) -> TlsChannel:
    context.set_alpn_protocols([protocol])  # of the channels that are made with it until it is set again
    try:
        return TlsChannel(channel, context, server_hostname=host)
    finally:
        context.set_alpn_protocols([_HTTP1])


def _check_protocol(tls: TlsChannel, *, http2: bool) -> None:
    if http2 and tls.protocol != _H2:
        raise ConnectionError("it does not speak HTTP/2")


@contextmanager
def _errors_of(place: str) -> Iterator[None]:
    """Raise errors of connecting as ConnectFailedError or LocalFailureError, with place and reason."""
    try:
        yield
    except trio.TooSlowError as error:
        _fail(place, error, [ConnectionError("no connection within the time allowed")])
    except (OSError, ValueError, trio.BrokenResourceError) as error:
        _fail(place, error, list(_causes(error)))


def _fail(place: str, error: BaseException, causes: Sequence[BaseException]) -> NoReturn:
    """Raise the error for a failure, a LocalFailureError only if all of its causes are local."""
    why = "; ".join(sorted(set(map(_reason, causes))))
    kind = LocalFailureError if all(map(_is_local, causes)) else ConnectFailedError
    raise kind(f"cannot connect to {place}: {why}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors of the system, which Trio keeps as the cause: one, or one for each address."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    elif error.__cause__ is not None:
        yield from _causes(error.__cause__)
    else:
        yield error


def _is_local(cause: BaseException) -> bool:
    return isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno in _LOCAL


def where(origin: Origin, address: str = "") -> str:
    """Return how errors name an origin, and the address that was tried, if it is another."""
    url = f"{origin.scheme}://{origin.host_header.decode()}"
    return f"{url} at {address}" if address else url


def _reason(cause: BaseException) -> str:
    match cause:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted: {cause.verify_message}"
        case ssl.SSLError(reason=str(reason)):
            return f"TLS broke: {reason}"
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
        case _:
            return str(cause)
