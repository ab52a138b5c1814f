"""Files that are read again when they change, without a restart.

They are checked when their content is needed, and at most once a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

import trio

from cpg_trio._listeners import Listeners

_log = logging.getLogger("cpg_trio")
_T = TypeVar("_T")

_LOOK_S = 1.0

_Versions: TypeAlias = tuple[tuple[int, ...], ...]
"""Of each file: device, inode, size and times. A file that replaces it has others."""


class ReloadedFiles(Protocol):
    """Files that are read again when they change, whatever they are for."""

    paths: tuple[Path, ...]
    failure: str
    """Why they cannot be used, so that what was there before goes on; empty if they can."""
    looks: Listeners[str]
    """Told in a sentence of each change."""

    def look(self) -> None:
        """Look now whether they have changed, and read them if so."""


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
        self.paths = tuple(dict.fromkeys(paths))
        """The files."""
        self._read = read
        self._clock = clock
        self._value, self._seen = self._read_whole()
        self.failure: str = ""
        """Why the files cannot be used, so that what was there before goes on; empty if they can."""
        self.looks: Listeners[str] = Listeners[str]("files")
        """Told in a sentence of each change."""
        self._look_at: float | None = None

    @property
    def value(self) -> _T:
        """The content now, or the last valid content."""
        now = self._clock()
        if self._look_at is None or now >= self._look_at:
            self.look()
        return self._value

    def look(self) -> None:
        """Look now whether the files have changed. Read them if so, or if they could not be used before."""
        self._look_at = self._clock() + _LOOK_S
        try:
            if not self.failure and self._versions() == self._seen:
                return
            value, seen = self._read_whole()
        except (OSError, ValueError) as error:
            if (failure := reason(error)) != self.failure:
                self.failure = failure
                self._tell(logging.ERROR, f"cannot be used, and what was there before goes on: {failure}")
            return
        is_same = seen == self._seen
        self._value, self._seen, self.failure = value, seen, ""
        self._tell(logging.INFO, "can be used again, and is as before" if is_same else "was read anew")

    def _tell(self, level: int, what: str) -> None:
        text = f"{', '.join(map(str, self.paths))} {what}"
        _log.log(level, "%s", text)
        self.looks.tell(text)

    def _read_whole(self) -> tuple[_T, _Versions]:
        """Return the content and the versions of the files. Raises: OSError or ValueError."""
        before = self._versions()
        value = self._read()
        if self._versions() != before:
            raise ValueError("it has changed while it was read")
        return value, before

    def _versions(self) -> _Versions:
        return tuple(map(_version, self.paths))


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
