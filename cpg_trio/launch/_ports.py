"""Ports for programs that do not choose one themselves."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cpg_trio._reload import reason
from cpg_trio.host.supervision import LaunchError

_given: set[int] = set()  # to programs that may not listen yet
_ATTEMPTS = 100


@contextmanager
def free_port() -> Iterator[int]:
    """Yield a port on which nobody listens, and which nobody else is given within the block.

    Raises: LaunchError if there is none.
    """
    for _ in range(_ATTEMPTS):
        port = _bound(0)
        if port not in _given:
            break
    else:
        raise LaunchError("there is no free port on 127.0.0.1")
    _given.add(port)
    try:
        yield port
    finally:
        _given.discard(port)


def check_free(port: int) -> None:
    """Check that nobody listens on a port. Raises: LaunchError."""
    _bound(port)


def _bound(port: int) -> int:
    try:
        with socket.socket() as probe:
            # A port of connections that have ended may be listened on; one on which somebody listens may not.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, bool(port))
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE and port:
            raise LaunchError(f"port {port} is taken: stop what listens on it, or give another one") from None
        raise LaunchError(f"it can be given no port: {reason(error)}") from None
