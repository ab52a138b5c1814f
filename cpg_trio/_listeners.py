"""Those who are told of changes and decisions: called one after the other, and each on its own account.

A listener is somebody else's code. What it raises is logged here, and harms neither who tells nor the other
listeners.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, ParamSpec

from cpg_trio._throttle import LogThrottle

_log = logging.getLogger("cpg_trio.host")
_P = ParamSpec("_P")


class Listeners(Generic[_P]):
    """Who listens to one kind of news. `news` is what the log calls it."""

    def __init__(self, news: str) -> None:
        self._news = news
        self._listeners: list[Callable[_P, object]] = []
        self._throttle = LogThrottle(clock=time.monotonic)  # also where Trio does not run

    def add(self, listener: Callable[_P, object]) -> None:
        """Call `listener` with all news from now on."""
        self._listeners.append(listener)

    @contextmanager
    def added(self, listener: Callable[_P, object]) -> Iterator[None]:
        """Call `listener` with the news within the block."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def tell(self, *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Call each listener. Raises nothing that a listener raises, but for what ends the process."""
        for listener in tuple(self._listeners):
            try:
                listener(*args, **kwargs)
            except Exception:  # noqa: BLE001 - whatever it is, it is the listener's
                self._note(listener)

    def _note(self, listener: Callable[_P, object]) -> None:
        # What a listener is told of may be anybody's to cause.
        if (more := self._throttle.suffix()) is not None:
            _log.exception(
                "a listener of %s failed, and the others go on: %.200r%s", self._news, listener, more
            )
