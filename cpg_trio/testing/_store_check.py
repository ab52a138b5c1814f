"""What the checks of a store are made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TypeAlias

import attrs
import trio

from cpg_trio.store import Commit, ConflictError, Store

MakeStore: TypeAlias = Callable[[], Store]

_MOST_STEPS = 500


@attrs.frozen
class Tested:
    """A store, and the prefix of the keys that a check may use."""

    open_store: MakeStore
    prefix: str

    def key(self, name: str) -> str:
        """Return a key of this check."""
        return self.prefix + name

    async def values(self, store: Store, under: str = "") -> dict[str, bytes]:
        """Return what there is below the prefix, by key without it."""
        found = await store.load(self.prefix + under)
        return {entry.key.removeprefix(self.prefix): entry.value for entry in found.entries}

    async def revision(self, store: Store, name: str) -> int:
        """Return the revision of an entry, 0 for one that is not there."""
        found = (await store.load(self.key(name))).entries
        return next((entry.revision for entry in found if entry.key == self.key(name)), 0)

    async def put(self, store: Store, **values: bytes) -> int:
        """Put entries; return the revision."""
        return await store.commit(Commit(puts={self.key(name): value for name, value in values.items()}))


Check: TypeAlias = Callable[[Tested], Awaitable[None]]


def checks_of(module: ModuleType) -> list[Check]:
    """Return the public functions of a module, which are checks, in their order."""
    names = vars(module).items()
    return [f for name, f in names if getattr(f, "__module__", "") == module.__name__ and name[0] != "_"]


def expect(condition: object, why: str) -> None:
    """Raise AssertionError with the reason unless a condition holds; also where `assert` is left out."""
    if not condition:
        raise AssertionError(why)


@contextmanager
def conflict(why: str) -> Iterator[None]:
    """Expect that the block raises ConflictError; otherwise AssertionError is raised with the reason."""
    try:
        yield
    except ConflictError:
        return
    raise AssertionError(why)


async def at_each_step(act: Callable[[], Awaitable[object]], after: Callable[[], Awaitable[None]]) -> None:
    """Cancel an action before each of its steps, one after the other, until one ends by itself.

    After each `after` is called.
    """
    for step in range(1, _MOST_STEPS):
        with trio.CancelScope() as scope:
            cancelling = _CancelsAt(step, scope)
            trio.lowlevel.add_instrument(cancelling)
            try:
                await act()
            finally:
                trio.lowlevel.remove_instrument(cancelling)
        await after()
        if not scope.cancel_called:
            return
    raise AssertionError("there is no end of its steps")


class _CancelsAt(trio.abc.Instrument):
    """Cancels a scope before the current task's nth step from now on."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self._left = step
        self._scope = scope
        self._task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()
