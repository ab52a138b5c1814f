"""Tokens of grants: what a grant is for, signed by the hosts' key, so that each host of a directory knows it.

A token is a JSON Web Token (RFC 7519) under HMAC-SHA-256. Its key is derived from the hosts' key for this
purpose alone, so it is no runtime token, and a runtime token is no grant. To plugins it is opaque.
"""

from __future__ import annotations

from contextlib import suppress

import attrs
import jwt

from cpg_trio.assertions import ALGORITHM, Purpose, is_time, signed_claims
from cpg_trio.host.access import Keys

_MAX_LENGTH = 4096


@attrs.frozen(kw_only=True)
class GrantClaims:
    """The content of a token. Times are in seconds since 1970."""

    grant_id: str
    realm: str
    """The hosts that take it: the id of their directory, or of this run of a host that has it alone."""
    runtime_id: str
    """The owner."""
    self_id: str
    address: str
    """That the owner's handshake came from."""
    capability_type: str
    issued_at: float
    expires_at: float


class GrantTokens:
    """Signs tokens with the first of the hosts' keys, and verifies them with any."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def sign(self, claims: GrantClaims) -> str:
        """Return the token of a grant."""
        payload = {
            "jti": claims.grant_id,
            "aud": claims.realm,
            "sub": claims.runtime_id,
            "name": claims.self_id,
            "adr": claims.address,
            "cap": claims.capability_type,
            "iat": round(claims.issued_at, 3),
            "exp": round(claims.expires_at, 3),
        }
        return jwt.encode(payload, self._keys.derived(Purpose.GRANT)[0], ALGORITHM)

    def verify(self, token: str) -> GrantClaims | None:
        """Return the content of a token, None if no key has signed it. Its times are not compared."""
        if len(token) > _MAX_LENGTH:
            return None
        for key in self._keys.derived(Purpose.GRANT):
            with suppress(jwt.InvalidTokenError):
                claims = signed_claims(token, key, ("jti", "aud", "sub", "name", "adr", "cap"))
                if is_time(claims.get("iat")):
                    return GrantClaims(
                        grant_id=claims["jti"],
                        realm=claims["aud"],
                        runtime_id=claims["sub"],
                        self_id=claims["name"],
                        address=claims["adr"],
                        capability_type=claims["cap"],
                        issued_at=float(claims["iat"]),
                        expires_at=float(claims["exp"]),
                    )
        return None
