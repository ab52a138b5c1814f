"""An httpx transport with tasks of its own."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx
import trio

from cpg_trio._nursery import open_plain_nursery


class NurseryTransport(httpx.AsyncBaseTransport):
    """A transport whose requests run as tasks of `_nursery`, which is open within its client's block."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._opened = open_plain_nursery()

    async def __aenter__(self) -> Self:
        """Open the nursery."""
        self._nursery = await self._opened.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Cancel what still runs, and wait for it."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            self._nursery = None
            await self._opened.__aexit__(exc_type, exc, traceback)
