"""What hosts sign, made by hand: as they do it, and as nobody should believe it."""

from __future__ import annotations

import time

from cpg_trio import wire
from cpg_trio.assertions import Assertion, Purpose, sign
from cpg_trio.host import Host

ECHO = "/echo.v1.EchoService/Echo"
CALLER_ID, CALLER_NAME = "caller-1", "caller"


def digest_of(host: Host, runtime_id: str) -> bytes:
    entry = host.identities.entry(runtime_id)
    assert entry is not None
    return entry.digest


def signed(
    digest: bytes,
    purpose: Purpose,
    audience: str,
    path: str,
    *,
    subject: str = "",
    name: str = "",
    for_s: float = 60.0,
) -> str:
    return sign(digest, purpose, Assertion(subject, name, audience, path, time.time() + for_s))


def from_caller(
    digest: bytes, audience: str, path: str = ECHO, purpose: Purpose = Purpose.CALLER, for_s: float = 60.0
) -> dict[str, str]:
    """Return the header by which a host says who calls."""
    token = signed(digest, purpose, audience, path, subject=CALLER_ID, name=CALLER_NAME, for_s=for_s)
    return {wire.CALLER_HEADER: token}


def granted(
    digest: bytes, audience: str, prefix: str, subject: str = CALLER_ID, for_s: float = 60.0
) -> dict[str, str]:
    """Return the headers of somebody who may call directly."""
    token = signed(digest, Purpose.DIRECT, audience, prefix, subject=subject, name=CALLER_NAME, for_s=for_s)
    return {wire.RUNTIME_ID_HEADER: CALLER_ID, wire.AUTHORIZATION_HEADER: f"Bearer {token}"}


def from_host(host: Host, runtime_id: str, path: str, *, for_s: float = 30.0) -> dict[str, str]:
    """Return the header that proves that a host itself calls one of its plugins."""
    token = signed(digest_of(host, runtime_id), Purpose.CONTROL, runtime_id, path, for_s=for_s)
    return {wire.AUTHORIZATION_HEADER.lower(): f"Bearer {token}"}
