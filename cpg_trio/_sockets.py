"""How a TCP connection learns that the machine at its other end has vanished: by having the kernel ask.

A machine that loses its power, its cable or its place behind a NAT says no farewell. Whoever only waits for
it would wait for ever, and what was sent to it last holds the connection for a quarter of an hour on Linux.
Sets options of sockets; sends and receives nothing.
"""

from __future__ import annotations

import socket
from contextlib import suppress

import trio

# The first probe goes out after as much silence as with Go's net package, on which many of our peers are.
# Four lost at 5 s from each other are no accident. It makes 35 s, where Linux by default takes two hours.
_IDLE_S = 15
_INTERVAL_S = 5
_PROBES = 4
_NOTICED_AFTER_S = _IDLE_S + _INTERVAL_S * _PROBES
_MAX_MS = 2**31 - 1  # a C int

_OPTIONS = {
    "TCP_KEEPIDLE": _IDLE_S,
    "TCP_KEEPALIVE": _IDLE_S,  # what macOS calls it
    "TCP_KEEPINTVL": _INTERVAL_S,
    "TCP_KEEPCNT": _PROBES,
}


def enable_keepalive(sock: trio.socket.SocketType, *, unread_s: float | None = None) -> None:
    """Have reads on a silent TCP socket fail about 35 s after the peer's machine has vanished.

    `unread_s`, if it is more than that, is the time instead, and it is the time for a socket with data on its
    way as well, which otherwise takes as long as the system repeats itself: 15 minutes on Linux. But it is
    also how long a peer that lives may leave data unread, since Linux tells neither from the other. So it is
    for connections with such a limit, and not for those on which a peer may take its time.

    Does nothing to a socket that is not TCP.
    """
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    options = dict(_OPTIONS)
    if unread_s is not None:
        options["TCP_USER_TIMEOUT"] = int(min(max(unread_s, _NOTICED_AFTER_S) * 1000, _MAX_MS))
    with suppress(OSError):  # the peer has left already, as reading will show; macOS says so here
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):  # not every platform has all
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
