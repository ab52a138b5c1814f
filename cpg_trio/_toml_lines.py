"""In which line of a TOML file each table, key and value stands, which `tomllib` does not say.

It reads only texts that `tomllib` has read, and so needs to know no more of TOML than where keys, strings,
arrays and inline tables begin and end.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Keys, and indexes of arrays, from the top."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""(?: [A-Za-z0-9_-]+ | "(?:[^"\\\n]|\\.)*" | '[^'\n]*' | [ \t]*\.[ \t]* )+""", re.VERBOSE)
_END_OF_HEADER = re.compile(r"[ \t]*\]\]?")
_SCALAR = re.compile(
    r""""{3} (?:[^\\]|\\.)*? "{3,5} (?!") | '{3} .*? '{3,5} (?!')
      | "(?:[^"\\\n]|\\.)*" | '[^'\n]*' | [^\s,\]}\#"'](?:[^,\]}\#\n]*[^\s,\]}\#])?""",
    re.VERBOSE | re.DOTALL,
)


def lines_of(text: str) -> Mapping[Path, int]:
    """Return the line, from 1, in which each table, key and value of a valid TOML text begins."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[Path, int] = {}
        self._lengths: dict[Path, int] = defaultdict(int)  # of arrays of tables

    def scan(self) -> Mapping[Path, int]:
        table: Path = ()
        while self._next():
            if self._skip("["):
                table = self._header(is_array=self._skip("["))
            else:
                self._pair(table)
        return self._lines

    def _next(self) -> str:
        """Return the next character that is neither blank nor in a comment; empty at the end."""
        self._match(_BLANK)
        return self._text[self._at : self._at + 1]

    def _skip(self, character: str) -> bool:
        if self._next() != character:
            return False
        self._at += 1
        return True

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"this is not TOML, at character {self._at}")
        self._at = found.end()
        return found[0]

    def _header(self, *, is_array: bool) -> Path:
        line = self._line()
        *parents, last = self._key()
        path: Path = ()
        for part in parents:
            path = self._newest((*path, part))
            self._lines.setdefault(path, line)
        path = (*path, last)
        self._lines.setdefault(path, line)
        if is_array:
            self._lengths[path] += 1
            path = self._newest(path)
        self._lines[path] = line
        self._match(_END_OF_HEADER)
        return path

    def _newest(self, path: Path) -> Path:
        """Return the newest table of an array of tables; another path as it is."""
        return (*path, self._lengths[path] - 1) if path in self._lengths else path

    def _pair(self, table: Path) -> None:
        path, line = table, self._line()
        for part in self._key():
            path = (*path, part)
            self._lines.setdefault(path, line)
        self._skip("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._skip("["):
            index = 0
            while not self._skip("]"):
                self._next()
                self._lines[*path, index] = self._line()
                self._value((*path, index))
                self._skip(",")
                index += 1
        elif self._skip("{"):
            while not self._skip("}"):
                self._next()
                self._pair(path)
                self._skip(",")
        else:
            self._next()
            self._match(_SCALAR)

    def _key(self) -> list[str]:
        """Return the parts of a dotted key."""
        self._next()
        found: object = tomllib.loads(f"{self._match(_KEY)} = 0")
        parts = []
        while isinstance(found, dict):
            [(part, found)] = found.items()
            parts.append(part)
        return parts

    def _line(self) -> int:
        return bisect(self._ends, self._at - 1) + 1
