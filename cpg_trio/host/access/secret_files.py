"""Reads a file of secrets, one on each line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_OTHERS = 0o007


def secret_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers, except empty lines and those that begin with `#`.

    Raises: OSError; ValueError for a file that is not text, or that every user may read or write.
    """
    with path.open(encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_mode & _OTHERS:
            raise ValueError("everybody may read it or write to it: take that away (chmod o= …)")
        text = file.read()
    for number, line in enumerate(text.splitlines(), 1):
        if (content := line.strip()) and not content.startswith("#"):
            yield number, content
