"""The author's own tasks: started once the plugin is registered, cancelled after its calls in flight."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import trio

from cpg_trio._lines import one_line
from cpg_trio._nursery import open_plain_nursery
from cpg_trio.plugin._state import PluginState
from cpg_trio.rpc.given import described

_log = logging.getLogger("cpg_trio.plugin")

TaskFunction: TypeAlias = Callable[[], Awaitable[object]]


def check_task(function: object) -> None:
    """Raise TypeError for what is no async function that can be called without arguments."""
    if inspect.iscoroutine(function):
        name = function.__name__
        function.close()  # or Python would warn that it was never awaited
        raise TypeError(f"task() takes a function, and not a coroutine: {name}, not {name}()")
    if not _is_async(function):
        hint = ": define it with `async def`, and no `yield`" if inspect.isroutine(function) else ""
        raise TypeError(f"task() takes an async function, and not {described(function)}{hint}")
    assert callable(function)  # noqa: S101 - for the type checker
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        name = task_name(function)
        raise TypeError(
            f"task() calls {name} without arguments ({error}): give partial({name}, ...)"
        ) from None


def task_name(function: object) -> str:
    """Return the name of a function; of a `partial`, that of what it calls."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _is_async(function: object) -> bool:
    if not callable(function) or isinstance(function, type):
        return False
    while isinstance(function, partial):
        function = function.func
    plain = inspect.unwrap(function)
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(type(plain).__call__)


async def run_tasks(state: PluginState) -> None:
    """Run the author's tasks from the first registration on, until cancelled. Raises: what they raise."""
    await state.registered.wait()
    if state.stopping.is_set():
        return
    self_id = state.declared.self_id
    async with open_plain_nursery() as nursery:
        for name, function in state.declared.tasks.items():
            nursery.start_soon(_run, self_id, name, function, name=f"{name} of {self_id}")


async def _run(self_id: str, name: str, function: TaskFunction) -> None:
    _log.debug("the task %s of %s has begun", name, self_id)
    try:
        await function()
    except BaseException as error:
        if (failure := _failure(error)) is not None:
            error.add_note(f"in the task {name} of {self_id}")
            why = one_line(repr(failure))
            _log.error("the task %s of %s has failed, which ends the plugin: %s", name, self_id, why)
        raise
    _log.debug("the task %s of %s has ended", name, self_id)


def _failure(error: BaseException) -> BaseException | None:
    """Return what of an error is more than that the task is cancelled; None if nothing is."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return None if isinstance(error, trio.Cancelled) else error
