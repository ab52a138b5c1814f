"""Plugins that somebody else runs: compose, Kubernetes, systemd. The host expects and watches them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from cpg_trio.host.supervision import Assignment, Ended


@attrs.frozen
class ExternalLauncher:
    """Starts nothing: a plugin comes by itself, or, with a `url`, waits there for a managing host."""

    url: str = ""
    kind: str = attrs.field(default="external", init=False)

    @asynccontextmanager
    async def launch(self, assignment: Assignment, /) -> AsyncIterator[External]:
        """Expect a plugin within the block."""
        del assignment
        await trio.lowlevel.checkpoint()
        yield External(self.url)


@attrs.frozen(eq=False)
class External:
    """An expected plugin. It never ends by itself: whether it is there, its lease says."""

    url: str
    pid: int | None = None
    _stopped: trio.Event = attrs.field(factory=trio.Event, init=False)

    @property
    def where(self) -> str:
        """That somebody else runs it."""
        return f"at {self.url}" if self.url else "elsewhere"

    async def wait(self) -> Ended:
        """Wait until it is not expected any more."""
        await self._stopped.wait()
        return Ended(failed=False, how="not expected any more")

    def stop(self) -> None:
        """Expect it no more. Whoever runs it stops it."""
        self._stopped.set()
