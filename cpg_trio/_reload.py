"""A file whose content is used until another takes its place, without a restart.

May touch: the file that it is given. It is looked at when somebody asks for it, and no more than once a
second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import trio

_log = logging.getLogger("cpg_trio")
_T = TypeVar("_T")

_LOOK_S = 1.0


class Reloaded(Generic[_T]):
    """What a file says, read anew when the file has changed.

    `read` gives it from the path. It raises OSError or ValueError for what cannot be used: at first that is
    the maker's to hear of; later what was there before goes on, and the log says so once.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[Path], _T],
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._path = path
        self._read = read
        self._clock = clock
        self._seen = _version(path)
        self._value = read(path)
        self._look_at: float | None = None

    @property
    def value(self) -> _T:
        """What it says now, or said before if it cannot be used now."""
        now = self._clock()
        if self._look_at is None or now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._look()
        return self._value

    def _look(self) -> None:
        seen = _version(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._value = self._read(self._path)
        except (OSError, ValueError) as error:
            _log.error("%s cannot be used, and what was there before goes on: %s", self._path, error)
        else:
            _log.info("%s has been read anew", self._path)


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return what tells one content of a file from another; None if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
