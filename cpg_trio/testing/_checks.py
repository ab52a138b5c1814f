"""What checks of all kinds are made of: how they are found, run, and told of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import ModuleType
from typing import TypeVar

import trio

Tested = TypeVar("Tested")

_MOST_STEPS = 500


def checks_of(module: ModuleType, _: type[Tested]) -> Sequence[Callable[[Tested], Awaitable[None]]]:
    """Return the public functions of a module, which check something of that type, in their order."""
    names = vars(module).items()
    return [f for name, f in names if getattr(f, "__module__", "") == module.__name__ and name[0] != "_"]


async def run_check(check: Callable[[Tested], Awaitable[None]], tested: Tested, timeout_s: float) -> None:
    """Run one check. Raises: AssertionError, which says which check has failed, and why."""
    name = check.__name__.replace("_", " ")
    try:
        with trio.fail_after(timeout_s):
            await check(tested)
    except trio.TooSlowError as error:
        raise AssertionError(f"{name}: no end of it within {timeout_s:g} s") from error
    except Exception as error:
        reason = str(error) if isinstance(error, AssertionError) else repr(error)
        raise AssertionError(f"{name}: {reason}") from error


def expect(condition: object, why: str) -> None:
    """Raise AssertionError with the reason unless a condition holds; also where `assert` is left out."""
    if not condition:
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
