"""Ports for programs that do not choose one themselves."""

from __future__ import annotations

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
    try:
        port = next(port for _ in range(_ATTEMPTS) if (port := _bound(0)) not in _given)
    except StopIteration:
        raise LaunchError("all free ports of 127.0.0.1 are given to plugins") from None
    except OSError as error:
        raise LaunchError(f"it can be given no port: {reason(error)}") from None
    _given.add(port)
    try:
        yield port
    finally:
        _given.discard(port)


def is_taken(port: int) -> bool:
    """Whether somebody listens on a port, or this user may not."""
    try:
        _bound(port)
    except OSError:
        return True
    return False


def _bound(port: int) -> int:
    """Return the port that a socket could be bound to."""
    with socket.socket() as probe:
        # A port of connections that have ended may be listened on; one on which somebody listens may not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, bool(port))
        probe.bind(("127.0.0.1", port))
        return int(probe.getsockname()[1])
