"""Addresses to listen on: what may be written, and what it becomes. Touches sockets and socket files."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import trio

from cpg_trio.serving._errors import BindError

_UNIX = "unix:"
# To connect is to write. The group is there for programs under users of their own that share a directory, as
# containers do by the group of a volume; nobody else has any business here, whatever the umask says.
_MODE = 0o660
_ADVICE = {
    errno.EADDRINUSE: "stop what listens there, or choose another address (port 0 takes any free port)",
    errno.EACCES: "choose a port from 1024 up, or a path that this user may write",
    errno.ENOENT: "make its directory first, or choose another path",
    errno.EADDRNOTAVAIL: "choose an address of this machine, or 0.0.0.0 for all",
}


@asynccontextmanager
async def listening(binds: Sequence[str], backlog: int) -> AsyncIterator[list[trio.SocketListener]]:
    """Listen on every address, and on none any more at the end. Raises: `BindError`."""
    async with AsyncExitStack() as stack:
        listeners: list[trio.SocketListener] = []
        for bind in binds:
            listeners += [await stack.enter_async_context(each) for each in await _open(bind, backlog)]
            if bind.startswith(_UNIX):
                stack.callback(_remove, _path(bind), _path(bind).lstat())
        yield listeners


def is_private(bind: str) -> bool:
    """Whether only this machine reaches an address: a Unix socket's, or one of the loopback interface."""
    if bind.startswith(_UNIX):
        return True
    host, _ = _host_and_port(bind)
    try:
        return host == "localhost" or ipaddress.ip_address(host or "0.0.0.0").is_loopback  # noqa: S104
    except ValueError:  # a name, which may stand for anything
        return False


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


async def _open(bind: str, backlog: int) -> list[trio.SocketListener]:
    try:
        if bind.startswith(_UNIX):
            return [_open_unix(_path(bind), backlog)]
        host, port = _host_and_port(bind)
        return await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        advice = _ADVICE.get(error.errno or 0, "check the address")
        raise BindError(f"cannot listen on {bind}: {reason}; {advice}") from error


def _path(bind: str) -> Path:
    return Path(bind.removeprefix(_UNIX))


def _host_and_port(bind: str) -> tuple[str | None, int]:
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isdecimal() or int(port) >= 2**16:
        raise BindError(f"cannot listen on {bind}: write host:port, [IPv6 address]:port or unix:/path")
    return host.removeprefix("[").removesuffix("]") or None, int(port)


def _open_unix(path: Path, backlog: int) -> trio.SocketListener:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(_MODE)  # before anybody can connect
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
