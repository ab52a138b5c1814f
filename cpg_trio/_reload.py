"""Files whose content is used until other files take their place, without a restart.

May touch: the files that it is given. They are looked at when somebody asks for what they say, and no more
than once a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import trio

_log = logging.getLogger("cpg_trio")
_T = TypeVar("_T")

_LOOK_S = 1.0

_Seen: TypeAlias = tuple[tuple[int, ...] | None, ...]
"""What tells files from those that have taken their place; None for one that cannot be looked at."""


class Reloaded(Generic[_T]):
    """What files say, read anew when one of them has changed.

    `read` gives it. It raises OSError or ValueError for what cannot be used: at first that is the maker's to
    hear of; later what was there before goes on, and the log says so once.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        read: Callable[[], _T],
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._paths = tuple(dict.fromkeys(paths))
        self._read = read
        self._clock = clock
        self._seen = self._look_at_all()
        self._value = read()
        self._look_at: float | None = None

    @property
    def value(self) -> _T:
        """What they say now, or said before if they cannot be used now."""
        now = self._clock()
        if self._look_at is None or now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._look()
        return self._value

    def _look(self) -> None:
        seen = self._look_at_all()
        if seen == self._seen:
            return
        self._seen = seen
        files = ", ".join(map(str, self._paths))
        try:
            self._value = self._read()
        except (OSError, ValueError) as error:
            _log.error("%s cannot be used, and what was there before goes on: %s", files, reason(error))
        else:
            _log.info("%s: read anew", files)

    def _look_at_all(self) -> _Seen:
        return tuple(map(_version, self._paths))


def reason(error: Exception) -> str:
    """Return why a file cannot be used, without its name."""
    match error:
        case UnicodeError():
            return "it is not text"
        case OSError(strerror=str(said)):
            return said.lower()
        case _:
            return str(error)


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
