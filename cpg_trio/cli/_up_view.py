"""What `cpg-trio up` shows of a platform, on a terminal or elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import trio

from cpg_trio._human import span
from cpg_trio.host.supervision import Phase, Replica


class UpView(Protocol):
    """Shows what happens to a platform. All but `run`, `make_room` and `end` return at once."""

    def listening(self, urls: Sequence[str]) -> None:
        """Show that the host listens."""
        ...

    def changed(self, replica: Replica) -> None:
        """Show what a replica does now."""
        ...

    def stopping(self) -> None:
        """Show that the platform is being stopped."""
        ...

    def line(self, text: str) -> None:
        """Show a line that the program has printed. Any thread may call this."""
        ...

    def make_room(self) -> None:
        """Have nothing on the terminal where a debugger is going to write."""
        ...

    def end(self) -> None:
        """Show what is left when `run` has ended, if it has run at all."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Show it, until it is cancelled."""
        ...


def doing(replica: Replica, now: float) -> str:
    """Return what a replica is doing, beginning with the word for it; `now` is in seconds since 1970."""
    word, why, where = replica.phase.value, replica.why, replica.where
    if replica.phase is Phase.WAITING and why.startswith("waits "):
        return f"{word} {why.removeprefix('waits ')}"
    if replica.phase is Phase.BACKING_OFF:
        left_s = max(0.0, (replica.again_at or 0.0) - now)
        times = f" ({_ordinal(replica.failures)} time)" if replica.failures > 1 else ""
        word = f"crash loop, {word}" if replica.looping else word
        word = f"{word}, again in {span(math.ceil(left_s))}{times}"
    elif replica.phase in {Phase.STARTING, Phase.READY, Phase.STOPPING} and where:
        word = f"{word}, {where}"
    return ": ".join(filter(None, (word, why)))


def _ordinal(number: int) -> str:
    last, teens = number % 10, 10 < number % 100 < 14  # noqa: PLR2004 - 11th, 12th, 13th
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th')}"
