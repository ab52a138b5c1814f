"""What a browser's request says of the page that makes it, and what a browser is told of the pages. No I/O.

Four fields tell, which no page can choose: `Host` and `Origin` (see `BrowserGuard`), and the metadata of
Fetch, which browsers send to loopback addresses and by TLS: `Sec-Fetch-Site`, `-Mode` and `-Dest`. A page of
anybody else's may lead here by a link, which shows a page of ours and changes nothing; it may do nothing
else. In particular it may not show ours in a frame, nor take a script or a picture from here to learn whether
somebody is logged in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import attrs

from cpg_trio.asgi import HeaderList
from cpg_trio.http import ServeConfig
from cpg_trio.http.channel import Address
from cpg_trio.http.server.browsers import BrowserGuard

_SAFE = frozenset({"GET", "HEAD"})
_FOREIGN = frozenset(
    {b"cross-site", b"same-site"}
)  # the same site is another port, or another name of a domain
_SHOWS_PAGES = frozenset({b"", b"document"})
_FRAMES = frozenset({b"embed", b"fencedframe", b"frame", b"iframe", b"object"})
_HTML = b"text/html"

_POLICY = (
    b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
)
_ALWAYS: HeaderList = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # Not `no-referrer`: browsers would send `Origin: null` with the forms of our own pages.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_NO_STORE = (b"cache-control", b"no-store")
_OURS = frozenset({name for name, _ in _ALWAYS})
_DROPPED = (*_OURS, b"set-cookie")
_OF_CORS = b"access-control-"


@attrs.frozen
class BrowserRequest:
    """The fields of a request that tell of a browser and its page; empty where they are missing."""

    method: str
    host: bytes | None
    origin: bytes | None
    cookies: bytes
    authorization: bytes
    accept: bytes
    site: bytes
    mode: bytes
    destination: bytes

    @classmethod
    def of(cls, method: str, fields: Iterable[tuple[bytes, bytes]]) -> Self:
        """Read the fields of a request, with names in any case. Of those that come twice, all are read."""
        found: dict[bytes, bytes] = {}
        for name, value in fields:
            lower = name.lower()
            if lower in _READ:
                found[lower] = found[lower] + _READ[lower] + value if lower in found else value
        return cls(
            method, found.get(b"host"), found.get(b"origin"), *(found.get(name, b"") for name in _OTHERS)
        )

    @property
    def changes_something(self) -> bool:
        """Whether its method may change something."""
        return self.method not in _SAFE

    @property
    def shows_a_page(self) -> bool:
        """Whether a browser asks for what it shows next, in a window of its own."""
        return not self.changes_something and self.mode == b"navigate" and self.destination in _SHOWS_PAGES

    @property
    def wants_html(self) -> bool:
        """Whether a person is to read the answer."""
        return _HTML in self.accept.lower()


_OTHERS = (b"cookie", b"authorization", b"accept", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest")
_READ = {
    **dict.fromkeys((b"host", b"origin", *_OTHERS), b", "),
    b"cookie": b"; ",  # RFC 9113, 8.2.3
}
"""The fields that are read, and what stands between the values of one that comes twice."""


class PageRules:
    """Which requests of web pages are taken: those of our own pages, and links that lead here."""

    def __init__(self, binds: Iterable[str], allowed_hosts: Iterable[str] = ()) -> None:
        """Guard what listens on `binds`, also by the names in `allowed_hosts`."""
        config = ServeConfig(allowed_hosts=[host for host in allowed_hosts if host != "*"])
        self._guard = BrowserGuard(
            config, binds=list(binds), pages="no web page but the host's own may call this"
        )

    def why_not(self, request: BrowserRequest, server: Address) -> str:
        """Return why a request is refused; an empty string if it is not."""
        if why := self._guard.why_not(request.host, request.origin, server):
            return why
        if request.destination in _FRAMES:
            return "this is shown in no frame"
        if request.site in _FOREIGN and not request.shows_a_page:
            return "no web page but the host's own may call this"
        return ""

    @staticmethod
    def why_not_by_cookie(request: BrowserRequest) -> str:
        """Return why a request of `why_not` is not taken from who shows only a cookie; empty if it is.

        What sends the cookie is a browser, and a browser says which page asks for a change.
        """
        if request.changes_something and request.origin is None and request.site != b"same-origin":
            return "it does not say which page asks for this (Origin)"
        return ""


def permitted(fields: Iterable[tuple[bytes, bytes]]) -> HeaderList:
    """Return the fields of a response that no other than `secured` sets."""
    return [
        (name, value)
        for name, value in fields
        if (lower := name.lower()) not in _DROPPED and not lower.startswith(_OF_CORS)
    ]


def secured(fields: Iterable[tuple[bytes, bytes]], own: HeaderList | None = None) -> HeaderList:
    """Return the fields of a response, with what tells a browser what its page may do.

    Only fields in `own` set cookies.
    """
    kept = permitted(fields)
    cached = any(name.lower() == b"cache-control" for name, _ in kept)
    return [*kept, *_ALWAYS, *([] if cached else [_NO_STORE]), *(own or ())]
