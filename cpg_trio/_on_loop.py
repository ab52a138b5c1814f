"""Calls of any thread, which run in the thread of the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVarTuple

import trio

Args = TypeVarTuple("Args")


class OnLoop(Generic[*Args]):
    """Calls a function in the loop of whoever makes this: at once there, and soon from another thread."""

    def __init__(self, function: Callable[[*Args], object]) -> None:
        self._function = function
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()

    def __call__(self, *args: *Args) -> None:
        """Call the function."""
        if threading.get_ident() != self._thread:
            try:
                self._token.run_sync_soon(self._function, *args)
            except trio.RunFinishedError:  # no loop is disturbed any more
                pass
            else:
                return
        self._function(*args)
