"""The files of a host that are read again when they change: the policy, the secrets and the certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import attrs

from cpg_trio._reload import ReloadedFiles


@attrs.frozen
class FileState:
    """One of the files, or several that belong together."""

    name: str
    """The variable that names it."""
    path: str
    error: str
    """Why it cannot be used, so that what was there before goes on; empty if it can."""


@attrs.frozen
class Files:
    """The files by the variables that name them. A function returns None where there is no file."""

    _sources: Mapping[str, Callable[[], ReloadedFiles | None]]

    def __iter__(self) -> Iterator[FileState]:
        for name, files in self._there():
            yield FileState(name, ", ".join(map(str, files.paths)), files.failure)

    def look(self) -> None:
        """Look now whether they have changed, and read them if so."""
        for _, files in self._there():
            files.look()

    @contextmanager
    def told(self, listener: Callable[[str], object]) -> Iterator[None]:
        """Within the block, tell `listener` in a sentence of each change."""
        with ExitStack() as stack:
            for _, files in self._there():
                stack.enter_context(files.looks.added(listener))
            yield

    def _there(self) -> Iterator[tuple[str, ReloadedFiles]]:
        for name, source in self._sources.items():
            if (files := source()) is not None:
                yield name, files
