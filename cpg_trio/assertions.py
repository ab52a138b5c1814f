"""Assertions: statements that a host signs for one of its plugins, such as who calls it.

An assertion is a JSON Web Token (RFC 7519) under HMAC-SHA-256, for one purpose, one plugin, one method and a
short time. Its key is derived from the digest of the plugin's runtime token, which only the plugin and its
host have; the token cannot be derived from the key. So no plugin can sign for another one, and what is signed
for one plugin is not valid for another.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import sys
from collections.abc import Iterable
from enum import Enum
from typing import Any

import attrs
import jwt

ALGORITHM = "HS256"

#: Seconds by which the clocks of a host and a plugin may differ.
LEEWAY_S = 30.0

#: Seconds for which an assertion is valid at most. One that expires later was made by a clock that is ahead.
LONGEST_S = 60.0

#: Characters. Anything longer is refused without a look at its content.
MAX_LENGTH = 4096


_LONGEST_PATH = 1024  # bytes
# RFC 7515, section 2. PyJWT takes padding as well, and older versions skip what is not ASCII.
_TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


class Purpose(Enum):
    """What an assertion is for. It is not valid for another purpose."""

    CONTROL = "control"
    """The host itself calls."""
    CALLER = "caller"
    """A plugin calls through the host."""
    DIRECT = "direct"
    """A grant: a plugin may call any method below a path without the host in between."""
    GRANT = "grant"
    """A grant of a capability; a key that hosts sign tokens with makes the key."""
    ENROL = "enrol"
    """A managing host calls a plugin that has no identity yet; its enrolment token makes the key."""
    HOST = "host"
    """A host calls another host of its directory; the key that both sign tokens with makes the key."""


class InvalidAssertionError(Exception):
    """It proves nothing. The message says why, and has nothing of the token in it."""


class ClocksDifferError(InvalidAssertionError):
    """It is of the plugin's host and for the plugin, but expired or not valid yet: the clocks may differ."""


@attrs.frozen
class Assertion:
    """What an assertion states."""

    subject: str
    """Who calls: a runtime id; empty for the host."""
    name: str
    """The caller's `self_id`; empty for the host."""
    audience: str
    """The plugin that is called: a runtime id; for enrolment its `self_id`."""
    path: str
    """What is called, in the form of `path_claim`; of a grant, the beginning of the path."""
    expires_at: float
    """Seconds since 1970, at most `LONGEST_S` after it is made."""


def shared_key(digest: bytes, purpose: Purpose) -> bytes:
    """Return the key of a purpose, from another secret: the digest of a token, say."""
    return hmac.new(digest, f"cpg_trio {purpose.value}".encode(), hashlib.sha256).digest()


def path_claim(raw_path: bytes) -> str:
    """Return the form of a path in assertions: as it travels, or the digest of a very long one."""
    if len(raw_path) <= _LONGEST_PATH:
        return raw_path.decode("latin-1")
    return f"sha256:{hashlib.sha256(raw_path).hexdigest()}"  # which no path can be: they begin with a slash


def sign(digest: bytes, purpose: Purpose, assertion: Assertion) -> str:
    """Return an assertion as it travels."""
    claims = {
        "sub": assertion.subject,
        "name": assertion.name,
        "aud": assertion.audience,
        "path": assertion.path,
        "exp": round(assertion.expires_at, 3),
    }
    return jwt.encode(claims, shared_key(digest, purpose), ALGORITHM)


def verify(token: str, digests: Iterable[bytes], purpose: Purpose, audience: str, now: float) -> Assertion:
    """Return the assertion of a token that is signed with one of the digests and for `audience`.

    `now` is in seconds since 1970. The caller of this function compares the path.
    Raises: InvalidAssertionError.
    """
    if len(token) > MAX_LENGTH:
        raise InvalidAssertionError("too long")
    for digest in digests:
        try:
            claims = signed_claims(token, shared_key(digest, purpose), ("sub", "name", "aud", "path"))
        except jwt.InvalidSignatureError:
            continue
        except jwt.InvalidTokenError:
            break
        return _checked(claims, audience, now)
    raise InvalidAssertionError("not signed by this plugin's host")


def signed_claims(token: str, key: bytes, texts: Iterable[str]) -> dict[str, Any]:
    """Return the claims of a token, of which `texts` are strings and `exp` is a number.

    No time is compared. Raises: jwt.InvalidTokenError for whatever is wrong.
    """
    if _TOKEN.fullmatch(token) is None:
        raise jwt.DecodeError("not a token")
    options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
    try:
        claims = jwt.decode(token, key, algorithms=[ALGORITHM], options=options)
    except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError) as error:
        raise error if isinstance(error, jwt.InvalidTokenError) else jwt.DecodeError("not a token") from None
    if not is_time(claims.get("exp")) or not all(isinstance(claims.get(name), str) for name in texts):
        raise jwt.InvalidTokenError("a claim is missing, or of another type")
    return claims


def is_time(claim: object) -> bool:
    """Whether a claim is a number that can be a time."""
    if not isinstance(claim, int | float) or isinstance(claim, bool):
        return False
    return abs(claim) <= sys.float_info.max  # an integer may be too large for a float


def _checked(claims: dict[str, Any], audience: str, now: float) -> Assertion:
    if claims["aud"] != audience:
        raise InvalidAssertionError("for another plugin")
    if (late_s := now - claims["exp"]) >= LEEWAY_S:
        raise ClocksDifferError(f"expired {late_s:.0f} s ago by this plugin's clock")
    if (early_s := claims["exp"] - LONGEST_S - now) > LEEWAY_S:
        raise ClocksDifferError(f"not valid for another {early_s:.0f} s by this plugin's clock")
    return Assertion(claims["sub"], claims["name"], claims["aud"], claims["path"], float(claims["exp"]))
