"""Who waits for changes to be written, and what undoes those that are not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import attrs
import trio

Undo: TypeAlias = Callable[[], object]
Saved: TypeAlias = Callable[[str, Undo], Awaitable[None]]
"""Waits until the change that has just been made of a plugin is in the store. If it cannot be written, it is
undone with the function that is given. Raises, and then nothing has changed: ConnectError `unavailable`;
RefusedError `permission_denied` for a service that plugins of another name provide at another host."""


@attrs.define(eq=False)
class Waiter:
    """Who waits for a change of a plugin to be written."""

    runtime_id: str
    undo: Undo
    error: Exception | None = None
    """Why the change has been undone; None if it has not."""


@attrs.define(eq=False)
class Batch:
    """Changes that are written together."""

    begun: trio.Event = attrs.field(factory=trio.Event)
    waiters: list[Waiter] = attrs.field(factory=list)
    """Those whose changes have not been undone."""
    done: trio.Event = attrs.field(factory=trio.Event)


def undo(batches: Iterable[Batch], error: Exception, runtime_id: str | None = None) -> None:
    """Undo the changes of some batches, or of one plugin in them, the last one first."""
    for batch in reversed(list(batches)):
        for waiter in reversed(batch.waiters):
            if runtime_id is None or waiter.runtime_id == runtime_id:
                waiter.error = error
                waiter.undo()
        batch.waiters = [waiter for waiter in batch.waiters if waiter.error is None]
