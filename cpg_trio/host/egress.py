"""Where plugins may have the host send traffic: to themselves.

A plugin says at which URL the host finds it, and the host then sends other plugins' calls there. Unchecked,
that would let any plugin aim the host at whatever the host can reach and the plugin cannot.
"""

from __future__ import annotations

import ipaddress
import socket
from enum import Enum
from typing import TypeAlias

import trio

from cpg_trio.http1 import Origin
from cpg_trio.rpc import Code, ConnectError

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class BaseUrls(Enum):
    """Which base URLs a plugin may register."""

    CALLER = "caller"
    """Those whose name is the address that the plugin calls from. A plugin on the host's own machine, which
    can reach all that the host can, may register any."""
    ANY = "any"
    """All. For networks where plugins call from another address than they listen on."""


async def check_base_url(base_url: str, client: str | None, policy: BaseUrls) -> None:
    """Check a base URL that a plugin wants to register; `client` is its address and port.

    Raises: ConnectError `permission_denied` for one that is not the plugin's own. What is no URL at all
    passes: it leads nowhere.
    """
    caller = _address(client)
    if policy is BaseUrls.ANY or not base_url or caller is None or caller.is_loopback:
        return
    try:
        origin, _ = Origin.parse(base_url)
    except ValueError:
        return
    if caller not in await _resolve(origin.host, origin.port):
        raise ConnectError(
            Code.PERMISSION_DENIED,
            f"base_url {base_url} is not at the address that this call came from: {caller}",
        )


def _address(client: str | None) -> _Address | None:
    """Return the address of `10.0.0.5:49152`, or None for a caller without one (a Unix socket)."""
    try:
        return _plain(ipaddress.ip_address((client or "").rpartition(":")[0]))
    except ValueError:
        return None


def _plain(address: _Address) -> _Address:
    return getattr(address, "ipv4_mapped", None) or address


async def _resolve(host: str, port: int) -> set[_Address]:
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {_plain(ipaddress.ip_address(sockaddr[0])) for *_, sockaddr in found}
