"""Connecting to a Unix socket by its path. May touch: the file at the path, and the socket that it makes."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import trio


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
