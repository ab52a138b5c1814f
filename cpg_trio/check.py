"""The command `check`: asks the process that listens on this machine's `PORT` how it is.

Orchestrators run it every few seconds in each container, so it imports nothing but what it needs for that.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection

PATHS: Mapping[str, str] = {"ready": "/readyz", "startup": "/health", "live": "/healthz"}
"""The path to ask on, by what is asked."""

# Who listens on all addresses is asked at this machine's own.
_OWN: Mapping[str, str] = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_TIMEOUT_S = 2.0  # a process that is well answers in milliseconds
_OK = 200


def check(probe: str, environment: Mapping[str, str] | None = None) -> int:
    """Ask a probe, and print what it says. Return the exit status: 0 if all is well, 1 if not."""
    environment = os.environ if environment is None else environment
    port = environment.get("PORT", "")
    try:
        status, said = _ask(PATHS[probe], port, environment) if port else (0, "PORT does not say whom to ask")
    except (OSError, HTTPException) as error:
        status, said = 0, f"no answer at port {port}: {error}"
    print(said, file=sys.stdout if status == _OK else sys.stderr)
    return 0 if status == _OK else 1


def _ask(path: str, port: str, environment: Mapping[str, str]) -> tuple[int, str]:
    connection = _connection(port, environment)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(1000).decode("utf-8", "replace").strip()
    finally:
        connection.close()


def _connection(port: str, environment: Mapping[str, str]) -> HTTPConnection:
    """Return a connection to what listens as the environment says."""
    address = environment.get("BIND", "").strip("[]")
    address = _OWN.get(address, address)
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if not environment.get("TLS_CERT"):
        return HTTPConnection(place, timeout=_TIMEOUT_S)
    return HTTPSConnection(place, timeout=_TIMEOUT_S, context=_own_context(environment))


def _own_context(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context to ask oneself with: the own certificate is shown, and whose it is, is no question."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(environment["TLS_CERT"], environment.get("TLS_KEY") or None)
    return context
