"""Listeners of events: functions that are called one after the other.

A listener may be an application's code. What it raises is logged here, and affects neither the source of the
event nor the other listeners.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from cpg_trio._throttle import LogThrottle

_log = logging.getLogger("cpg_trio")
_E = TypeVar("_E")


class Listeners(Generic[_E]):
    """The listeners of one kind of event. `events` is what the log calls it."""

    def __init__(self, events: str) -> None:
        self._events = events
        # Replaced at each change, so that a listener may add or remove others while it is called.
        self._listeners: tuple[Callable[[_E], object], ...] = ()
        self._throttle = LogThrottle(clock=time.monotonic)  # also where Trio does not run

    def __bool__(self) -> bool:
        """Whether anybody listens, so that it is worth making an event."""
        return bool(self._listeners)

    def add(self, listener: Callable[[_E], object]) -> None:
        """Call `listener` at each event from now on."""
        self._listeners = (*self._listeners, listener)

    @contextmanager
    def added(self, listener: Callable[[_E], object]) -> Iterator[None]:
        """Call `listener` at each event within the block."""
        self.add(listener)
        try:
            yield
        finally:
            self._listeners = tuple(each for each in self._listeners if each != listener)

    def tell(self, event: _E) -> None:
        """Call each listener. Raises nothing that a listener raises, except what ends the process."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - the fault is the listener's, whatever it raises
                self._log_failure(listener)

    def _log_failure(self, listener: Callable[[_E], object]) -> None:
        # Limited, as a stranger may cause events at any rate.
        if (more := self._throttle.suffix()) is not None:
            _log.exception(
                "a listener of %s failed, and the others go on: %.200r%s", self._events, listener, more
            )
