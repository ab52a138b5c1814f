"""Statements of one host of a directory to another: that a call comes from it, and who has called it.

A statement is a JSON Web Token (RFC 7519) under HMAC-SHA-256. Its key is derived from a key that the hosts
sign tokens with, so no plugin can sign one, and no token of a plugin is one. It is for one host, one method
and one plugin, for a few seconds. Whoever sees one can use it for that plugin alone, with the plugin's token.

No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import jwt

from cpg_trio.assertions import ALGORITHM, LEEWAY_S, Purpose, shared_key, signed_claims
from cpg_trio.host.access import Peer

SIGNED_S = 10.0
"""How long a statement is good, in seconds, beside the leeway for clocks that differ."""

_MAX_LENGTH = 16 * 1024  # a certificate may have many names


NOBODY = Peer()
"""Who has called a host that calls by itself."""


class InvalidStatementError(Exception):
    """It proves nothing. The message says why, and has nothing of the statement in it."""


class AnotherHostError(InvalidStatementError):
    """It is for another host: for the former run of this one, maybe."""


@attrs.frozen(kw_only=True)
class HostStatement:
    """What a host states of a call that it sends to another host."""

    issuer: str
    """The id of the host that sends the call."""
    audience: str
    """The id of the host that is called."""
    path: str
    """Of the method that is called."""
    plugin: str
    """The runtime id of the plugin that the call is of, or about."""
    peer: Peer = NOBODY
    """Who has called the host that sends it; nobody if the call is its own."""


def sign_statement(keys: Sequence[bytes], statement: HostStatement, now: float) -> str:
    """Return a statement as it travels, signed with the first key. `now` is in seconds since 1970."""
    claims = {
        "iss": statement.issuer,
        "aud": statement.audience,
        "path": statement.path,
        "sub": statement.plugin,
        "adr": statement.peer.address,
        "names": list(statement.peer.names),
        "exp": round(now + SIGNED_S, 3),
    }
    return jwt.encode(claims, shared_key(keys[0], Purpose.HOST), ALGORITHM)


def verify_statement(
    token: str, keys: Sequence[bytes], expected: tuple[str, str, str], now: float
) -> HostStatement:
    """Return the statement that one of the keys has signed, and whose time is now.

    `expected` are its audience, path and plugin. Raises: InvalidStatementError; AnotherHostError.
    """
    if len(token) > _MAX_LENGTH:
        raise InvalidStatementError("it is too long")
    for key in keys:
        try:
            claims = signed_claims(token, shared_key(key, Purpose.HOST), ("iss", "aud", "path", "sub", "adr"))
        except jwt.InvalidSignatureError:
            continue
        except jwt.InvalidTokenError:
            break
        audience, *call = expected
        if [claims["path"], claims["sub"]] != call:
            raise InvalidStatementError("it is for another call")
        if claims["aud"] != audience:
            raise AnotherHostError("it is for another host")
        _check_time(float(claims["exp"]), now)
        peer = Peer(claims["adr"], _names(claims.get("names")))
        return HostStatement(
            issuer=claims["iss"],
            audience=claims["aud"],
            path=claims["path"],
            plugin=claims["sub"],
            peer=peer,
        )
    raise InvalidStatementError("no host with this key has signed it")


def _check_time(expires_at: float, now: float) -> None:
    if now - expires_at >= LEEWAY_S:
        raise InvalidStatementError(f"it has expired {now - expires_at:.0f} s ago by this host's clock")
    if (early_s := expires_at - SIGNED_S - now) >= LEEWAY_S:
        raise InvalidStatementError(f"it is of {early_s:.0f} s from now by this host's clock")


def _names(claim: object) -> tuple[str, ...]:
    if not isinstance(claim, list) or not all(isinstance(name, str) for name in claim):
        raise InvalidStatementError("its names are none")
    return tuple(claim)
