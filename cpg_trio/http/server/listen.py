"""Addresses to listen on: what may be written, and what it becomes. Touches sockets and socket files.

127.0.0.1:8080, [fd00::1]:8080   an address
[::]:8080, :8080                 all addresses of this machine, IPv6 and IPv4
0.0.0.0:8080                     all addresses of IPv4
localhost:8080                   the loopback addresses of both
name:8080                        all addresses of a name that are this machine's
unix:/path                       a Unix socket
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

import trio

from cpg_trio._addresses import is_loopback
from cpg_trio.http.server.errors import BindError

_UNIX = "unix:"
_ALL_ADDRESSES = "::"
_EVERYWHERE = frozenset({None, "0.0.0.0", _ALL_ADDRESSES})  # noqa: S104 - to tell them from others
# RFC 6761, 6.3: that name is this machine's, whatever a file or a name server says.
_LOOPBACK: Mapping[str | None, Sequence[str]] = {"localhost": ("127.0.0.1", "::1")}
_TRIES = 10  # to find a port that is free at all of them
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_ADVICE = {
    errno.EADDRINUSE: "stop what listens there, or choose another address (port 0 takes any free port)",
    errno.EACCES: "choose a port from 1024 up, or a path that this user may write",
    errno.ENOENT: "make its directory first, or choose another path",
    errno.EADDRNOTAVAIL: "choose an address of this machine, or :: for all",
}


@asynccontextmanager
async def listening(
    binds: Sequence[str], backlog: int, mode: int
) -> AsyncIterator[list[trio.SocketListener]]:
    """Listen on every address, and on none any more at the end. Raises: `BindError`.

    `mode` is that of the files of Unix sockets.
    """
    async with AsyncExitStack() as stack:
        listeners: list[trio.SocketListener] = []
        for bind in binds:
            listeners += [await stack.enter_async_context(each) for each in await _open(bind, backlog, mode)]
            if bind.startswith(_UNIX):
                stack.callback(_remove, _path(bind), _path(bind).lstat())
        yield listeners


def is_private(bind: str) -> bool:
    """Whether only this machine reaches an address: a Unix socket's, or one of the loopback interface."""
    if bind.startswith(_UNIX):
        return True
    host, _ = _host_and_port(bind)
    return host == "localhost" or is_loopback(host or "")  # another name may stand for anything


def is_unspecified(bind: str) -> bool:
    """Whether it stands for all addresses of this machine."""
    return not bind.startswith(_UNIX) and _host_and_port(bind)[0] in _EVERYWHERE


def name_of(bind: str) -> str:
    """Return the host name that is listened on; empty for an address, and for a Unix socket."""
    host = None if bind.startswith(_UNIX) else _host_and_port(bind)[0]
    try:
        ipaddress.ip_address(host or "::")
    except ValueError:
        return host or ""
    return ""


def is_unix(listener: trio.SocketListener) -> bool:
    """Whether a listener's clients come by a Unix socket."""
    return listener.socket.family == socket.AF_UNIX


def url(listener: trio.SocketListener, scheme: str) -> str:
    """Return where clients find this listener: a URL, or `unix:` and a path."""
    name = listener.socket.getsockname()
    if is_unix(listener):
        return f"{_UNIX}{name}"
    host = f"[{name[0]}]" if listener.socket.family == socket.AF_INET6 else name[0]
    return f"{scheme}://{host}:{name[1]}"


async def _open(bind: str, backlog: int, mode: int) -> list[trio.SocketListener]:
    try:
        if bind.startswith(_UNIX):
            return [_open_unix(_path(bind), backlog, mode)]
        host, port = _host_and_port(bind)
        return _open_tcp(await _addresses(host), port, backlog)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        advice = _ADVICE.get(error.errno or 0, "check the address")
        raise BindError(f"cannot listen on {bind}: {reason}; {advice}") from error


async def _addresses(host: str | None) -> list[str]:
    """Return the addresses that a host stands for."""
    if host in _LOOPBACK:
        return list(_LOOPBACK[host])
    found = await trio.socket.getaddrinfo(host or "::", 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _open_tcp(addresses: Sequence[str], port: int, backlog: int) -> list[trio.SocketListener]:
    """Listen on all addresses of a host that this machine has, on one port. Raises: OSError."""
    for tries_left in reversed(range(_TRIES)):
        try:
            sockets = _bound_to_all(addresses, port)
            break
        except OSError as error:
            # The port that was free at one address was taken at the next.
            if port or error.errno != errno.EADDRINUSE or not tries_left:
                raise
    for sock in sockets:
        sock.listen(backlog)
    return [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]


def _bound_to_all(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Return sockets that are bound; a machine may be without IPv6, or IPv4. Raises: OSError."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as opened:
        for address in addresses:
            try:
                sock = opened.enter_context(_bound(address, port))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
            else:
                sockets.append(sock)
                port = sock.getsockname()[1]
        if missing is not None and not sockets:
            raise missing
        opened.pop_all()
    return sockets


def _bound(address: str, port: int) -> socket.socket:
    """Return a socket that is bound. That of `::` takes IPv4 as well. Raises: OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if address == _ALL_ADDRESSES and error.errno == errno.EAFNOSUPPORT:
            return _bound("0.0.0.0", port)  # noqa: S104 - the kernel has no IPv6
        raise
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != _ALL_ADDRESSES)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def _path(bind: str) -> Path:
    return Path(bind.removeprefix(_UNIX))


def _host_and_port(bind: str) -> tuple[str | None, int]:
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isdecimal() or int(port) >= 2**16:
        raise BindError(f"cannot listen on {bind}: write host:port, [IPv6 address]:port or unix:/path")
    return host.removeprefix("[").removesuffix("]") or None, int(port)


def _open_unix(path: Path, backlog: int, mode: int) -> trio.SocketListener:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(mode)  # before anybody can connect
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _remove(path: Path, made: os.stat_result) -> None:
    """Remove the socket file that was made, unless another one has its name by now."""
    with suppress(FileNotFoundError):
        if os.path.samestat(path.lstat(), made):
            path.unlink()


def _remove_stale(path: Path) -> None:
    """Remove the socket file of a server that was killed; leave one that somebody answers on."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003 - the name says it
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except BlockingIOError:
            pass  # somebody does, and is busy
