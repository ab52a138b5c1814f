"""Browsers that have been let in: a cookie for each, which opens one address for a while. No I/O.

A cookie is 256 random bits, of which only a digest is kept. Browsers send the cookies of an address to every
port of it, so the name of the cookie has the port, and a session is good for the `Host` that it began with
and for no other.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator

import attrs
import trio

_IDLE_S = 8 * 60 * 60.0
_MOST = 100
_MOST_SHOWN = 8  # cookies of one name in a request: pages of other ports may have set some
_COOKIE_BYTES = 32


@attrs.define(eq=False)
class Session:
    """A browser that has been let in."""

    host: bytes
    """The `Host` by which it calls."""
    proof: bytes
    """Of the token that let it in; empty if a one-time address did."""
    used_at: float
    """On the clock of the sessions."""


class Sessions:
    """The sessions of one server: no more than a hundred. Each ends after eight hours without a request.

    `is_valid` says whether what has let a browser in would do so now.
    """

    def __init__(
        self,
        *,
        is_valid: Callable[[bytes], bool] = lambda _: True,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._is_valid = is_valid
        self._clock = clock
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()  # by digest; the one used last comes last

    def __len__(self) -> int:
        """Return how many sessions are kept."""
        return len(self._sessions)

    def open(self, host: bytes, proof: bytes = b"", *, secure: bool) -> bytes:
        """Begin a session of the browser that calls by `host`; return the value of `Set-Cookie`.

        `secure`: the browser sends it by TLS only. The session that was used the longest time ago makes room.
        """
        secret = secrets.token_urlsafe(_COOKIE_BYTES).encode()
        self._sessions[_digest(secret)] = Session(host, proof, self._clock())
        if len(self._sessions) > _MOST:
            self._sessions.popitem(last=False)
        return _set_cookie(_name(host, secure=secure), secret, secure=secure)

    def find(self, host: bytes | None, cookies: bytes, *, secure: bool) -> Session | None:
        """Return the session that a request belongs to; None if there is none."""
        for digest, session in self._shown(host, cookies, secure=secure):
            if self._clock() - session.used_at < _IDLE_S and self._is_valid(session.proof):
                session.used_at = self._clock()
                self._sessions.move_to_end(digest)
                return session
            del self._sessions[digest]
        return None

    def close(self, host: bytes | None, cookies: bytes, *, secure: bool) -> bytes:
        """End the session that a request belongs to; return the `Set-Cookie` that removes its cookie."""
        for digest, _ in self._shown(host, cookies, secure=secure):
            del self._sessions[digest]
        return _set_cookie(_name(host or b"", secure=secure), b"", secure=secure) + b"; Max-Age=0"

    def _shown(self, host: bytes | None, cookies: bytes, *, secure: bool) -> Iterator[tuple[bytes, Session]]:
        """Yield the sessions of the cookies in a request that were given to this host."""
        if host is None:
            return
        name = _name(host, secure=secure)
        pairs = [pair.strip(b" \t").partition(b"=") for pair in cookies.split(b";")]
        for secret in [value for key, _, value in pairs if key == name][:_MOST_SHOWN]:
            digest = _digest(secret)
            session = self._sessions.get(digest)
            if session is not None and session.host == host:
                yield digest, session


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _name(host: bytes, *, secure: bool) -> bytes:
    """Return the name of the cookie. The prefix has browsers take it from the host itself only, by TLS."""
    port = host.rpartition(b":")[2]
    name = b"cpg-trio-admin" + (b"-" + port if port.isdigit() else b"")
    return b"__Host-" + name if secure else name


def _set_cookie(name: bytes, value: bytes, *, secure: bool) -> bytes:
    return b"%b=%b; Path=/; HttpOnly; SameSite=Strict" % (name, value) + (b"; Secure" if secure else b"")
