"""Where plugins may have the host send traffic: to themselves.

A plugin says at which URL the host finds it, and the host then sends other plugins' calls there. Unchecked,
that would let any plugin aim the host at whatever the host can reach and the plugin cannot.
"""

from __future__ import annotations

import ipaddress
import socket
from enum import Enum

import trio

from cpg_trio.http1 import Origin
from cpg_trio.rpc import Code, ConnectError

from .addresses import Address, address_of, plain

_RESOLVE_S = 3.0


class BaseUrls(Enum):
    """Which base URLs a plugin may register."""

    CALLER = "caller"
    """Those whose name is the address that the plugin calls from. A plugin on the host's own machine, which
    can reach all that the host can, may register any. Who calls through the host's Unix socket is one: it is
    on the same machine, and the directory that the socket is in has been given to it (see `sockets`)."""
    ANY = "any"
    """All. For networks where plugins call from another address than they listen on."""


async def check_base_url(base_url: str, client: str | None, policy: BaseUrls) -> str:
    """Check a base URL that a plugin wants to register; `client` is its address and port, None at our socket.

    Return the address that it was checked for, to connect to, or an empty string if it may lead anywhere.
    What is no URL at all passes: it leads nowhere. Raises: ConnectError `permission_denied` for a URL that
    is not the plugin's own; `unavailable` for a name that cannot be resolved, or not yet.
    """
    caller = address_of(client)
    if policy is BaseUrls.ANY or not base_url or caller is None or caller.is_loopback:
        return ""
    try:
        origin, _ = Origin.parse(base_url)
    except ValueError:
        return ""
    if caller not in await _resolve(origin.host, origin.port):
        raise ConnectError(
            Code.PERMISSION_DENIED,
            f"base_url {base_url} is not at the address that this call came from: {caller}"
            " (a host with BASE_URLS=any takes any)",
        )
    return str(caller)


async def _resolve(host: str, port: int) -> set[Address]:
    try:
        with trio.fail_after(_RESOLVE_S):
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, trio.TooSlowError) as error:
        raise ConnectError(Code.UNAVAILABLE, f"the name {host} of base_url cannot be resolved") from error
    return {plain(ipaddress.ip_address(sockaddr[0])) for *_, sockaddr in found}
