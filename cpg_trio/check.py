"""The command `check`: asks the process that listens on this machine's `PORT` how it is.

Orchestrators run it every few seconds in each container, so it imports nothing but what it needs for that.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from cpg_trio.variables import misspelt

PATHS: Mapping[str, str] = {"ready": "/readyz", "startup": "/health", "live": "/healthz"}
"""The path to ask on, by what is asked."""

# Who listens on all addresses is asked at this machine's own, of which one may be missing.
_LOOPBACK = "127.0.0.1", "::1"
_OWN: Mapping[str, Sequence[str]] = {"": _LOOPBACK, "0.0.0.0": _LOOPBACK[:1], "::": _LOOPBACK}  # noqa: S104
_TIMEOUT_S = 2.0  # a process that is well answers in milliseconds
_OK = 200


def check(probe: str, environment: Mapping[str, str] | None = None) -> int:
    """Ask a probe, and print what it says. Return the exit status: 0 if all is well, 1 if not."""
    environment = os.environ if environment is None else environment
    port = environment.get("PORT", "")
    status, said = _ask_all(PATHS[probe], port, environment) if port else (0, "PORT does not say whom to ask")
    well = status == _OK
    print(
        said if well else "\n".join([said, *misspelt(environment)]), file=sys.stdout if well else sys.stderr
    )
    return 0 if well else 1


def _ask_all(path: str, port: str, environment: Mapping[str, str]) -> tuple[int, str]:
    """Ask at the first of the addresses of `BIND` where somebody answers."""
    bind, _, _ = environment.get("BIND", "").partition(",")
    address = bind.strip(" []")
    why = ""
    for own in _OWN.get(address, [address]):
        try:
            return _ask(path, f"[{own}]:{port}" if ":" in own else f"{own}:{port}", environment)
        except (OSError, HTTPException) as error:
            why = why or f"no answer at port {port}: {error}"
    return 0, why


def _ask(path: str, place: str, environment: Mapping[str, str]) -> tuple[int, str]:
    connection = _connection(place, environment)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(1000).decode("utf-8", "replace").strip()
    finally:
        connection.close()


def _connection(place: str, environment: Mapping[str, str]) -> HTTPConnection:
    """Return a connection to what listens at an address, as the environment says."""
    if not environment.get("TLS_CERT"):
        return HTTPConnection(place, timeout=_TIMEOUT_S)
    return HTTPSConnection(place, timeout=_TIMEOUT_S, context=_own_context(environment))


def _own_context(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context to ask oneself with: the own certificate is shown, and whose it is, is no question."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(environment["TLS_CERT"], environment.get("TLS_KEY") or None)
    return context
