"""What a host says to one of its plugins, signed: who calls, or that it is the host itself.

An assertion is a JSON Web Token (RFC 7519) under HMAC-SHA-256, bound to a purpose, to the plugin that it is
for, to a method, and to a short time. Its key follows from the digest of that plugin's own runtime token,
which nobody but the plugin and its host can have; the token does not follow from the key. So no plugin can
say to another what only their host may say, and what is said to one means nothing to another.
"""

from __future__ import annotations

import hashlib
import hmac
import sys
from collections.abc import Iterable
from enum import Enum
from typing import Any

import attrs
import jwt

ALGORITHM = "HS256"

#: Seconds by which the time of a host and what a plugin takes for it may differ.
LEEWAY_S = 30.0

#: Seconds for which an assertion is good at most. One that says more was made by a clock that is ahead.
LONGEST_S = 60.0

#: Characters. No assertion is longer, and nothing longer is looked at.
MAX_LENGTH = 4096


_LONGEST_PATH = 1024  # bytes


class Purpose(Enum):
    """What an assertion is for. Those for one purpose are worth nothing for another."""

    CONTROL = "control"
    """The host itself calls."""
    CALLER = "caller"
    """A plugin calls through the host."""
    DIRECT = "direct"
    """A plugin may call without the host in between, any method below a path."""
    ENROL = "enrol"
    """A managing host calls a plugin that has no identity yet; the key is from its enrolment token."""


class InvalidAssertionError(Exception):
    """What was shown proves nothing; the message says why, and has nothing of it."""


class ClocksDifferError(InvalidAssertionError):
    """What was shown is of the plugin's host, and for the plugin, but of another time: not of about now."""


@attrs.frozen
class Assertion:
    """One statement."""

    subject: str
    """Who calls: a runtime id; empty for the host."""
    name: str
    """The caller's own name, which its runs share; empty for the host."""
    audience: str
    """The plugin that is called: a runtime id; for enrolment its own name."""
    path: str
    """What is called, as `path_claim` says it; to call directly, what the path begins with."""
    expires_at: float
    """In seconds since 1970, and no more than `LONGEST_S` after it is made."""


def shared_key(digest: bytes, purpose: Purpose) -> bytes:
    """Return the key of a purpose, from the digest of a token (see `wire.token_digest`)."""
    return hmac.new(digest, f"cpg_trio {purpose.value}".encode(), hashlib.sha256).digest()


def path_claim(raw_path: bytes) -> str:
    """Return a path as an assertion has it: as it travels, or a digest of one that is very long."""
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


def read(shown: str, digests: Iterable[bytes], purpose: Purpose, audience: str, now: float) -> Assertion:
    """Return the assertion that was shown, if it is signed with one of the digests and for `audience`.

    `now` is in seconds since 1970. What is called is for the caller to compare.
    Raises: InvalidAssertionError.
    """
    if len(shown) > MAX_LENGTH:
        raise InvalidAssertionError("too long")
    for digest in digests:
        try:
            claims = signed_claims(shown, shared_key(digest, purpose), ("sub", "name", "aud", "path"))
        except jwt.InvalidSignatureError:
            continue
        except jwt.InvalidTokenError:
            break
        return _checked(claims, audience, now)
    raise InvalidAssertionError("not signed by this plugin's host")


def signed_claims(shown: str, key: bytes, texts: Iterable[str]) -> dict[str, Any]:
    """Return the claims of a token, of which `texts` are strings and `exp` is a number; no time is compared.

    Times are compared by whoever has a clock. Raises: jwt.InvalidTokenError, for whatever is wrong.
    """
    options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
    try:
        claims = jwt.decode(shown, key, algorithms=[ALGORITHM], options=options)
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
