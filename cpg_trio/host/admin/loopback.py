"""Whose program is at the other end of a loopback connection, as the tables of the kernel say it (Linux).

Every user of a machine reaches its loopback ports. Cookies do not keep them apart: a browser sends the
cookies of an address to all ports of it, and so to whatever another user has there.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from cpg_trio.http.channel import Address

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_MAPPED = "0" * 16 + f"{int.from_bytes(bytes([0, 0, 255, 255]), sys.byteorder):08X}"  # an address of IPv4
_LOCAL, _REMOTE, _UID = 1, 2, 7  # columns


def why_not_ours(client: Address, server: Address) -> str:
    """Return why the program at the client's end is not taken; empty if its user is ours, or root.

    It is empty as well on systems without these tables.
    """
    if client is None or server is None:
        return ""
    try:
        users = set(_users(f"{_word(client[0])}:{client[1]:04X}", f"{_word(server[0])}:{server[1]:04X}"))
    except OSError:
        return ""
    if users and users <= {0, os.geteuid()}:
        return ""
    return "this port is for programs of the user who has opened it"


def _users(client: str, server: str) -> Iterator[int]:
    """Yield the owners of the sockets from one end to another. Raises: OSError."""
    for table, prefix in zip(_TABLES, ("", _MAPPED), strict=True):
        for line in table.read_text("ascii").splitlines()[1:]:
            if client in line:
                columns = line.split()
                if columns[_LOCAL] == prefix + client and columns[_REMOTE] == prefix + server:
                    yield int(columns[_UID])


def _word(address: str) -> str:
    """Return an IPv4 address as the tables have it. Raises: OSError for another one."""
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"
