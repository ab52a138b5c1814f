"""The paths that orchestrators probe: `/health`, `/healthz` and `/readyz`, by any method.

    /healthz   liveness    the loop turns: it answers
    /health    startup     what the process needs before it can be of use has been there
    /readyz    readiness   it is of use now

A process that is stopping is alive and of no use. A 503 says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from .asgi import Receive, Scope, Send, send_text

PATHS = frozenset({"/health", "/healthz", "/readyz"})

WhyNot: TypeAlias = Callable[[], str]
"""Returns why something does not hold, an empty string if it does."""


class Probes:
    """The ASGI application on `PATHS`. `not_ready` and `not_started` are asked at each probe."""

    def __init__(self, not_ready: WhyNot, not_started: WhyNot | None = None) -> None:
        self._not_ready = not_ready
        self._not_started = not_started or not_ready

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one probe."""
        match scope["path"]:
            case "/healthz":
                await send_text(send, 200, "ok")
            case "/readyz":
                await _answer(send, "ready", self._not_ready())
            case _:
                await _answer(send, "OK", self._not_started())


async def _answer(send: Send, good: str, why_not: str) -> None:
    if why_not:
        await send_text(send, 503, f"not ready: {why_not}")
    else:
        await send_text(send, 200, good)
