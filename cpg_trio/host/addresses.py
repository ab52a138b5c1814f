"""The address that a call comes from, without its port. Pure functions; no I/O.

It is that of the connection. What a header says (`X-Forwarded-For`, `Forwarded`) anybody can say, so it is
never believed: behind a proxy, all callers have the address of the proxy.
"""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOST_BITS = 64  # of IPv6, which whoever has one address can usually choose freely (RFC 6177)


def address_of(client: str | None) -> Address | None:
    """Return the address of `10.0.0.5:49152`, or None for a caller without one (a Unix socket)."""
    try:
        return plain(ipaddress.ip_address((client or "").rpartition(":")[0]))
    except ValueError:
        return None


def plain(address: Address) -> Address:
    """Return an address as IPv4 if it is one in IPv6's clothes (RFC 4291, section 2.5.5.2)."""
    return getattr(address, "ipv4_mapped", None) or address


def key_of(client: str | None) -> str:
    """Return what a caller counts as that has proved no identity; no runtime id is the same.

    Each IPv4 address is one, each IPv6 network of 64 bits, and all that call through a Unix socket together:
    they share the directory that it is in.
    """
    address = address_of(client)
    if address is None:
        return "unix:"
    if isinstance(address, ipaddress.IPv6Address):
        return f"address:{int(address) >> _HOST_BITS:016x}/64"
    return f"address:{address}"


def named(client: tuple[str, int] | None) -> str | None:
    """Return a server's word for a client in one string, as calls have it."""
    return f"{client[0]}:{client[1]}" if client else None
