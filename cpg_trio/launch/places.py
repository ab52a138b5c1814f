"""Where something is written in a file, and what is wrong there: all of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import attrs

from cpg_trio._lines import one_line
from cpg_trio._toml_lines import Path as KeyPath
from cpg_trio.errors import CpgTrioError

_MOST_OF_PROBLEM = 1000  # characters


class PlatformFileError(CpgTrioError, ValueError):
    """A platform file cannot be used. Its author is at fault; nothing has been started.

    The message has one line for each problem: where it is, what is wrong, and what to do.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@attrs.define
class Report:
    """What is wrong with a file, and what may be."""

    file: str
    """Its name, as messages have it."""
    lines: Mapping[KeyPath, int]
    """Of its tables, keys and values."""
    problems: dict[str, int] = attrs.field(factory=dict)
    """Each with its line."""
    warnings: dict[str, int] = attrs.field(factory=dict)

    def source(self, path: KeyPath) -> str:
        """Return where a key is: `platform.toml:12`."""
        return f"{self.file}:{self.line(path)}"

    def line(self, path: KeyPath) -> int:
        """Return the line of a key; that of its table if it is not there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def check(self) -> None:
        """Raise PlatformFileError if there is a problem: all of them, in the order of the file."""
        if self.problems:
            raise PlatformFileError(_in_order(self.problems))

    def all_warnings(self) -> list[str]:
        """Return the warnings in the order of the file."""
        return _in_order(self.warnings)


def _in_order(lines: Mapping[str, int]) -> list[str]:
    return sorted(lines, key=lambda text: lines[text])


@attrs.frozen
class Place:
    """A place in a file: a key, or where it could be."""

    report: Report
    path: KeyPath = ()

    def at(self, *keys: str | int) -> Place:
        """Return a place below this one."""
        return Place(self.report, (*self.path, *keys))

    @property
    def source(self) -> str:
        """Where it is: `platform.toml:12`."""
        return self.report.source(self.path)

    def problem(self, text: str) -> None:
        """Note what is wrong here, and what to do: `must be a text, not 3`."""
        self.report.problems.setdefault(self._said(text), self.report.line(self.path))

    def warning(self, text: str) -> None:
        """Note what may be wrong here."""
        self.report.warnings.setdefault(self._said(text), self.report.line(self.path))

    def unknown(self, known: Iterable[str], what: str = "is not a key here") -> None:
        """Note that the last key is not one of those that are known, and which may be meant."""
        *_, name = map(str, self.path)
        self.problem(f"{what}{nearest(name, known)}")

    def unknown_value(self, value: str, known: Iterable[str], what: str) -> None:
        """Note that a value is not one of those that are known, and which may be meant."""
        self.problem(f"{value!r:.100} is not {what}{nearest(value, known)}")

    def _said(self, text: str) -> str:
        where = f"{_dotted(self.path)}: " if self.path else ""
        return one_line(f"{self.source}: {where}{text}", _MOST_OF_PROBLEM)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return which of the known names may be meant, to end a sentence with; else all, if they are few."""
    names = sorted(known)
    by_lower = {each.lower().replace("-", "_"): each for each in names}
    near = get_close_matches(name.lower().replace("-", "_"), by_lower, n=1)
    return f"; {by_lower[near[0]]} is: is that meant?" if near else ""


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
