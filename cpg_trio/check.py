"""The command `check`: asks the process that listens on this machine's `PORT` how it is.

Orchestrators run it every few seconds in each container, so it imports nothing but what it needs for that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException

PATHS: Mapping[str, str] = {"ready": "/readyz", "startup": "/health", "live": "/healthz"}
"""The path to ask on, by what is asked."""

_TIMEOUT_S = 2.0  # a process that is well answers in milliseconds
_OK = 200


def check(probe: str, environment: Mapping[str, str] | None = None) -> int:
    """Ask a probe, and print what it says. Return the exit status: 0 if all is well, 1 if not."""
    port = (os.environ if environment is None else environment).get("PORT", "")
    try:
        status, said = _ask(PATHS[probe], port) if port else (0, "PORT does not say whom to ask")
    except (OSError, HTTPException) as error:
        status, said = 0, f"no answer at port {port}: {error}"
    print(said, file=sys.stdout if status == _OK else sys.stderr)
    return 0 if status == _OK else 1


def _ask(path: str, port: str) -> tuple[int, str]:
    connection = HTTPConnection(f"127.0.0.1:{port}", timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(1000).decode("utf-8", "replace").strip()
    finally:
        connection.close()
