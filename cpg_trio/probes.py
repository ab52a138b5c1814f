"""The paths that orchestrators probe: `/health`, `/healthz` and `/readyz`, by any method.

    /healthz   liveness    200 whenever the loop runs
    /health    startup     200 once the process has been able to work
    /readyz    readiness   200 while it can work; 503 once it is stopping

A 503 says why. `PORT` answers these paths; with `PROBE_PORT`, so does a port that answers nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from cpg_trio._side_port import side_port
from cpg_trio.asgi import App, Receive, Scope, Send, no_websocket, send_text
from cpg_trio.http import ServeConfig

PATHS = frozenset({"/health", "/healthz", "/readyz"})

WhyNot: TypeAlias = Callable[[], str]
"""Returns the reason why a condition does not hold; an empty string if it holds."""


class Probes:
    """The ASGI application on `PATHS`. Each probe calls `not_ready` or `not_started`.

    `ready` returns the text of a readiness probe that succeeds.
    """

    def __init__(
        self,
        not_ready: WhyNot,
        not_started: WhyNot | None = None,
        ready: Callable[[], str] = lambda: "ready",
    ) -> None:
        self._not_ready = not_ready
        self._not_started = not_started or not_ready
        self._ready = ready

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one probe."""
        match scope["path"]:
            case "/healthz":
                await send_text(send, 200, "ok")
            case "/readyz":
                await _answer(send, self._ready(), self._not_ready())
            case _:
                await _answer(send, "OK", self._not_started())


@asynccontextmanager
async def probe_port(
    probes: Probes, bind: str | Sequence[str] | None, config: ServeConfig
) -> AsyncIterator[None]:
    """Answer probes at `bind`, without TLS, until the end of the block; do nothing for None.

    Raises: BindError.
    """
    if bind is None:
        yield
        return
    async with side_port(_alone(probes), bind, config, "probes are answered"):
        yield


def _alone(probes: Probes) -> App:
    """Return an application that answers probes, and 404 to everything else."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await no_websocket(scope, receive, send)
        elif scope["path"] in PATHS:
            await probes(scope, receive, send)
        else:
            await send_text(send, 404, "only probes are answered here\n")

    return dispatch


async def _answer(send: Send, good: str, why_not: str) -> None:
    if why_not:
        await send_text(send, 503, f"not ready: {why_not}")
    else:
        await send_text(send, 200, good)
