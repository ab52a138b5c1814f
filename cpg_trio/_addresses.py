"""Addresses of peers: what they are, and which of them count as one client."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOST_BITS = 64  # of IPv6, which whoever has one address can usually choose freely (RFC 6177)


def parse_address(text: str) -> Address | None:
    """Return an address, an IPv4-mapped one (RFC 4291, section 2.5.5.2) as IPv4; None for what is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(text: str) -> bool:
    """Whether an address is one that only this machine reaches; what is no address is not."""
    address = parse_address(text)
    return address is not None and address.is_loopback


def address_key(text: str) -> str:
    """Return what a client at an address counts as while it has proved no identity.

    Each IPv4 address is one, each IPv6 network of 64 bits, and all that come through a Unix socket (which
    have no address) together: they share the directory that it is in.
    """
    address = parse_address(text)
    if address is None:
        return "unix:"
    if isinstance(address, ipaddress.IPv6Address):
        return f"address:{int(address) >> _HOST_BITS:016x}/64"
    return f"address:{address}"
