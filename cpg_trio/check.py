"""The command `check`: the health check of the process that listens on `PORT` of this machine.

Orchestrators run it every few seconds in each container, so it has to start fast and imports little.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from cpg_trio.variables import misspelt

PATHS: Mapping[str, str] = {"ready": "/readyz", "startup": "/health", "live": "/healthz"}
"""The path of each probe."""

# A process that listens on all addresses is reached by loopback. One of the two families may be missing.
_LOOPBACK = "127.0.0.1", "::1"
_OWN: Mapping[str, Sequence[str]] = {"": _LOOPBACK, "0.0.0.0": _LOOPBACK[:1], "::": _LOOPBACK}  # noqa: S104
_TIMEOUT_S = 2.0  # a healthy process answers in milliseconds
_OK = 200


def check(probe: str, environment: Mapping[str, str] | None = None) -> int:
    """Make a probe and print its answer. Return the exit status: 0 if the process is healthy, otherwise 1."""
    environment = os.environ if environment is None else environment
    port = environment.get("PORT", "")
    missing = 0, "PORT is not set: it names the port to check"
    status, answer = _ask_all(PATHS[probe], port, environment) if port else missing
    healthy = status == _OK
    lines = [answer] if healthy else [answer, *misspelt(environment)]
    print(*lines, sep="\n", file=sys.stdout if healthy else sys.stderr)
    return 0 if healthy else 1


def _ask_all(path: str, port: str, environment: Mapping[str, str]) -> tuple[int, str]:
    """Probe the first address of `BIND`; return status and answer, or 0 and the error."""
    bind, _, _ = environment.get("BIND", "").partition(",")
    address = bind.strip(" []")
    error_text = ""
    for own in _OWN.get(address, [address]):
        try:
            return _ask(path, f"[{own}]:{port}" if ":" in own else f"{own}:{port}", environment)
        except (OSError, HTTPException) as error:
            error_text = error_text or f"no answer at port {port}: {error}"
    return 0, error_text


def _ask(path: str, place: str, environment: Mapping[str, str]) -> tuple[int, str]:
    connection = _connection(place, environment)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(1000).decode("utf-8", "replace").strip()
    finally:
        connection.close()


def _connection(place: str, environment: Mapping[str, str]) -> HTTPConnection:
    """Return a connection to an address, with TLS if `TLS_CERT` is set."""
    if not environment.get("TLS_CERT"):
        return HTTPConnection(place, timeout=_TIMEOUT_S)
    return HTTPSConnection(place, timeout=_TIMEOUT_S, context=_own_context(environment))


def _own_context(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that shows the own certificate and does not verify the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(environment["TLS_CERT"], environment.get("TLS_KEY") or None)
    return context
