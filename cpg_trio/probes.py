"""The paths that orchestrators probe: `/health`, `/healthz` and `/readyz`, by any method.

`/healthz` says that the process turns; the other two say whether it is of use. A process that is stopping is
alive and of no use.
"""

from __future__ import annotations

from collections.abc import Callable

from .asgi import Receive, Scope, Send, send_text

PATHS = frozenset({"/health", "/healthz", "/readyz"})


class Probes:
    """The ASGI application on `PATHS`. `ready` is asked at each probe."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one probe."""
        match scope["path"], self._ready():
            case "/healthz", _:
                await send_text(send, 200, "ok")
            case "/readyz", True:
                await send_text(send, 200, "ready")
            case "/readyz", False:
                await send_text(send, 503, "not ready")
            case _, True:
                await send_text(send, 200, "OK")
            case _:
                await send_text(send, 503, "not ready")
