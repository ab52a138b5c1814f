"""Files that are read again when they change, without a restart.

They are checked when their content is needed, and at most once a second.
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

_Versions: TypeAlias = tuple[tuple[int, ...], ...]
"""Of each file: device, inode, size and times. A file that replaces it has others."""


class Reloaded(Generic[_T]):
    """The content of files, read again when one of them has changed.

    `read` returns it, and raises OSError or ValueError for content that is not valid. The constructor passes
    such an error on. Later the last valid value stays, the log names the error once, and each check reads the
    files again until they are valid. It does so also if they have not changed, since the process may have
    caused the error: it may have had no file descriptor left, for example.
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
        self._value, self._seen = self._read_whole()
        self._failure = ""
        self._look_at: float | None = None

    @property
    def value(self) -> _T:
        """The content now, or the last valid content."""
        now = self._clock()
        if self._look_at is None or now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._look()
        return self._value

    def _look(self) -> None:
        files = ", ".join(map(str, self._paths))
        try:
            if not self._failure and self._versions() == self._seen:
                return
            value, seen = self._read_whole()
        except (OSError, ValueError) as error:
            if (failure := reason(error)) != self._failure:
                self._failure = failure
                _log.error("%s cannot be used, and what was there before goes on: %s", files, failure)
            return
        if seen != self._seen:
            _log.info("%s: read anew", files)
        else:
            _log.info("%s: as before, and can be used again", files)
        self._value, self._seen, self._failure = value, seen, ""

    def _read_whole(self) -> tuple[_T, _Versions]:
        """Return the content and the versions of the files. Raises: OSError or ValueError."""
        before = self._versions()
        value = self._read()
        if self._versions() != before:
            raise ValueError("it has changed while it was read")
        return value, before

    def _versions(self) -> _Versions:
        return tuple(map(_version, self._paths))


def reason(error: Exception) -> str:
    """Return why a file is not valid, without its name."""
    match error:
        case UnicodeError():
            return "it is not text"
        case OSError(strerror=str(text)):
            return text.lower()
        case _:
            return str(error)


def _version(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
