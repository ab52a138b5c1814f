"""A terminal, as far as `cpg-trio up` uses one: rows, a cursor, and lines that wrap."""

from __future__ import annotations

import re

import attrs

_SEQUENCE = re.compile(r"\x1b(?:\[([?\d;]*)([A-Za-z])|([78]))")
_BEGUN = re.compile(r"\x1b(\[[?\d;]*)?\Z")


@attrs.define
class _Row:
    text: str = ""
    wraps: bool = False
    """Whether its line goes on in the next row."""


class Terminal:
    """Takes what is written, in any pieces, and has what stands on the screen, and what has scrolled.

    One that `reflows` breaks the lines anew when its width changes. Another one cuts its rows.
    """

    def __init__(self, columns: int = 80, height: int = 100, *, reflows: bool = True) -> None:
        self.columns = columns
        self.height = height
        self._top = 0  # the first row of the screen
        self._reflows = reflows
        self._rows = [_Row()]
        self._row = self._column = 0
        self._saved = 0, 0
        self._wraps = True
        self._rest = ""  # a part of a control sequence

    def write(self, text: str) -> None:
        text, at = self._rest + text, 0
        begun = _BEGUN.search(text)
        self._rest = begun[0] if begun else ""
        text = text.removesuffix(self._rest)
        while at < len(text):
            if text[at] == "\x1b":
                found = _SEQUENCE.match(text, at)
                assert found is not None, text[at : at + 20]
                self._obey(found[1] or "", found[2] or found[3])
                at = found.end()
            else:
                self._put(text[at])
                at += 1

    def _obey(self, parameter: str, command: str) -> None:
        if command == "A":
            assert int(parameter) <= self._row
            self._row = max(self._row - int(parameter), self._top)
        elif command == "J":
            assert not parameter
            del self._rows[self._row + 1 :]
            self._rows[self._row] = _Row(self._rows[self._row].text[: self._column])
        elif command == "7":
            self._saved = self._row, self._column
        elif command == "8":
            self._row, self._column = self._saved
        elif (parameter, command) in {("?7", "h"), ("?7", "l")}:
            self._wraps = command == "h"
        else:
            assert command == "m", parameter + command

    def _put(self, character: str) -> None:
        if character == "\n":
            self._next_row()
        elif character == "\r":
            self._column = 0
        else:
            if self._column >= self.columns:
                if self._wraps:
                    self._rows[self._row].wraps = True
                    self._next_row()
                else:
                    self._column = self.columns - 1
            row = self._rows[self._row]
            before = row.text[: self._column].ljust(self._column)
            row.text = before + character + row.text[self._column + 1 :]
            self._column += 1

    def _next_row(self) -> None:
        self._row, self._column = self._row + 1, 0
        if self._row == len(self._rows):
            self._rows.append(_Row())
        if self._row == self._top + self.height:
            self._top += 1
            self._saved = self._saved[0] + 1, self._saved[1]  # a place on the screen, not in the text

    def resize(self, columns: int) -> None:
        """Change the width. The cursor stays at its character, and so does its saved place."""
        self.columns = columns
        if self._reflows:
            places = self._break_anew([(self._row, self._column), self._saved])
            (self._row, self._column), self._saved = places
            self._top = max(0, len(self._rows) - self.height)
            return
        for row in self._rows:
            row.text = row.text[:columns]
        self._column = min(self._column, columns - 1)

    def _break_anew(self, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Break the lines into rows. Return where the places are then."""
        rows, self._rows = self._rows, []
        moved, line, first = dict[tuple[int, int], tuple[int, int]](), "", 0
        offsets = dict[tuple[int, int], int]()  # in the line
        for number, row in enumerate(rows):
            offsets |= {place: len(line) + place[1] for place in places if place[0] == number}
            line += row.text
            if row.wraps:
                continue
            starts = range(0, max(len(line), 1), self.columns)
            self._rows += [_Row(line[at : at + self.columns], at != starts[-1]) for at in starts]
            for place, offset in offsets.items():
                at = min(offset // self.columns, len(starts) - 1)
                moved[place] = first + at, offset - at * self.columns
            offsets, line, first = {}, "", len(self._rows)
        return [moved.get(place, (len(self._rows) - 1, 0)) for place in places]

    @property
    def text(self) -> list[str]:
        """The rows, without empty ones at the end."""
        rows = [row.text.rstrip() for row in self._rows]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    @property
    def lines(self) -> list[str]:
        """The lines, whether or not they wrap."""
        lines, line = list[str](), ""
        for row in self._rows:
            line += row.text
            if not row.wraps:
                lines.append(line.rstrip())
                line = ""
        while lines and not lines[-1]:
            lines.pop()
        return lines
