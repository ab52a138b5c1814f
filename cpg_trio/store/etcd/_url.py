"""What the URL of a store in etcd says. No I/O.

    etcd://[user@]host[:port][,host[:port]...]/prefix[?ca=file&cert=file&key=file]

`etcds` is with TLS. The prefix separates a directory from whatever else is in the same etcd.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, unquote

import attrs

from cpg_trio.http import Origin, TlsConfig

_SCHEMES = {"etcd": "http", "etcds": "https"}
_PORT = 2379
_FILES = ("ca", "cert", "key")
# RFC 3986, appendix B; any text matches. `urlsplit` reads one host, and refuses [::1] after another one.
_URL = re.compile(
    r"(?:(?P<scheme>[^:/?#]+):)?(?://(?P<netloc>[^/?#]*))?(?P<path>[^?#]*)"
    r"(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?",
    re.DOTALL,
)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]+\]|[^\[\]:]+)(?::(?P<port>[0-9]{1,5}))?")
_LIKE = "as in etcd://etcd-0:2379,etcd-1:2379/directories/production"


@attrs.frozen(kw_only=True)
class EtcdUrl:
    """Where a store is. Its text has no password."""

    endpoints: tuple[Origin, ...]
    """The members' client addresses."""
    prefix: str
    """What every key of the directory begins with: it begins and ends with a slash."""
    user: str = ""
    """Empty where etcd asks for no user."""
    password: str = attrs.field(default="", repr=False)
    tls: TlsConfig = attrs.field(factory=TlsConfig)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL. Raises: ValueError, whose message does not quote a password."""
        parts = next(_URL.finditer(url)).groupdict("")
        scheme = parts["scheme"].lower()
        if scheme not in _SCHEMES:
            raise ValueError(f"its scheme must be etcd, or etcds for TLS, {_LIKE}")
        if parts["fragment"]:
            raise ValueError("it must have no fragment: write # as %23")
        login, _, hosts = parts["netloc"].rpartition("@")
        user, _, password = login.partition(":")
        if password and not user:
            raise ValueError("it has a password without a user")
        return cls(
            endpoints=tuple(_endpoint(_SCHEMES[scheme], host) for host in hosts.split(",")),
            prefix=_prefix(parts["path"]),
            user=unquote(user),
            password=unquote(password),
            tls=_tls(scheme, parts["query"]),
        )

    def __str__(self) -> str:
        """Return it without the password and without files."""
        scheme = next(name for name, http in _SCHEMES.items() if http == self.endpoints[0].scheme)
        user = f"{self.user}@" if self.user else ""
        return f"{scheme}://{user}{','.join(map(_authority, self.endpoints))}{self.prefix.removesuffix('/')}"


def _authority(endpoint: Origin) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host}:{endpoint.port}"


def _endpoint(scheme: str, text: str) -> Origin:
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise ValueError(f"it must name hosts, separated by commas, each with its port or not, {_LIKE}")
    try:
        return Origin(scheme, match["host"].strip("[]").lower(), int(match["port"] or _PORT))
    except ValueError as error:
        raise ValueError(f"the host {match['host']}: {error}") from error


def _prefix(path: str) -> str:
    prefix = unquote(path).rstrip("/")
    if not prefix:
        raise ValueError(
            f"it must end with a path, {_LIKE}: the path separates this directory from what else is in etcd"
        )
    if "//" in prefix or not prefix.isprintable():
        raise ValueError("its path must have no empty part and no control characters")
    if "@" in path:  # a part of the password would be in the path
        raise ValueError("its path must have no @: a / in a user or password is written %2F, and an @ %40")
    return f"{prefix}/"


def _tls(scheme: str, query: str) -> TlsConfig:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options).difference(_FILES))
    if unknown:
        raise ValueError(f"it has an unknown option {unknown[0]!r}; there are {', '.join(_FILES)}")
    if options and scheme != "etcds":
        raise ValueError(f"{next(iter(options))}= is for TLS: the scheme must be etcds")
    empty = [name for name, file in options.items() if not file]
    if empty:
        raise ValueError(f"{empty[0]}= must name a file")
    if ("key" in options) and ("cert" not in options):
        raise ValueError("key= needs cert=, the file of the key's certificate")
    ca, cert, key = (Path(options[name]) if name in options else None for name in _FILES)
    return TlsConfig(ca_file=ca, cert_file=cert, key_file=key)
