"""Who is at the other end of a connection, as the connection itself tells: its address, and its certificate.

What a request says of where it comes from (`X-Forwarded-For` and the like) is never believed.
"""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

import attrs

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@attrs.frozen
class Peer:
    """The other end of a connection."""

    address: str = ""
    """Without a port; empty for the host's Unix socket."""
    names: tuple[str, ...] = ()
    """Those of its certificate, if it has shown one that is good: URIs and DNS names."""

    @classmethod
    def at(cls, client: str | None, names: tuple[str, ...] = ()) -> Peer:
        """Return the peer at `10.0.0.5:49152` or `::1:49152`, None for a Unix socket."""
        address = parse_address((client or "").rpartition(":")[0])
        return cls(str(address) if address else "", names)


def parse_address(text: str) -> Address | None:
    """Return an address, an IPv4 address in IPv6's clothes as what it is; None for what is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
