"""Where a client connects to. No I/O."""

from __future__ import annotations

import ipaddress
import re
from functools import cached_property
from typing import Self
from urllib.parse import urlsplit

import attrs

UNIX = "unix:"
"""What the address of a Unix socket begins with; its path follows."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65535
_NOT_IN_A_URL = re.compile(r"[^\x21-\x7e]")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*:[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]{1,5}))?")
# A host name as resolvers take it; the underscore is no letter of RFC 1123, but container names have it.
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")


def _check_host(_: Origin, __: object, host: str) -> None:
    if ":" in host:
        # Raises a ValueError that says what is wrong. A zone (%eth0) means nothing to the peer.
        ipaddress.IPv6Address(host if "%" not in host else "")
    elif not _HOST_NAME.fullmatch(host):
        raise ValueError("the host must be a name or an address, in ASCII (xn--...) and without a port")


def _check_addresses(origin: Origin, attribute: object, addresses: tuple[str, ...]) -> None:
    if not addresses:
        raise ValueError("an origin has at least one address to connect to")
    for address in addresses:
        if not address.startswith(UNIX) and address:
            _check_host(origin, attribute, address)
        elif "\0" in address:
            raise ValueError("the path of a socket has no NUL")


def _check_port(_: Origin, __: object, port: int) -> None:
    if not 1 <= port <= _MAX_PORT:
        raise ValueError(f"the port must be a number from 1 to {_MAX_PORT}")


@attrs.frozen
class Origin:
    """A server: `host` is a name or an IP address, an IPv6 address without brackets.

    `addresses` are where to connect, in the order in which they are tried: names or IP addresses, with the
    origin's `port`; `unix:` and the path of a Unix socket, which is spoken to without TLS; and an empty one
    for `host` itself. In any case the `host` header and TLS have the name in `host`, which the certificate
    must contain. Origins that differ in any attribute share no connections.
    """

    scheme: str = attrs.field(validator=attrs.validators.in_(tuple(_DEFAULT_PORTS)))
    host: str = attrs.field(validator=_check_host)
    port: int = attrs.field(validator=_check_port)
    addresses: tuple[str, ...] = attrs.field(default=("",), validator=_check_addresses)

    @classmethod
    def parse(cls, url: str) -> tuple[Self, bytes]:
        """Split a base URL into its origin and its path without a trailing slash (b"" for the root).

        Raises: ValueError for what is not an absolute http or https URL, or has more than a path after the
        origin. The message doesn't quote the URL, which may hold a password.
        """
        _check_base_url(url)
        parts = urlsplit(url)
        authority = _AUTHORITY.fullmatch(parts.netloc)
        if parts.scheme not in _DEFAULT_PORTS or authority is None or not authority["host"]:
            raise ValueError(
                "a base URL is http or https, a host, and perhaps a port from 1 to 65535 and a path"
            )
        host = authority["host"].strip("[]").lower()
        port = int(authority["port"] or _DEFAULT_PORTS[parts.scheme])
        return cls(parts.scheme, host, port), parts.path.rstrip("/").encode("ascii")

    def at(self, addresses: tuple[str, ...]) -> Self:
        """Return the origin with other addresses. Raises: ValueError for one that is none."""
        return attrs.evolve(self, addresses=addresses)

    @cached_property
    def key(self) -> str:
        """A string that identifies it, which is quicker to compare."""
        return "|".join([self.scheme, self.host, str(self.port), *self.addresses])

    @cached_property
    def host_header(self) -> bytes:
        """The value of `host` for this origin: IPv6 in brackets, the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host.encode() if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}".encode()

    @property
    def tls_name(self) -> str:
        """The peer's name in TLS: its host name without the final dot of an absolute name (RFC 6066, 3)."""
        return self.host.removesuffix(".")


def _check_base_url(url: str) -> None:
    if _NOT_IN_A_URL.search(url):
        raise ValueError("a base URL has no spaces, control characters or letters beyond ASCII")
    if "?" in url or "#" in url:
        raise ValueError("a base URL has no query and no fragment")
    if "@" in urlsplit(url).netloc:
        raise ValueError("a base URL has no user information")
