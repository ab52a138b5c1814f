"""What the log says of a service that is called: who provides it, and why it cannot be called."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from enum import Enum

import trio

_MOST_NAMED = 3  # providers in one line
_AGAIN_S = 300.0  # between two lines that say the same of what has not changed
_SAME_S = 10.0  # between two lines that say the same, of what has changed meanwhile


class Lack(Enum):
    """What it is that keeps a service from being called."""

    NOTHING = 0
    CALLER = 1
    """Whoever calls does not run, or is not registered: nothing can be said of the service yet."""
    HOST = 2
    """The host cannot be reached."""
    PROVIDER = 3
    """Nobody provides it, or nobody that may be called."""


class ReasonLog:
    """Writes at once what a service lacks, and again only if that changes, or from time to time.

    The words about the host may be others at each attempt to reach it. They are no change. `owner` is who
    calls, as `log` names it.
    """

    def __init__(self, log: logging.Logger, owner: str, service_type: str, *, required: bool) -> None:
        self._log = log
        self._owner = owner
        self._service_type = service_type
        self._level = logging.WARNING if required else logging.INFO
        self._is_missing = False
        self._written: tuple[Lack, str] | None = None
        self._written_at = -math.inf
        self._named: Sequence[str] = ()

    def note(self, lack: Lack, reason: str, providers: Sequence[str]) -> None:
        """Note what is lacking now, in words too, and the ids of the providers."""
        if lack is Lack.NOTHING:
            self._note_provided(providers)
        elif lack is not Lack.CALLER:
            self._note_missing(lack, reason)

    def _note_missing(self, lack: Lack, reason: str) -> None:
        now, self._named = trio.current_time(), ()
        said = lack, "" if lack is Lack.HOST else reason
        wait_s = 0.0 if said != self._written else _AGAIN_S if self._is_missing else _SAME_S
        self._is_missing = True
        if now < self._written_at + wait_s:
            return
        self._written, self._written_at = said, now
        self._log.log(self._level, "%s cannot call %s: %s", self._owner, self._service_type, reason)

    def _note_provided(self, providers: Sequence[str]) -> None:
        self._is_missing = False
        if providers == self._named:
            return
        self._named = providers
        more = len(providers) - _MOST_NAMED
        names = ", ".join(providers[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        self._log.info("%s: %s is provided by %s", self._owner, self._service_type, names)
