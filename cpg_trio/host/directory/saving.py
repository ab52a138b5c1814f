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
class Batch:
    """Changes that are written together."""

    begun: trio.Event = attrs.field(factory=trio.Event)
    undos: list[tuple[str, Undo]] = attrs.field(factory=list)
    """With the plugins that they are of."""
    done: trio.Event = attrs.field(factory=trio.Event)
    refused: dict[str, Exception] = attrs.field(factory=dict)
    """Why the changes of a plugin are not possible."""
    error: Exception | None = None
    """Why none of them is."""

    def error_of(self, about: str) -> Exception | None:
        """Return why the changes of a plugin have been undone; None if they have not."""
        return self.error or self.refused.get(about)


def undo_all(batches: Iterable[Batch], error: Exception) -> None:
    """Undo all changes of some batches, the last one first."""
    batches = list(batches)
    for batch in reversed(batches):
        for _, undo in reversed(batch.undos):
            undo()
        batch.undos.clear()
        batch.error = error


def undo_of(about: str, batches: Iterable[Batch], error: Exception) -> None:
    """Undo the changes of one plugin, the last one first."""
    for batch in reversed(list(batches)):
        for of, undo in reversed(batch.undos):
            if of == about:
                undo()
        batch.undos = [each for each in batch.undos if each[0] != about]
        batch.refused[about] = error
