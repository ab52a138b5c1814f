"""Where a client connects to. No I/O."""

from __future__ import annotations

import ipaddress
import re
from functools import cached_property
from typing import Self
from urllib.parse import urlsplit

import attrs

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


def _check_address(origin: Origin, attribute: object, address: str) -> None:
    if address:
        _check_host(origin, attribute, address)


def _check_port(_: Origin, __: object, port: int) -> None:
    if not 1 <= port <= _MAX_PORT:
        raise ValueError(f"the port must be a number from 1 to {_MAX_PORT}")


def _check_socket_path(_: Origin, __: object, path: str) -> None:
    if "\0" in path:
        raise ValueError("the path of a socket has no NUL")


@attrs.frozen
class Origin:
    """Where to connect: `host` is a name or an address, an IPv6 address without brackets.

    With an `address`, that is connected to; `host` is what the peer is told, and what its certificate is to
    name. With a `socket_path` the connection is made to that Unix socket, without TLS, and address, host and
    port are where to connect if that cannot be had, if `tcp_too`. Pools tell origins apart by all of it.
    """

    scheme: str = attrs.field(validator=attrs.validators.in_(tuple(_DEFAULT_PORTS)))
    host: str = attrs.field(validator=_check_host)
    port: int = attrs.field(validator=_check_port)
    socket_path: str = attrs.field(default="", validator=_check_socket_path)
    tcp_too: bool = False
    address: str = attrs.field(default="", validator=_check_address)

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

    @cached_property
    def key(self) -> str:
        """What tells it apart from others, and is quicker to compare."""
        return f"{self.scheme}://{self.host}|{self.port}|{self.address}|{self.socket_path}"

    @cached_property
    def host_header(self) -> bytes:
        """The value of `host` for this origin: IPv6 in brackets, the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host.encode() if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}".encode()

    @property
    def tls_name(self) -> str:
        """What TLS calls the peer: its host name without the final dot of an absolute name (RFC 6066, 3)."""
        return self.host.removesuffix(".")


@attrs.frozen(cache_hash=True)
class ConnectTarget:
    """How to get to an origin, if not as its URL says. The default is as it says."""

    address: str = ""
    """A name or an address to connect to instead of the URL's."""
    socket_path: str = ""
    """A Unix socket to connect to before all."""
    tcp_too: bool = True
    """Whether to go to the address (or where the URL says) if the socket cannot be connected to."""

    def to(self, origin: Origin) -> Origin:
        """Return an origin, reached this way. Raises: ValueError for an address that is none."""
        return attrs.evolve(
            origin,
            address=self.address,
            socket_path=self.socket_path,
            tcp_too=self.tcp_too and bool(self.socket_path),
        )


def _check_base_url(url: str) -> None:
    if _NOT_IN_A_URL.search(url):
        raise ValueError("a base URL has no spaces, control characters or letters beyond ASCII")
    if "?" in url or "#" in url:
        raise ValueError("a base URL has no query and no fragment")
    if "@" in urlsplit(url).netloc:
        raise ValueError("a base URL has no user information")
